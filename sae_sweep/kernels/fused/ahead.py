"""The next steps of every member, staged on the device; a step's first kernel reads its turn."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from sae_sweep.kernels.fused.table import Settings

NUMBERS = (
    *("step_size", "correction", "beta1", "beta2"),
    *("complement1", "complement2", "l1_weight", "aux_coeff"),
    *("usage_coeff", "usage_target", "often_coeff", "often_limit"),
    *("threshold_step_size", "bandwidth", "lift", "l0_weight", "l0_goal"),
    *("l0_target", "l0_gain", "l0_fast", "l0_slow", "l0_bound"),
)
"""Per-step values, by name: the fields of `Settings` that do, and the controller's
(`counters`): latents to hold, 0 without; gain of its integral; weights of the means; bound."""

WHOLE = ("dead_window", "first", "half", "n_latents", "done", "seed", "begins")
"""What holds for all steps staged, int64: by slot, and of `seed` and `begins` by stream."""

SMALL = ("form", "k", "batch_k", "room", "unit_rows", "stream")
"""The same, int32, in pairs."""

CONSTANTS = {
    "FIELDS": len(NUMBERS),
    "L1_WEIGHT": NUMBERS.index("l1_weight"),
    "L0_WEIGHT": NUMBERS.index("l0_weight"),
    "TARGET": NUMBERS.index("l0_target"),
    "BLOCK": 32,
}
"""Of `begin_kernel`; a block is of members."""


class Ahead(NamedTuple):
    """The next steps, at fixed addresses, so that a recorded graph finds them."""

    at: Int64[Tensor, "1"]
    """The step being made; -1 before the first."""
    numbers: Float32[Tensor, "steps fields width"]
    """`NUMBERS` of each step."""
    now: Float32[Tensor, "fields width"]
    """Those of the step being made."""
    whole: Int64[Tensor, "fields width"]
    """`WHOLE`, then `SMALL` in pairs: one copy brings all of them."""
    order: Int32[Tensor, "steps streams batch"]
    """Rows of each stream's batches."""

    @property
    def _views(self) -> dict[str, Tensor]:
        small = self.whole[len(WHOLE) :].view(torch.int32).view(len(SMALL), -1)
        return {
            **dict(zip(WHOLE, self.whole, strict=False)),
            **dict(zip(SMALL, small, strict=True)),
            **dict(zip(NUMBERS, self.now, strict=True)),
        }

    def views(self, members: int) -> dict[str, Tensor]:
        """All staged values of a member, by name."""
        return {name: tensor[:members] for name, tensor in self._views.items()}

    def settings(self, members: int) -> Settings:
        """Settings of each member, for the kernels."""
        views = self.views(members)
        return Settings(**{name: views[name] for name in Settings._fields})


def empty_ahead(steps: int, members: int, batch: int, device: torch.device) -> Ahead:
    """Make room for the next `steps` steps of so many members, each with its own stream."""
    width = -(-members // 4) * 4  # every field begins at a multiple of 16 bytes, however many
    whole = len(WHOLE) + len(SMALL) // 2
    return Ahead(
        at=torch.full((1,), -1, dtype=torch.int64, device=device),
        numbers=torch.zeros(steps, len(NUMBERS), width, device=device),
        now=torch.zeros(len(NUMBERS), width, device=device),
        whole=torch.zeros(whole, width, dtype=torch.int64, device=device),
        order=torch.zeros(steps, width, batch, dtype=torch.int32, device=device),
    )


def stage(
    ahead: Ahead,
    told: Mapping[str, Mapping[int, int]],
    numbers: Mapping[int, np.ndarray],
) -> None:
    """Stage the next steps on the device, without host synchronisation.

    Args:
        ahead: written; `order` is the caller's.
        told: values of `WHOLE` and `SMALL`, by name and slot (or stream); 0 where left out.
        numbers: `NUMBERS` of the next steps, [steps, fields], by slot; 0 where left out.
    """
    pinned = ahead.at.device.type == "cuda"
    whole = torch.zeros(ahead.whole.shape, dtype=torch.int64, pin_memory=pinned)
    here = ahead._replace(whole=whole)._views
    for name, values in told.items():
        into = here[name].numpy()
        for place, value in values.items():
            into[place] = value
    count = max((len(each) for each in numbers.values()), default=0)
    rows = torch.zeros(count, *ahead.now.shape, pin_memory=pinned)
    for slot, each in numbers.items():
        rows.numpy()[:, :, slot] = each
    ahead.whole.copy_(whole, non_blocking=True)
    ahead.numbers[:count].copy_(rows, non_blocking=True)
    ahead.at.fill_(-1)


@triton.jit(do_not_specialize=["members", "width"])
def begin_kernel(
    at, numbers, now, control, aux, members, width,
    FIELDS: tl.constexpr, L1_WEIGHT: tl.constexpr, L0_WEIGHT: tl.constexpr, TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Go on to the next step: its numbers, the penalty's weight as the controller has moved it."""
    step = tl.load(at) + 1
    tl.debug_barrier()  # all threads have read it
    tl.store(at, step)
    source = numbers + step * FIELDS * width
    for first in range(0, members, BLOCK):
        member = first + tl.arange(0, BLOCK)
        inside = member < members
        moved = tl.load(control + member * 5 + 3, mask=inside, other=0.0)
        target = tl.load(source + TARGET * width + member, mask=inside, other=0.0)
        for field in tl.static_range(FIELDS):
            value = tl.load(source + field * width + member, mask=inside, other=0.0)
            if (field == L1_WEIGHT) | (field == L0_WEIGHT):
                factor = tl.exp(moved).to(tl.float32)
                value = tl.where(target > 0, value * factor, value)
            tl.store(now + field * width + member, value, mask=inside)
        tl.store(aux + member, tl.zeros([BLOCK], tl.float32), mask=inside)


def begin(
    ahead: Ahead, control: Float64[Tensor, "members 5"], aux: Float32[Tensor, " members"]
) -> None:
    """Go on to the next of the steps staged.

    Args:
        ahead: `at` and `now` change.
        control: the controllers' state.
        aux: set to 0.
    """
    begin_kernel[(1,)](
        ahead.at, ahead.numbers, ahead.now, control, aux, len(aux), ahead.now.shape[1],
        **CONSTANTS, num_warps=1,
    )  # fmt: skip
