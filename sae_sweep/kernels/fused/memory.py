"""Memory that a member of a table takes on a device, by the sizes of what is allocated."""

from typing import NamedTuple

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.table import MOST_STEPS, PAGE, sparse_up_to

CHUNK, ROWS, WIDEST, BLOCK = 64, 8, {2: 4096, 4: 2048}, {2: 128, 4: 64}
"""As in `gradients`, `update` and `dense`, which need Triton; the planner has none."""

RESIDENT_SHARE = 0.4
"""Share of a device's memory that training rows may take to stay there."""

FETCHED_BYTES = 2**28
"""Bytes of rows copied at once where they do not all stay on the device; there are two such
buffers."""

ROOM = 4
"""sparse, where the count of a token's active latents varies: room for so many times its mean."""


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

    @property
    def most(self) -> int:
        """When it joins and when it trains, with no other member."""
        return self.table + self.module + max(self.step, self.joining)


def rows_memory(trial: Trial, device_bytes: int) -> int:
    """Bytes that training rows take on a device: all, or the buffers that they are fetched to."""
    row = 4 * trial.source.d
    everything = row * trial.source.train_tokens
    if everything <= RESIDENT_SHARE * device_bytes:
        return everything
    return 2 * max(FETCHED_BYTES, row * trial.train.batch_size)


def packed_memory(trial: Trial) -> Memory:
    """Compute what a trial takes as a member, apart from training rows."""
    n, d, batch, told = trial.n_latents, trial.source.d, trial.train.batch_size, trial.sae.fused
    operand = 2 if trial.train.precision == "bf16" else 4
    mean = told.k or told.batch_k or n
    active = 0  # of a token, for which there is room in lists
    if mean <= sparse_up_to(batch, d, n) * n:
        active = mean * (ROOM if told.batch_k else 1)
    losses = told.aux_coeff + told.usage_coeff + told.often_coeff > 0
    rows = sum(-(-span // PAGE) for span in trial.sae.spans) * PAGE
    copies = 0 if operand == 4 else operand
    table = rows * (2 * d * (3 * 4 + copies) + 2 * 3 * 4 + 8)
    spans = len(trial.sae.spans)
    # centred, its copy and g; squares and errors; pre-activations and their maxima
    step = batch * d * (4 + copies + spans * operand) + 4 * (3 + spans) * batch
    step += 4 * batch * (rows + rows // PAGE) + 4 * MOST_STEPS * batch
    # what is allocated anew in each step is there twice: as it was tried, and as recorded
    # shares of the bias's gradient; rows that registers do not hold wait beside them
    transient = 4 * rows // ROWS * d * (3 if d > WIDEST[operand] else 1)
    # lists by token and by latent, and what sorting takes; parts of latents with many tokens
    step += 8 * batch * active
    transient += batch * active * (32 + 2 * 4 * d // CHUNK)
    if told.bandwidth:
        transient += 4 * 4 * rows * -(-batch // BLOCK[operand])  # what moves the thresholds
    if losses or not active:
        # both gradients, activations and theirs; the auxiliary loss's error
        step += 2 * 4 * rows * d + 2 * operand * batch * rows
        transient += operand * batch * d if losses else 0
    return Memory(
        table=table,
        module=4 * (2 * n * d + n + d),
        step=step + 2 * transient,
        # the first batch's latents, in several forms; a matrix, and its copy in the operands' type
        joining=max(16 * batch * n, (4 + copies) * n * d),
    )
