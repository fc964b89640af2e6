"""Memory that a member of a table takes on a device, by the sizes of what is allocated."""

from typing import NamedTuple

from sae_sweep.kernels.fused.table import MOST_STEPS, PAGE

CHUNK, ROWS = 64, 8
"""As in `gradients` and `update`, which need Triton; the planner has none."""


class Extent(NamedTuple):
    """Sizes of a member, and of its step."""

    n_latents: int
    d: int
    batch: int
    active: int
    """Active latents of a token for which there is room; 0 in the dense form."""
    operand_bytes: int
    """Of a number that products read: 4 in float32, 2 in bfloat16."""
    aux: bool
    """Whether an auxiliary loss acts, which takes whole rows in either form."""


class Memory(NamedTuple):
    """Bytes that a member takes; what members share is counted once for each."""

    table: int
    """Weights, moments and operands; there twice for a moment when the table grows."""
    module: int
    """The copy that is evaluated."""
    step: int
    """What steps work in; nothing while the table grows."""
    joining: int
    """For a moment, while it joins."""

    @property
    def total(self) -> int:
        """While it trains."""
        return self.table + self.module + self.step


def member_memory(extent: Extent) -> Memory:
    """Compute what a member takes, apart from training rows."""
    n, d, batch, active, operand, aux = extent
    rows = -(-n // PAGE) * PAGE
    copies = 0 if operand == 4 else operand
    table = rows * (2 * d * (3 * 4 + copies) + 3 * 4 + 8)
    # centred, its copy and g; squares and errors; pre-activations and their maxima
    step = batch * d * (4 + copies + operand) + 16 * batch
    step += 4 * batch * (rows + rows // PAGE) + 4 * MOST_STEPS * batch
    # what is allocated anew in each step is there twice: as it was tried, and as recorded
    transient = 4 * rows // ROWS * d
    # lists by token and by latent, and what sorting takes; parts of latents with many tokens
    step += 8 * batch * active
    transient += batch * active * (32 + 2 * 4 * d // CHUNK)
    if aux or not active:
        # both gradients, activations and theirs; the auxiliary loss's error
        step += 2 * 4 * rows * d + 2 * operand * batch * rows
        transient += operand * batch * d if aux else 0
    return Memory(
        table=table,
        module=4 * (2 * n * d + n + d),
        step=step + 2 * transient,
        joining=(4 + copies) * n * d,
    )
