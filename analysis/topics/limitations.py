"""Limitations of a sweep, as claims with figures, the most severe first."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scipy import stats

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import counted, escaped, listed
from analysis.study.hyperparameters import INACTIVE
from analysis.study.settings import device, distinct, versions
from analysis.study.table import Study
from sae_sweep.records import METRICS, TrialRecord

FEW_DEGREES = 10
"""Degrees of freedom below which the noise itself is known to no better than a third or so."""
FEW_TOKENS = 10_000_000
"""Training tokens below which a trial shows the early course; published SAEs take 10^8 or more."""
FEW_VALIDATION_TOKENS = 100_000
MANY_LOST = 0.05
"""Share of ended trials without a rank from which the survivors are a selection."""


@dataclass(frozen=True)
class NoiseUnknown:
    """No configuration has two ranked seeds."""

    configurations: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            "Noise unknown: no configuration has two seeds; differences between single trials "
            "are not evidence, so nothing here is best, only lowest observed "
            f"(n={self.configurations:,})."
        )


@dataclass(frozen=True)
class NoiseUncertain:
    """The noise rests on few repeats."""

    degrees_of_freedom: int
    low: float
    """95 % interval of fvu's sd, each over the sd."""
    high: float

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"The noise of fvu rests on {counted(self.degrees_of_freedom, 'degree')} of freedom: "
            f"its sd may be {self.low:.3g} to {self.high:.3g} times what is used here (95 %)."
        )


@dataclass(frozen=True)
class Lost:
    """Trials that ended without a rank."""

    lost: int
    ended: int
    low: float
    """95 % Wilson interval of the share."""
    high: float

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        share = 100 * self.lost / self.ended
        return (
            f"Without a rank: {self.lost:,} of {counted(self.ended, 'ended trial')} "
            f"({share:.3g} %, 95 % interval {100 * self.low:.3g} to {100 * self.high:.3g} %): "
            "means and ranks are those of the others."
        )


@dataclass(frozen=True)
class Unfinished:
    """Trials that may still come."""

    trials: int
    n: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return f"Not ended: {self.trials:,} of {counted(self.n, 'trial')}, which count nowhere."


@dataclass(frozen=True)
class Unbalanced:
    """The two hyperparameters whose levels lack most pairs."""

    first: str
    second: str
    empty: int
    pairs: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"The grid is not whole: without a ranked trial {self.empty:,} of the {self.pairs:,} "
            f"pairs of levels of {escaped(self.first)} and {escaped(self.second)}, so comparisons "
            "of one mix in the other."
        )


@dataclass(frozen=True)
class Mixed:
    """What the trials do not share, though it may move results."""

    what: str
    found: tuple[tuple[str, int], ...]
    """Each with its trials."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        parts = "; ".join(f"{escaped(name)} ({n:,})" for name, n in self.found)
        return f"Trials mix {self.what}: {parts}. Compare across them with care."


@dataclass(frozen=True)
class SeveralTasks:
    """Trials of different tasks, which are not ranked against each other."""

    tasks: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"The trials are of {self.tasks:,} different activations, each a task of its own: none "
            "is ranked against, preferred to or recommended over one of another."
        )


@dataclass(frozen=True)
class ShortTraining:
    """Few training tokens."""

    low: int
    high: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        extent = f"{self.low:,}" if self.low == self.high else f"{self.low:,} to {self.high:,}"
        return (
            f"Training is short, {extent} tokens per trial (under {FEW_TOKENS:,}): what leads so "
            "early need not lead later."
        )


@dataclass(frozen=True)
class SmallValidation:
    """Few validation tokens."""

    tokens: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Validation has {self.tokens:,} tokens: a latent that fires less often than once in "
            "as many counts as dead."
        )


@dataclass(frozen=True)
class OneSource:
    """What all trials were trained on."""

    sources: int
    widths: tuple[int, ...]

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        of = "one source" if self.sources == 1 else f"{self.sources:,} sources"
        widths = f" (d = {listed([f'{d:,}' for d in self.widths])})" if self.widths else ""
        return f"All of this is about {of} of activations{widths}; for others nothing is said."


@dataclass(frozen=True)
class MassiveRows:
    """A few rows carry much of the variance, as attention sinks do."""

    rows: float
    """Share of the validation rows."""
    variance: float
    """Share of their variance."""
    fvu: float
    """Median over trials."""
    ordinary: float
    """Median of fvu without these rows."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Massive activations: {self.rows:.2%} of the validation rows have norms over 10 times "
            f"the median and carry {self.variance:.0%} of the variance, so fvu is mostly theirs: "
            f"{self.fvu:.3g} in the median of the trials, {self.ordinary:.3g} without them "
            "(fvu_ordinary); `activations.max_norm=10` drops rows of such raw norms."
        )


MANY_OF_THE_VARIANCE = 0.1


def limitations(study: Study) -> list[Claim]:
    """All limitations of this sweep."""
    parts = (_massive, _tasks, _noise, _lost, _unbalanced, _mixed, _scale)
    return [claim for part in parts for claim in part(study)]


def _massive(study: Study) -> Iterator[Claim]:
    names = ("massive_rows", "massive_variance", "fvu", "fvu_ordinary")
    if not set(names) <= set(study.trials.columns):
        return
    found = study.trials[list(names)].dropna()
    worst = found[found["massive_variance"] > MANY_OF_THE_VARIANCE]
    if len(worst):
        yield MassiveRows(*(float(worst[name].median()) for name in names))


def _tasks(study: Study) -> Iterator[Claim]:
    if study.tasks > 1:
        yield SeveralTasks(study.tasks)


def _noise(study: Study) -> Iterator[Claim]:
    if study.ranked.empty:
        return
    found = noise.floor(study, METRICS["fvu"])
    if found is None:
        yield NoiseUnknown(len(study.configurations))
    elif found.degrees_of_freedom < FEW_DEGREES and found.sd:
        low, high = (end / found.sd for end in found.interval)
        yield NoiseUncertain(found.degrees_of_freedom, low, high)


def _lost(study: Study) -> Iterator[Claim]:
    open_ = study.where("queued") | study.where("running") | study.where("interrupted")
    ended = int((~open_).sum())
    lost = ended - len(study.ranked) - int(study.trials["repeat"].sum())
    if ended and lost >= MANY_LOST * ended:
        low, high = stats.binomtest(lost, ended).proportion_ci(method="wilson")
        yield Lost(lost, ended, float(low), float(high))
    if open_.any():
        yield Unfinished(int(open_.sum()), len(study.trials))


def _unbalanced(study: Study) -> Iterator[Claim]:
    place = study.trials["ranked"].to_numpy()
    found = []
    # a conditional setting lacks pairs by design, and a sampled axis has ranges, not levels
    plain = [one for one in study.hyperparameters if INACTIVE not in one.order]
    plain = [one for one in plain if len(set(map(str, one.given))) == len(one.order)]
    for one, other in itertools.combinations(plain, 2):
        seen = {(a, b) for a, b, in_ in zip(one.levels, other.levels, place, strict=True) if in_}
        pairs = len(one.order) * len(other.order)
        found.append(Unbalanced(one.name, other.name, pairs - len(seen), pairs))
    worst = max(found, key=lambda claim: claim.empty / claim.pairs, default=None)
    if worst is not None and worst.empty and place.any():
        yield worst


def _mixed(study: Study) -> Iterator[Claim]:
    read: dict[str, Callable[[TrialRecord], str | None]] = {
        "devices or threads": device,
        "versions of the code": lambda one: one.git,
        "versions of libraries": lambda one: versions(one.versions) or None,
        "activations": lambda one: one.config.get("activations", {}).get("fingerprint"),
    }
    for what, of in read.items():
        found = distinct(study, of)
        if len(found) > 1 and not (what == "activations" and study.tasks > 1):
            yield Mixed(what, tuple(found.items()))


def _scale(study: Study) -> Iterator[Claim]:
    tokens = study.trials["tokens"].dropna()
    if len(tokens) and tokens.min() < FEW_TOKENS:
        yield ShortTraining(int(tokens.min()), int(tokens.max()))
    sources = [one.config.get("activations", {}) for one in study.records]
    sizes = [one["validation_tokens"] for one in sources if one.get("validation_tokens")]
    if sizes and min(sizes) < FEW_VALIDATION_TOKENS:
        yield SmallValidation(int(min(sizes)))
    fingerprints = {one["fingerprint"] for one in sources if one.get("fingerprint")}
    if fingerprints:
        widths = sorted({one["d"] for one in sources if one.get("d")})
        yield OneSource(len(fingerprints), tuple(widths))


def limits(context: ReportContext) -> list[Block]:
    """The section on limitations."""
    study = context.study
    found = limitations(study)
    return ["## What cannot be said", *found] if found else []
