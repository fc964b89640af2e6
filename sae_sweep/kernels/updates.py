"""Changes in place, in the form that suits the device: the CPU's there, the reference elsewhere."""

from jaxtyping import Float
from torch import Tensor

from sae_sweep.kernels import cpu, reference
from sae_sweep.kernels.reference import Adam, Moments


def adam_step(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    moments: Moments,
    step: int,
    settings: Adam,
) -> None:
    """Update parameter and moments in place; see `reference.adam_step`."""
    form = cpu if parameter.device.type == "cpu" else reference
    form.adam_step(parameter, gradient, moments, step, settings)


def remove_parallel(gradient: Float[Tensor, "m d"], rows: Float[Tensor, "m d"]) -> None:
    """Take away, in place, the part along unit-norm rows; see `reference.remove_parallel`."""
    form = cpu if rows.device.type == "cpu" else reference
    form.remove_parallel(gradient, rows)
