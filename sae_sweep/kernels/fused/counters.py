"""Counters of each member's training (losses, l0, controller), updated in one kernel."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from sae_sweep.kernels.fused.ahead import Ahead
from sae_sweep.kernels.fused.table import IDLE, Settings

CHUNK = 1024
"""Tokens' sums that are added at a time."""

BLOCK = 1024
"""Entries of a list that are emptied at a time."""

SLOWEST = 0.1
"""Least weight of a batch in the running mean of `in_use`: that of `sae.batchtopk`."""

CONTROL = 5
"""Numbers of a controller's state: fast, slow, integral, log factor, updates at a bound."""

_IDLE = tl.constexpr(IDLE)


class Counters(NamedTuple):
    """Of each slot; an idle one's are left as they are."""

    losses: Float32[Tensor, "slots 4"]
    """Of the last step's batch: the loss, its reconstruction, sparsity and auxiliary parts."""
    l0: Float32[Tensor, " slots"]
    """Of the last step's batch."""
    diverged_at: Int64[Tensor, " slots"]
    """The first step whose loss or input was not finite; 0 while there is none."""
    last_half: Float64[Tensor, "slots 3"]
    """Mean of fvu and of l0_fraction, summed squared deviation of the latter."""
    control: Float64[Tensor, "slots 5"]
    """State of `train.controller.L0Controller`; zeros without one."""
    in_use: Float32[Tensor, "slots 2"]
    """Running mean of the smallest latent selected of a batch, and the batches behind it; zeros
    where each token is selected from."""


class Batch(NamedTuple):
    """Statistics of each member's batch in a step."""

    squared_error: Float32[Tensor, "planes b"]
    """Each token's sum over d of (x_hat - x)^2."""
    squares: Float32[Tensor, "members b"]
    """Each token's sum over d of x^2."""
    active: Int64[Tensor, " members"]
    """Active latents of all tokens."""
    penalty: Float32[Tensor, " members"]
    """The sparsity term, coefficient included."""
    aux: Float32[Tensor, " members"]
    """The auxiliary term, coefficient included."""
    smallest: Float32[Tensor, " members"]
    """The smallest latent selected, for members with `batch_k`."""


def empty_counters(slots: int, device: torch.device) -> Counters:
    """Make counters of trials that have not begun."""
    return Counters(
        losses=torch.zeros(slots, 4, device=device),
        l0=torch.zeros(slots, device=device),
        diverged_at=torch.zeros(slots, dtype=torch.int64, device=device),
        last_half=torch.zeros(slots, 3, dtype=torch.float64, device=device),
        control=torch.zeros(slots, CONTROL, dtype=torch.float64, device=device),
        in_use=torch.zeros(slots, 2, device=device),
    )


@triton.jit
def add_tokens(values, member, tokens, CHUNK: tl.constexpr):
    """Add up one member's tokens, in their order, in float64."""
    totals = tl.zeros([CHUNK], tl.float64)
    for first in range(0, tokens, CHUNK):
        token = first + tl.arange(0, CHUNK)
        at = values + member.to(tl.int64) * tokens + token
        totals += tl.load(at, mask=token < tokens, other=0.0).to(tl.float64)
    return tl.sum(totals, 0)


@triton.jit
def add_spans(squared_error, member, members, tokens, CHUNK: tl.constexpr, SPANS: tl.constexpr):
    """Add up the whole dictionary's squared errors, and those of all nested ones."""
    whole = add_tokens(squared_error, member + (SPANS - 1) * members, tokens, CHUNK)
    together = whole
    for span in range(SPANS - 1):
        together += add_tokens(squared_error, member + span * members, tokens, CHUNK)
    return whole, together


@triton.jit
def control_step(
    state, density, target, gain, fast_weight, slow_weight, bound, error_bound, lead, proportional
):
    """Move a controller on: `train.controller` has the equations."""
    fast = tl.load(state)
    slow = tl.load(state + 1)
    error = tl.log(density / target)
    error = tl.minimum(tl.maximum(error, -error_bound), error_bound)
    fast += fast_weight * (error - fast)
    slow += slow_weight * (error - slow)
    ahead = fast + lead * (fast - slow)
    ahead = tl.minimum(tl.maximum(ahead, -error_bound), error_bound)
    integral = tl.load(state + 2) + gain * ahead
    integral = tl.minimum(tl.maximum(integral, -bound), bound)
    moved = integral + proportional * ahead
    tl.store(state, fast)
    tl.store(state + 1, slow)
    tl.store(state + 2, integral)
    tl.store(state + 3, tl.minimum(tl.maximum(moved, -bound), bound))


@triton.jit(do_not_specialize=["tokens"])
def count_kernel(
    at, form, firsts, halves, n_latents, done, targets, gains, fasts, slows, bounds,
    l0_weights, l0_goals, batch_k,
    squared_error, squares, active, penalty, aux, smallest,
    losses, l0, diverged_at, last_half, control, in_use,
    tokens, slowest, error_bound, lead, proportional, CHUNK: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """Count one step of one member."""
    member = tl.program_id(0)
    if tl.load(form + member) == _IDLE:
        return
    error, together = add_spans(squared_error, member, tl.num_programs(0), tokens, CHUNK, SPANS)
    energy = add_tokens(squares, member, tokens, CHUNK)
    reconstruction = together / (tokens * SPANS)
    mean = tl.load(active + member).to(tl.float32) / tokens
    goal = tl.load(l0_goals + member)
    beyond = mean / tl.where(goal > 0, goal, 1.0) - 1
    l0_penalty = tl.load(l0_weights + member) * tl.where(goal > 0, beyond * beyond, mean)
    sparsity = tl.load(penalty + member) + l0_penalty
    auxiliary = tl.load(aux + member)
    loss = reconstruction + sparsity + auxiliary
    tl.store(losses + 4 * member, loss.to(tl.float32))
    tl.store(losses + 4 * member + 1, reconstruction.to(tl.float32))
    tl.store(losses + 4 * member + 2, sparsity)
    tl.store(losses + 4 * member + 3, auxiliary)
    tl.store(l0 + member, mean)
    if tl.load(batch_k + member) > 0:
        batches = tl.load(in_use + 2 * member + 1) + 1
        moving = tl.load(in_use + 2 * member)
        moving += tl.maximum(1 / batches, slowest) * (tl.load(smallest + member) - moving)
        tl.store(in_use + 2 * member, moving)
        tl.store(in_use + 2 * member + 1, batches)
    number = tl.load(firsts + member) + tl.load(at)
    # comparisons with NaN are false
    finite = (tl.abs(loss) < float("inf")) & (energy < float("inf"))
    seen = tl.load(diverged_at + member)
    tl.store(diverged_at + member, tl.where((seen == 0) & (finite == 0), number, seen))
    late = number - tl.load(halves + member)
    bound = tl.load(bounds + member).to(tl.float64)
    state = control + 5 * member
    if late > 0:
        saturated = tl.abs(tl.load(state + 3)) >= bound
        counted = tl.load(state + 4) + saturated.to(tl.float64)
        tl.store(state + 4, tl.where(bound > 0, counted, 0.0))
        fvu = error / energy
        density = mean.to(tl.float64) / tl.load(n_latents + member).to(tl.float64)
        to = last_half + 3 * member
        fvu_mean = tl.load(to)
        density_mean = tl.load(to + 1)
        away = density - density_mean  # Welford's update: exactly 0 where l0 is constant
        moved = density_mean + away / late.to(tl.float64)
        tl.store(to, fvu_mean + (fvu - fvu_mean) / late.to(tl.float64))
        tl.store(to + 1, moved)
        tl.store(to + 2, tl.load(to + 2) + away * (density - moved))
    target = tl.load(targets + member).to(tl.float64)
    if target > 0:
        control_step(
            state, mean.to(tl.float64), target, tl.load(gains + member).to(tl.float64),
            tl.load(fasts + member).to(tl.float64), tl.load(slows + member).to(tl.float64),
            bound, error_bound, lead, proportional,
        )  # fmt: skip
    tl.store(done + member, tl.load(done + member) + 1)


class Control(NamedTuple):
    """The constants of `train.controller`."""

    error_bound: float
    lead: float
    proportional: float


def count(
    ahead: Ahead, settings: Settings, batch: Batch, counters: Counters, control: Control
) -> None:
    """Count the step that was made, of every member that is not idle, in place.

    Args:
        ahead: the step; `done` grows by one.
        settings: of each member.
        batch: what the step has found.
        counters: change.
        control: of all controllers.
    """
    members, tokens = batch.squares.shape
    views = ahead.views(members)
    told = ("first", "half", "n_latents", "done")
    moves = ("l0_target", "l0_gain", "l0_fast", "l0_slow", "l0_bound", "l0_weight", "l0_goal")
    count_kernel[(members,)](
        ahead.at, settings.form, *(views[name] for name in (*told, *moves)),
        settings.batch_k, *batch, *counters, tokens, SLOWEST, *control,
        CHUNK=CHUNK, SPANS=len(batch.squared_error) // members, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["entries", "no_row"])
def retire_kernel(overflow, form, rows, values, entries, no_row, BLOCK: tl.constexpr):
    """Let a member sit a step out of which a token has more active latents than there is room."""
    member = tl.program_id(0)
    if tl.load(overflow + member) == 0:
        return
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = member.to(tl.int64) * entries + entry
    tl.store(rows + at, tl.zeros([BLOCK], tl.int32) + no_row, mask=entry < entries)
    tl.store(values + at, tl.zeros([BLOCK], tl.float32), mask=entry < entries)
    if tl.program_id(1) == 0:
        tl.store(form + member, _IDLE)


def retire(
    overflow: Int32[Tensor, " members"],
    settings: Settings,
    rows: Int32[Tensor, "members n k"],
    values: Float32[Tensor, "members n k"],
    no_row: int,
) -> None:
    """Make members idle that `select` has no room for, before anything of them has changed.

    Args:
        overflow: 1 for those.
        settings: their form becomes `IDLE`.
        rows: their lists become empty.
        values: the same.
        no_row: what a list is padded with.
    """
    entries = rows[0].numel()
    retire_kernel[(len(overflow), triton.cdiv(entries, BLOCK))](
        overflow, settings.form, rows, values, entries, no_row, BLOCK=BLOCK
    )
