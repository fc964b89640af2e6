"""Search for the setting that gives a wanted L0.

For a penalty by the response curve of what is known so far; for k and target_l0, of which L0 is the
value itself up to latents that do not fire, by proportion.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sae_sweep.config import SearchConfig, Trial
from sae_sweep.errors import BadInput
from sae_sweep.records import L0_SETTINGS, TrialRecord
from sae_sweep.rules import history, response
from sae_sweep.rules.response import Observation
from sae_sweep.search.axes import Axis, rounded
from sae_sweep.search.blocks import Point, apply
from sae_sweep.search.cells import Cell, Space, Values
from sae_sweep.search.objective import pooled
from sae_sweep.search.sampled import Draw, Proposal

L0 = ("l0_fraction", "l0_fraction_last_half", "l0_fraction_last_half_sd")

EDGE = 0.1
"""Share of a bracket, at either end, in which a proposal is no better than the end itself."""
NARROWEST = 0.01
"""Of ln l1_alpha: two trials this near whose L0 lie on both sides of the target span a jump."""
QUANTILES = 32


class SearchContext(NamedTuple):
    """What a search may access: trial resolution and past trials."""

    resolve: Callable[[Point], Trial]
    """Settings as they act, and the trial's identity."""
    past: Callable[[], list[TrialRecord]]
    """Every trial of the store."""


class TargetProposer:
    """Proposes where the fitted curve meets the target."""

    def __init__(self, space: Space, search: SearchConfig, around: SearchContext) -> None:
        self._space = space
        self._search = search
        self._around = around
        self._introduced: set[int] = set()

    def propose(
        self, cell: Cell, draws: Sequence[Draw], accept: Callable[[Values], bool]
    ) -> Proposal:
        """Name the next value, or say why no more are needed."""
        axis = cell.drawn[0].axes[0]
        reference = self._trial(cell, {axis.key: axis.values[0]})
        target = self._target(reference)
        if reference.sae.l0_setting.is_count:
            return self._by_proportion(cell, draws, accept, reference, target)
        own = _observations(axis.key, draws, reference.n_latents)
        past = self._past(cell, draws, reference)
        known = [*own, *past.observations]
        hits = [one for one in own if self._is_hit(one, target)]
        if hits:
            low, high = axis.values
            curve = response.fit(known, reference.n_latents, (low, high)).interval(target)
            reached = _reached(axis.key, hits[0], target, len(draws), curve)
            return Proposal(closed=f"{_words(cell)}{reached}")
        if (contradiction := response.rise(known)) is not None:
            return Proposal(closed=f"{_words(cell)}{_not_monotone(axis.key, *contradiction)}")
        note = self._introduction(cell, past)
        for x in self._candidates(axis, known, reference, draws, target):
            if isinstance(x, str):
                return Proposal(closed=f"{_words(cell)}{x}")
            values = {axis.key: rounded(math.exp(x), axis)}
            if accept(values):
                return Proposal(values, note=note)
        if any(draw.pending for draw in draws):
            return Proposal(note=note)
        return Proposal(closed=f"{_words(cell)}no {axis.key} is left to try; the target is not met")

    def _by_proportion(
        self,
        cell: Cell,
        draws: Sequence[Draw],
        accept: Callable[[Values], bool],
        reference: Trial,
        target: float,
    ) -> Proposal:
        """The wanted count itself, then corrected by the nearest trial's miss."""
        axis = cell.drawn[0].axes[0]
        width, wanted = reference.n_latents, target * reference.n_latents
        own = _observations(axis.key, draws, width)
        nearest = min(own, key=lambda one: abs(one.l0_fraction / target - 1), default=None)
        if nearest is not None and self._is_hit(nearest, target):
            return Proposal(
                closed=f"{_words(cell)}reached: l0_fraction {nearest.l0_fraction:.4g} for the "
                f"target {target:.4g} at {axis.key}={nearest.l1_alpha:g}, configuration "
                f"{len(draws)} of the search"
            )
        if nearest is None and draws:
            return Proposal()
        guess = wanted
        if nearest is not None and nearest.l0_fraction > 0:
            guess = nearest.l1_alpha * target / nearest.l0_fraction
        low, high = axis.values
        value = rounded(guess, axis)
        if axis.word == "int":
            value = round(value)
        if accept({axis.key: value}):
            return Proposal({axis.key: value})
        return Proposal(
            closed=f"{_words(cell)}no {axis.key} is left to try; the target {target:.4g} is "
            f"{wanted:.4g} latents, and the axis goes from {low:g} to {high:g}"
        )

    def _target(self, reference: Trial) -> float:
        """The wanted share of latents."""
        if self._search.target is not None:
            return self._search.target
        assert self._search.target_count is not None
        return self._search.target_count / reference.n_latents

    def _is_hit(self, one: Observation, target: float) -> bool:
        return abs(one.l0_fraction / target - 1) <= self._search.tolerance

    def _trial(self, cell: Cell, values: Values) -> Trial:
        assignment = self._space.assignment(cell, values)
        return self._around.resolve(Point(assignment, apply(self._space.base, assignment)))

    def _past(self, cell: Cell, draws: Sequence[Draw], reference: Trial) -> history.Past:
        """Comparable trials that are none of the cell's own draws."""
        if not self._search.history:
            return history.comparable([], reference.record)
        points = [p for draw in draws for p in self._space.points(cell, draw.values)]
        own = {self._around.resolve(point).uid for point in points}
        records = [record for record in self._around.past() if record.uid not in own]
        return history.comparable(records, reference.record)

    def _introduction(self, cell: Cell, past: history.Past) -> str | None:
        """A message on what is known at the start, once per cell."""
        if id(cell) in self._introduced or not (past.records or past.left_out):
            return None
        self._introduced.add(id(cell))
        widths = sorted({one.n_latents for one in past.observations})
        shown = f" at n_latents {', '.join(map(str, widths))}" if widths else ""
        left_out = history.left_out_in_words(past.left_out)
        said = [f"{len(past.records)} comparable past trials{shown}", left_out]
        return f"{_words(cell)}history: {'; '.join(filter(None, said))}"

    def _candidates(
        self,
        axis: Axis,
        known: Sequence[Observation],
        reference: Trial,
        draws: Sequence[Draw],
        target: float,
    ) -> Iterator[float | str]:
        """Logarithms of the penalty to try, best first; or why there are none.

        Of several under way each takes another quantile of where the curve may meet the target.
        """
        low, high = (math.log(value) for value in axis.values)
        width = reference.n_latents
        here = [one for one in known if one.n_latents == width]
        trained = [math.log(one.l1_alpha) for one in here if self._is_hit(one, target)]
        yield from (x for x in trained if low <= x <= high)
        above = max((math.log(o.l1_alpha) for o in here if o.l0_fraction > target), default=None)
        below = min((math.log(o.l1_alpha) for o in here if o.l0_fraction < target), default=None)
        if (reason := _out_of_reach(axis, here, target, above, below)) is not None:
            yield reason
        posterior = response.fit(known, width, (axis.values[0], axis.values[1]))
        roots = np.clip(posterior.roots(target), low, high)
        poor = posterior.worst_residual > response.POOR
        without = [draw for draw in draws if draw.pending or not _finished(draw)]
        for i in range(len(without), len(without) + QUANTILES):
            x = float(np.quantile(roots, _spread(i)))
            if above is None or below is None:
                yield x
                continue
            if below - above < NARROWEST:
                yield (
                    f"L0 jumps over the target {target:.4g} between {axis.key}="
                    f"{math.exp(above):.6g} and {math.exp(below):.6g}: no {axis.key} gives it"
                )
            edge = EDGE * (below - above)
            inside = above + edge <= x <= below - edge
            yield x if inside and not poor else _between(here, above, below, target, _spread(i))


def refuse_space(space: Space) -> None:
    """Refuse axes that a target search cannot use.

    Raises:
        BadInput: anything but the setting that moves the L0 of the kind that is trained is drawn.
    """
    for cell in space.cells:
        axes = [axis for _, axes in cell.drawn for axis in axes]
        sae = apply(space.base, cell.assignment)["sae"]
        kind = sae.get("kind", "topk")
        moves = [f"sae.{name}" for name in L0_SETTINGS.get(kind, ())]
        words = ["int"] if "sae.k" in moves else ["loguniform"]
        if len(axes) == 1 and axes[0].key in moves and axes[0].word in words:
            continue
        drawn = ", ".join(f"{axis.key}={{{axis.word}: {axis.values}}}" for axis in axes)
        raise BadInput(
            f"search.kind=target with sae.kind={kind} draws {' or '.join(moves)} alone, by "
            f"{words[0]}, and the sweep draws {drawn}: list the others with grid, or use "
            "search=optuna with search.target"
        )


def _observations(key: str, draws: Sequence[Draw], n_latents: int) -> list[Observation]:
    found = []
    for draw in filter(_finished, draws):
        metrics = pooled(L0, [told.metrics for told in draw.told])
        l0, mean, sd = (metrics.get(name, 0.0) for name in L0)
        found.append(Observation(draw.values[key], n_latents, l0, sd / mean if mean else 0.0))
    return found


def _finished(draw: Draw) -> bool:
    """Whether every seed has its L0."""
    return not draw.pending and all("l0_fraction" in told.metrics for told in draw.told)


def _out_of_reach(
    axis: Axis,
    here: Sequence[Observation],
    target: float,
    above: float | None,
    below: float | None,
) -> str | None:
    """The message where the end of the axis was tried and misses the target."""
    tried = {one.l1_alpha: one.l0_fraction for one in here}
    low, high = axis.values
    if above is None and low in tried:
        end, value, side = low, tried[low], "lower"
    elif below is None and high in tried:
        end, value, side = high, tried[high], "upper"
    else:
        return None
    return (
        f"l0_fraction {target:.4g} is out of reach: at the {side} end of the axis, "
        f"{axis.key}={end:g}, it is {value:.4g}; widen the axis or choose another target"
    )


def _between(
    here: Sequence[Observation], above: float, below: float, target: float, share: float
) -> float:
    """The log-linear estimate in a bracket, kept off its ends; others beside it for i > 0."""
    l0 = {math.log(one.l1_alpha): math.log(max(one.l0_fraction, 1e-9)) for one in here}
    guess = (l0[above] - math.log(target)) / (l0[above] - l0[below])
    at = min(max(guess + share - 0.5, EDGE), 1 - EDGE)
    return above + at * (below - above)


def _spread(i: int) -> float:
    """1/2, 1/4, 3/4, 1/8, ...: quantiles that fill the interval evenly."""
    share, step, n = 0.0, 0.5, i + 1
    while n:
        n, bit = divmod(n, 2)
        share += step * bit
        step /= 2
    return share


def _words(cell: Cell) -> str:
    fixed = ", ".join(f"{key}={value}" for key, value in cell.assignment.items())
    return f"{fixed}: " if fixed else ""


def _reached(
    key: str, one: Observation, target: float, trials: int, curve: tuple[float, float, float]
) -> str:
    low, middle, high = curve
    return (
        f"reached: l0_fraction {one.l0_fraction:.4g} for the target {target:.4g} at "
        f"{key}={one.l1_alpha:g}, configuration {trials} of the search; the curve puts the "
        f"target at {middle:.3g}, 95 % interval {low:.3g} to {high:.3g}"
    )


def _not_monotone(key: str, lower: Observation, higher: Observation) -> str:
    return (
        f"the response is not monotone: l0_fraction {lower.l0_fraction:.4g} at "
        f"{key}={lower.l1_alpha:g} and {higher.l0_fraction:.4g} at {higher.l1_alpha:g}, where it "
        "should fall; train longer, compare the seeds, or use search=optuna"
    )
