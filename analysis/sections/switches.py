"""Settings that the sweep switched on and off, in matched pairs."""

from collections.abc import Iterator
from dataclasses import dataclass

from analysis import scales, verdicts, wording
from analysis.blocks import Block, Claim
from analysis.contrast import Contrast, contrasts
from analysis.markdown import MISSING, counted, escaped, table
from analysis.multiplicity import CLAIMED
from analysis.study import Study
from sae_sweep.records import METRICS


@dataclass(frozen=True)
class Switched:
    """A switch's change that matched pairs tell apart from none."""

    hyperparameter: str
    metric: str
    median: float
    """On minus off, on the metric's scale."""
    interval: tuple[float, float] | None
    blocks: int
    p: float

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        better = (self.median > 0) == (metric.direction == "up")
        side = "better" if better else "worse"
        return (
            f"**{escaped(self.hyperparameter)} on:** {side} {self.metric} by "
            f"{scales.change(metric, self.median)}"
            f"{wording.change_interval(metric, self.interval)} in the median of "
            f"{counted(self.blocks, 'matched block')} (Wilcoxon p {wording.equals(self.p)})."
        )


@dataclass(frozen=True)
class NotSwitched:
    """A switch whose change is not told apart from none, or not claimed."""

    hyperparameter: str
    metric: str
    median: float
    interval: tuple[float, float] | None
    blocks: int

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        return (
            f"**{escaped(self.hyperparameter)} on:** no change of {self.metric} is claimed "
            f"(median {scales.change(metric, self.median)}"
            f"{wording.change_interval(metric, self.interval)}, "
            f"n = {counted(self.blocks, 'matched block')})."
        )


def switches(study: Study) -> list[Block]:
    """On against off: a row a switch and metric, and a sentence on each."""
    if study.ranked.empty:
        return []
    found = contrasts(study)
    if not found:
        return []
    note = (
        "A pair is a ranked trial with the setting on and the one with it off whose every other "
        "setting, seeds included, is the same; pairs that differ in the seed or in how far it is on"
        " make one block. Changes are on minus off, medians over the blocks; in brackets the 95 % "
        "interval by Hodges and Lehmann (none below six blocks). `improved` counts the blocks in "
        "which on is better. A change is claimed where the effect is claimed above and Wilcoxon's "
        "p is below 0.05."
    )
    header = ["setting", "metric", "pairs", "blocks", "change", "improved", "equal", "p"]
    rows = table(header, [_row(one) for one in found], left=2)
    return ["## On against off", note, *_claims(study, found), rows]


def _row(one: Contrast) -> list[str]:
    change = MISSING
    if one.blocks:
        change = scales.change(one.metric, one.median) + wording.change_interval(
            one.metric, one.interval
        )
    return [
        escaped(one.hyperparameter.name),
        one.metric.name,
        f"{one.pairs:,}",
        f"{one.blocks:,}",
        change,
        f"{one.improved:,} of {one.blocks:,}",
        f"{one.equal:,} of {one.blocks:,}",
        wording.probability(one.p),
    ]


def _claims(study: Study, found: list[Contrast]) -> Iterator[Claim]:
    judged = verdicts.judge(study)
    for one in found:
        name, metric = one.hyperparameter.name, one.metric.name
        is_claimed = judged.get(one.hyperparameter, one.metric).is_claimed
        if is_claimed and one.p < CLAIMED and one.median != 0:
            yield Switched(name, metric, one.median, one.interval, one.blocks, one.p)
        elif one.interval is not None:
            yield NotSwitched(name, metric, one.median, one.interval, one.blocks)
