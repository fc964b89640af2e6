"""The latents of many trials in one set of tensors, and what a step needs to know of each trial.

Rows are latents. They are cut into pages; a page belongs to one member at most, and a member's
pages need not lie side by side, so members come and go and no row ever moves. Everything that a
step computes for a row depends on that row and on its own member's batch: what else is in the
table cannot change a bit of it.

Where dictionaries are nested (matryoshka), the latents that each adds, a span, begin a page, and
what a step has per reconstruction it has per plane: plane s * members + slot is of the dictionary
that ends with span s. All members of a table have equally many spans, elsewhere one.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

PAGE = 128
"""Latents of a page, and columns of the tile in which they are encoded."""

WIDEST = 8192
"""Largest width of activations: programs hold whole rows, and were compiled up to there."""

MOST_STEPS = 256
"""Steps that are staged on the device at once."""

FREE = -1
"""Owner of a page that has none; what follows a member's last page."""

IDLE, SPARSE, DENSE = 0, 1, 2
"""Forms of a member's step: none (an empty slot), by active latents, by whole rows."""

CACHE_BYTES = 25 * 2**20
"""Half of the L2 cache of an H100 or H200: what each of its two partitions holds."""


def sparse_up_to(batch_size: int, d: int, n_latents: int) -> float:
    """Share of active latents up to which a step by active latents pays: an estimate for an H100.

    Each of a step's four products takes 2 n m d operations by whole rows and reads 2 n k d bytes by
    active latents, so both take as long where k / m is the ratio of bytes to operations per second.
    Rows that are gathered from memory come at some 3 TB/s, from the cache at 5.5 TB/s; products
    whose factors fit into the cache are too small for all multiprocessors and reach some 300
    TFLOP/s, larger ones twice that: 2 % and, rounded up for the sums' own traffic, 1 %. The shape
    of the trial alone decides, since its bits must not depend on its company.

    Args:
        batch_size: tokens in a batch.
        d: width of the activations.
        n_latents: of the trial.
    """
    gathered = 2 * (2 * batch_size + n_latents) * d  # x, its gradient, w_dec in bfloat16
    return 0.02 if gathered <= CACHE_BYTES else 0.01


class Rows(NamedTuple):
    """What belongs to latents: parameters, or one of Adam's moments of each."""

    w_enc: Float32[Tensor, "r d"]
    b_enc: Float32[Tensor, " r"]
    w_dec: Float32[Tensor, "r d"]


class Operands(NamedTuple):
    """What products read: the weights themselves in float32, their copies in bfloat16 otherwise."""

    w_enc: Float[Tensor, "r d"]
    w_dec: Float[Tensor, "r d"]


class Biases(NamedTuple):
    """The decoder's bias of each member, and Adam's moments of it."""

    b_dec: Float32[Tensor, "members d"]
    first: Float32[Tensor, "members d"]
    second: Float32[Tensor, "members d"]


class Thresholds(NamedTuple):
    """The threshold of each latent, and Adam's moments of it; 0 where a member trains none."""

    value: Float32[Tensor, " r"]
    first: Float32[Tensor, " r"]
    second: Float32[Tensor, " r"]


class Table(NamedTuple):
    """All members' parameters and optimiser state, and who owns which page."""

    weights: Rows
    first: Rows
    second: Rows
    operands: Operands
    biases: Biases
    thresholds: Thresholds
    silent_tokens: Int64[Tensor, " r"]
    """Tokens since each latent last fired."""
    page_member: Int32[Tensor, " pages"]
    """Slot of each page's owner; `FREE` where it has none."""
    page_latents: Int32[Tensor, " pages"]
    """Rows of the page that are latents, its first ones: fewer than a page in the last page of a
    dictionary, 0 where free."""
    page_span: Int32[Tensor, " pages"]
    """Number of the nested dictionary that the page's latents begin to be part of; 0 otherwise."""
    member_pages: Int32[Tensor, "members pages"]
    """Each member's pages, ascending, so that its rows ascend as its latents do; then `FREE`."""

    @property
    def page(self) -> int:
        """Latents of a page."""
        return len(self.silent_tokens) // len(self.page_member)


class Settings(NamedTuple):
    """Settings of each member in a step, by slot. All on the device: a graph can replay it."""

    form: Int32[Tensor, " members"]
    """`IDLE`, `SPARSE` or `DENSE`."""
    k: Int32[Tensor, " members"]
    """Active latents per token; 0: all positive ones (l1), or see `batch_k`."""
    batch_k: Int32[Tensor, " members"]
    """Mean active latents per token where the largest of a batch are selected; 0: see `k`."""
    room: Int32[Tensor, " members"]
    """sparse: the most active latents of a token; with more the member's step is not made."""
    unit_rows: Int32[Tensor, " members"]
    """1: decoder rows have unit norm; 0: they are free, and scale the L1 weight by their norm."""
    step_size: Float32[Tensor, " members"]
    """Adam's lr / (1 - beta1^t)."""
    correction: Float32[Tensor, " members"]
    """Adam's sqrt(1 - beta2^t)."""
    beta1: Float32[Tensor, " members"]
    beta2: Float32[Tensor, " members"]
    complement1: Float32[Tensor, " members"]
    """1 - beta1, rounded once: from a rounded beta2 it would be off by 5e-5."""
    complement2: Float32[Tensor, " members"]
    """1 - beta2."""
    l1_weight: Float32[Tensor, " members"]
    """l1_alpha, times the share of it that acts, over the batch size; 0 without a penalty."""
    aux_coeff: Float32[Tensor, " members"]
    """Weight of AuxK; 0 where it is off."""
    usage_coeff: Float32[Tensor, " members"]
    """Weight of the usage loss; 0 where it is off."""
    usage_target: Float32[Tensor, " members"]
    """Share of tokens in which a latent is to be selected."""
    often_coeff: Float32[Tensor, " members"]
    """Weight of the penalty on latents that fire too often; 0 where it is off."""
    often_limit: Float32[Tensor, " members"]
    """Share of tokens up to which they may."""
    threshold_step_size: Float32[Tensor, " members"]
    """`step_size` of thresholds."""
    bandwidth: Float32[Tensor, " members"]
    """Width of the window around a threshold in which it is moved; 0: thresholds are not trained.

    Members that train them are `DENSE`."""
    lift: Float32[Tensor, " members"]
    """Weight of the pre-activation loss of dead latents, over the batch size."""
    l0_weight: Float32[Tensor, " members"]
    """Weight of L0, times the share of it that acts; 0 without such a penalty."""
    l0_goal: Float32[Tensor, " members"]
    """L0 where that penalty is quadratic: l0_weight (l0 / l0_goal - 1)^2; 0: l0_weight l0."""
    dead_window: Int64[Tensor, " members"]
    """Tokens of silence after which a latent is dead."""


def empty_table(
    pages: int,
    members: int,
    d: int,
    *,
    page: int = PAGE,
    device: torch.device | str = "cuda",
    operand: torch.dtype = torch.float32,
) -> Table:
    """Make a table of free pages.

    Args:
        pages: room for latents.
        members: room for trials.
        d: width of the activations.
        page: latents of a page, a power of two from 16: what the smallest tile of a product has.
        device: where it lives.
        operand: type of what products read, float32 or bfloat16.
    """
    assert page >= 16
    assert page & (page - 1) == 0
    r = pages * page

    def rows() -> Rows:
        wide = torch.zeros(2, r, d, device=device)
        return Rows(wide[0], torch.zeros(r, device=device), wide[1])

    weights = rows()
    same = operand == torch.float32
    operands = [weight if same else weight.to(operand) for weight in (weights.w_enc, weights.w_dec)]
    return Table(
        weights=weights,
        first=rows(),
        second=rows(),
        operands=Operands(*operands),
        biases=Biases(*torch.zeros(3, members, d, device=device)),
        thresholds=Thresholds(*torch.zeros(3, r, device=device)),
        silent_tokens=torch.zeros(r, dtype=torch.int64, device=device),
        page_member=torch.full((pages,), FREE, dtype=torch.int32, device=device),
        page_latents=torch.zeros(pages, dtype=torch.int32, device=device),
        page_span=torch.zeros(pages, dtype=torch.int32, device=device),
        member_pages=torch.full((members, pages), FREE, dtype=torch.int32, device=device),
    )
