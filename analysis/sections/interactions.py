"""Where the effect of one hyperparameter depends on another."""

from dataclasses import dataclass

from analysis import wording
from analysis.blocks import Block
from analysis.interactions import FEWEST_RESIDUAL, MOST_EMPTY, SHOWN, Interaction, interactions
from analysis.markdown import counted, escaped, table
from analysis.multiplicity import CLAIMED
from analysis.sections.pictures import picture
from analysis.study import Study

LISTED = 10


@dataclass(frozen=True)
class Interacts:
    """A pair whose effects do not add up."""

    first: str
    second: str
    metric: str
    share: float
    """Of the metric's variance, beyond the additive model."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.first)} and {escaped(self.second)}:** the effect of one on "
            f"{self.metric} depends on the other's level: together they explain "
            f"{100 * self.share:.2g} % of its variance beyond the additive model "
            f"(q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class NoInteraction:
    """No pair that was tested is claimed."""

    tests: int
    largest_share: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"No interaction is claimed: of {counted(self.tests, 'test')}, the largest share of "
            f"variance beyond the additive model is {100 * self.largest_share:.2g} %."
        )


def interaction_section(study: Study) -> list[Block]:
    """The pairs that were tested; those that are claimed, with a heatmap each."""
    if len(study.hyperparameters) < 2 or study.ranked.empty:
        return []
    tested = interactions(study)
    if not tested.found:
        return []
    note = (
        "Share of a metric's variance that a pair's products explain beyond the additive model, "
        f"with its F-test; q over the {counted(tested.tests, 'test')} (Benjamini-Yekutieli). Not "
        f"tested, {tested.skipped:,}: pairs with more than {100 * MOST_EMPTY:.0f} % of their cells "
        f"empty or fewer than {FEWEST_RESIDUAL} configurations beyond the parameters. Claimed at q "
        f"< {CLAIMED} where one of the two has a claimed effect on the metric."
    )
    claims: list[Block] = [
        Interacts(one.first.name, one.second.name, one.metric.name, one.gain, one.q)
        for one in tested.claimed
    ]
    drawn = [
        line
        for one in tested.claimed[:SHOWN]
        for line in picture(study, one.figure, f"{one.metric.name} by both")
    ]
    header = ["metric", "pair", "share of variance", "F", "q"]
    shown = table(header, [_row(one) for one in tested.found[:LISTED]], left=2)
    fold = ["<details><summary>The largest of all tested</summary>", shown, "</details>"]
    silent = NoInteraction(tested.tests, tested.found[0].gain)
    return ["## Interactions", note, *(claims or [silent]), *drawn, *fold]


def _row(one: Interaction) -> list[str]:
    return [
        one.metric.name,
        f"{escaped(one.first.name)}, {escaped(one.second.name)}",
        f"{100 * one.gain:.2g} %",
        f"{one.f:.3g} ({one.df}, {one.residual_df})",
        wording.probability(one.q),
    ]
