"""Which hyperparameters explain most of each metric, and whether that order is sure."""

from collections.abc import Iterator
from dataclasses import dataclass

from analysis import verdicts
from analysis.blocks import Block, Claim
from analysis.importance import PER_PARAMETER, SURE, Importances, enough, importances
from analysis.markdown import MISSING, counted, escaped, listed, table
from analysis.resampling import HALVES
from analysis.samples import varies
from analysis.sections.pictures import picture
from analysis.study import Study


@dataclass(frozen=True)
class MattersMore:
    """A hyperparameter that surely explains more than others."""

    hyperparameter: str
    metric: str
    than: tuple[str, ...]
    least: float
    """Smallest share of the halves in which it does."""

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.hyperparameter)}** matters more for {self.metric} than "
            f"{listed([escaped(one) for one in self.than])}: it explains more in "
            f"{'all' if self.least == 1 else f'at least {100 * self.least:.0f} %'} of the halves."
        )


@dataclass(frozen=True)
class TooFewForImportance:
    """A sweep too small for shares of variance."""

    configurations: int
    parameters: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"Not given: {counted(self.configurations, 'configuration')} for "
            f"{counted(self.parameters, 'parameter')}, under {PER_PARAMETER} for each."
        )


def importance(study: Study) -> list[Block]:
    """Partial eta^2 with intervals and rank ranges, a table a metric."""
    if len(study.hyperparameters) < 2 or study.ranked.empty:
        return []
    judged = verdicts.judge(study)
    title = "## Importance"
    usable = [
        one
        for one in verdicts.outcomes(study)
        if enough(judged.designs[one.name]) and varies(judged.samples[one.name].y)
    ]
    if not usable:
        n, parameters = min(one.x.shape for one in judged.designs.values())
        if n >= PER_PARAMETER * parameters:
            return []
        return [title, TooFewForImportance(n, parameters)]
    note = (
        "Partial η²: of the variance that the other hyperparameters leave, the share that this one "
        f"explains in the additive model. Interval and ranks: 5 to 95 % of {HALVES} random halves "
        f"of the configurations. One is said to matter more where its effect is claimed and it "
        f"explains more in at least {100 * SURE:.0f} % of the halves."
    )
    parts: list[Block] = [title, note]
    rows = []
    for metric in usable:
        found = importances(judged.designs[metric.name], judged.samples[metric.name].y)
        parts += _claims(found, judged, metric.name)
        for i, one in enumerate(found.found):
            bounds = MISSING
            if one.interval is not None:
                bounds = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}"
            first, last = one.ranks
            rows.append(
                [
                    metric.name if i == 0 else "",
                    escaped(one.factor.hyperparameter.name),
                    f"{one.share:.2f}",
                    bounds,
                    f"{first}" if first == last else f"{first} to {last}",
                ]
            )
    header = ["metric", "hyperparameter", "partial η²", "interval", "rank"]
    drawn = picture(study, "importance", "importance with intervals")
    return [*parts, table(header, rows, left=2), *drawn]


def _claims(found: Importances, judged: verdicts.Effects, metric: str) -> Iterator[Claim]:
    claimed = {
        one.hyperparameter.name
        for one in judged.found
        if one.metric.name == metric and one.is_claimed
    }
    names = [one.factor.hyperparameter.name for one in found.found]
    for i, name in enumerate(names):
        behind = [j for j in range(len(names)) if j != i and found.ahead[i, j] >= SURE]
        if name in claimed and behind:
            least = float(min(found.ahead[i, j] for j in behind))
            yield MattersMore(name, metric, tuple(names[j] for j in behind), least)
