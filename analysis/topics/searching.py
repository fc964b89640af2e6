"""The course of a search: each trial, its result, and the next decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.context import ReportContext
from analysis.findings.adaptive import adaptive
from analysis.findings.fronts import front
from analysis.findings.ranking import lowest, tied_with_first
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.study.settings import text
from analysis.study.table import Study
from sae_sweep.records import METRICS, PENALTIES
from sae_sweep.records.store import Member

KINDS = ("optuna", "target")


@dataclass(frozen=True)
class Targeted:
    """A search for a sparsity, and whether a trial met it."""

    kind_of_search: str
    metric: str
    target: float
    trials: int
    at_most: int
    tolerance: float
    """Share of the target by which a trial may miss it."""
    first: int | None
    """Place of the first trial within the tolerance, from 1."""
    hits: int

    @property
    def words(self) -> str:
        """The sentence."""
        within = f"within {100 * self.tolerance:g} %"
        met = (
            f"none came {within}"
            if self.first is None
            else f"{self.hits:,} came {within}, trial {self.first:,} the first"
        )
        return (
            f"Sought by {self.kind_of_search}: {self.metric} {self.target:g}; "
            f"{counted(self.trials, 'trial')} of at most {self.at_most:,}; {met}."
        )


@dataclass(frozen=True)
class Optimised:
    """A search for the best of one or more metrics, and what no other trial beats."""

    sampler: str
    objectives: tuple[tuple[str, str], ...]
    """Metric and direction."""
    constraints: tuple[str, ...]
    trials: int
    at_most: int
    undominated: int

    @property
    def words(self) -> str:
        """The sentence."""
        sought = listed([f"{name} {direction}" for name, direction in self.objectives])
        bounds = escaped("; ".join(self.constraints))
        under = f", under the constraints {bounds}" if bounds else ""
        return (
            f"Sought by Optuna's {self.sampler}: {sought}{under}; "
            f"{counted(self.trials, 'trial')} of at most {self.at_most:,}, "
            f"{self.undominated:,} undominated."
        )


@dataclass(frozen=True)
class Established:
    """Findings from adaptively chosen trials."""

    settings: tuple[str, ...]
    """Whose draws follow the results."""
    trials: int
    metric: str
    label: str
    value: float
    """The lowest, chosen from all: likely lower than what another run of it would give."""
    seeds: int
    tied: int | None
    """Other configurations that noise does not tell from it; None where noise is unknown."""
    ranges: tuple[tuple[str, str, str], ...]
    """Setting, and the least and the largest value among the best tenth."""

    @property
    def words(self) -> str:
        """The sentence."""
        noise_ = "noise unknown"
        if self.tied is not None:
            noise_ = f"tied with {counted(self.tied, 'other configuration')} within the noise"
        seeds = f", mean of {self.seeds} seeds" if self.seeds > 1 else ""
        spans = "; ".join(f"{escaped(name)} {low} to {high}" for name, low, high in self.ranges)
        found = f" The best tenth has {spans}." if spans else ""
        return (
            f"**What the search established:** lowest {self.metric} of "
            f"{counted(self.trials, 'trial')}: {code(self.label)}, {number(self.value)}"
            f"{seeds}, {noise_}; chosen as the lowest of many, it is likely a little lower than "
            f"another run of it.{found} The draws of {escaped(listed(list(self.settings)))} follow "
            "the results, so no effect of a setting is claimed."
        )


def established(study: Study) -> list[Claim]:
    """Findings from a search, where trials were chosen adaptively; empty for a design."""
    followed, rows = adaptive(study), lowest(study, "fvu")
    if not followed or rows.empty:
        return []
    uid = str(rows.index[0])
    tied = tied_with_first(study, METRICS["fvu"], rows)
    best = rows.index[: max(len(rows) // 10, 1)]
    places = study.trials.index.get_indexer(best)
    ranges = []
    for one in study.hyperparameters:
        values = [one.given[i] for i in places if one.given[i] is not None]
        if one.kind != "categorical" and values:
            ranges.append((one.name, number(float(min(values)), 3), number(float(max(values)), 3)))
    return [
        Established(
            followed,
            len(study.trials),
            "fvu",
            study.member(uid).trial.label,
            float(rows["fvu"].iloc[0]),
            int(rows["seeds"].iloc[0]),
            None if tied is None else int(tied.sum()) - 1,
            tuple(ranges),
        )
    ]


def search(context: ReportContext) -> list[Block]:
    """The trials of a search in the order in which it asked for them."""
    study = context.study
    settings = study.run.config.get("search", {})
    if settings.get("kind") not in KINDS:
        return []
    has_target = settings.get("target") is not None or settings.get("target_count") is not None
    body = _target(study, settings) if has_target else _objectives(study, settings)
    return ["## Search", *body]


def _target(study: Study, settings: dict[str, Any]) -> list[Block]:
    """Every trial's L0 against the target."""
    metric = "l0_fraction" if settings.get("target") is not None else "l0"
    target = settings.get("target") or settings["target_count"]
    tolerance = settings.get("tolerance", 0.1)
    names = _axes(study)
    rows, hits = [], []
    for i, member in enumerate(study.members):
        l0 = member.trial.final.get(metric)
        off = None if l0 is None else l0 / target - 1
        if off is not None and abs(off) <= tolerance:
            hits.append(i)
        mean = member.trial.final.get("l0_fraction_last_half")
        rows.append(
            [
                str(i + 1),
                code(member.trial.label),
                *_values(member, names),
                number(l0),
                MISSING if off is None else f"{100 * off:+.1f} %",
                number(mean),
                _diagnosis(member, off, tolerance),
                _decision(study.members, i, names),
            ]
        )
    note = (
        f"The target is of the final validation's {metric}. The mean of l0_fraction over the last "
        "half of training stands beside it, not in its place."
    )
    claim = Targeted(
        kind_of_search=settings["kind"],
        metric=metric,
        target=target,
        trials=len(study.members),
        at_most=settings["trials"],
        tolerance=tolerance,
        first=hits[0] + 1 if hits else None,
        hits=len(hits),
    )
    header = ["#", "trial", *map(escaped, names), metric, "off target", "mean, last half"]
    return [note, claim, table([*header, "diagnosis", "decision"], rows, left=2)]


def _objectives(study: Study, settings: dict[str, Any]) -> list[Block]:
    """Every trial's objectives and constraints."""
    objectives = [METRICS[name] for name in settings["objective"]]
    names, wanted = _axes(study), [one.name for one in objectives]
    known = [name for name in wanted if name in study.trials]
    best = set(front(study, known).uids) if len(known) == len(wanted) else set()
    rows = [
        [
            str(i + 1),
            code(member.trial.label),
            *_values(member, names),
            *(number(_metric(member, name)) for name in wanted),
            "undominated" if member.trial.uid in best else _ended(member),
        ]
        for i, member in enumerate(study.members)
    ]
    bounds = settings.get("constraints") or []
    note = "Undominated: no ranked trial is at least as good in every objective and better in one."
    if bounds:
        note += " The constraints are not applied there."
    claim = Optimised(
        sampler=settings.get("sampler", "tpe"),
        objectives=tuple((one.name, one.direction) for one in objectives),
        constraints=tuple(bounds),
        trials=len(study.members),
        at_most=settings["trials"],
        undominated=len(best),
    )
    header = ["#", "trial", *map(escaped, names), *wanted, "diagnosis"]
    return [note, claim, table(header, rows, left=2)]


def _axes(study: Study) -> list[str]:
    return list(dict.fromkeys(key for member in study.members for key in member.assignment))


def _values(member: Member, names: Sequence[str]) -> list[str]:
    return [escaped(text(member.assignment.get(name))) for name in names]


def _metric(member: Member, name: str) -> float | None:
    return member.trial.final.get(name, member.trial.config.get("sae", {}).get(name))


def _ended(member: Member) -> str:
    if member.trial.worse_than_mean:
        return "fvu not below 1: no better than the mean"
    return "" if member.trial.status == "done" else member.trial.status


def _diagnosis(member: Member, off: float | None, tolerance: float) -> str:
    if off is None:
        return member.trial.status
    worse = "; fvu not below 1" if member.trial.worse_than_mean else ""
    if abs(off) <= tolerance:
        return f"on target{worse}"
    return f"{'too dense' if off > 0 else 'too sparse'}{worse}"


def _decision(members: Sequence[Member], i: int, names: Sequence[str]) -> str:
    """What the search asked for next where all other axes are equal."""
    moved = next((one for one in names if one.removeprefix("sae.") in PENALTIES), "")
    fixed = [name for name in names if name != moved]
    here = members[i].assignment
    for later in members[i + 1 :]:
        if all(later.assignment.get(name) == here.get(name) for name in fixed):
            before, after = here.get(moved), later.assignment.get(moved)
            if not before or not after:
                return "next"
            return f"{number(after / before, 3)} times the {moved.removeprefix('sae.')}"
    return "end"
