"""The noise floor."""

from dataclasses import dataclass

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.findings.noise import Floor
from analysis.findings.ranking import lowest
from analysis.page.blocks import Block
from analysis.page.markdown import counted, number, table
from analysis.study import scales
from analysis.study.table import Study
from analysis.topics.limitations import NoiseUnknown
from sae_sweep.records import METRICS, Metric

MOST_SEEDS = 4
"""Seeds per configuration up to which the detectable difference is listed."""
AGAIN = 3
"""First configurations to run again, and seeds to give them."""


@dataclass(frozen=True)
class Detectable:
    """The least detectable difference of two single trials."""

    metric: str
    distance: float
    """On the metric's scale."""
    degrees_of_freedom: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        if not self.distance:
            degrees = counted(self.degrees_of_freedom, "degree")
            return f"Noise: none in {self.metric} between seeds ({degrees} of freedom)."
        step = scales.difference(METRICS[self.metric], self.distance)
        return (
            f"Noise: two single trials are told apart when {self.metric} differs by {step} or more "
            f"({counted(self.degrees_of_freedom, 'degree')} of freedom)."
        )


@dataclass(frozen=True)
class Uneven:
    """The noise is not the same everywhere."""

    metric: str
    p: float
    half: str

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"The noise of {self.metric} differs between configurations (Levene p = "
            f"{number(self.p, 2)}): its sd is that of the {self.half} half by {self.metric}, where "
            "it is larger."
        )


@dataclass(frozen=True)
class WinnersCurse:
    """How far the lowest of equally good configurations lies below their mean, by chance."""

    metric: str
    n: int
    seeds: int
    """Of the lowest."""
    expected: float
    """In standard deviations."""
    distance: float
    """On the metric's scale."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        step = scales.difference(METRICS[self.metric], self.distance)
        return (
            f"Were all {self.n:,} configurations equally good, the lowest {self.metric} would "
            f"still be expected {self.expected:.3g} sd, {step}, below their mean: run the first "
            f"{AGAIN} again with {AGAIN} new seeds, and keep those values apart from the "
            f"{counted(self.seeds, 'seed')} by which they were chosen."
        )


def noise_floor(context: ReportContext) -> list[Block]:
    """The spread between seeds, or that it is unknown."""
    study = context.study
    if study.ranked.empty:
        return []
    floors = [one for metric in study.main_metrics if (one := noise.floor(study, metric))]
    if not floors:
        return ["## Noise floor", NoiseUnknown(len(study.configurations))]
    note = (
        "Pooled over the configurations with two or more ranked seeds, on the metric's scale; in "
        "brackets the 95 % interval (chi-squared). Two means over m seeds each that lie closer "
        "than the last columns are not told apart (Tukey's test of all pairs of configurations, "
        "5 % for all metrics together; where some configurations have a single seed also a "
        "permutation test, which assumes no distribution of the noise). Levene's test, about the "
        "median, asks whether all configurations of three seeds or more share one sd."
    )
    columns = [f"told apart from, m = {m}" for m in range(1, MOST_SEEDS + 1)]
    header = ["metric", "configurations", "degrees of freedom", "sd between seeds", "Levene p"]
    rows = [_row(one) for one in floors]
    return ["## Noise floor", note, table([*header, *columns], rows), *_sentences(study, floors)]


def detectable(study: Study, metric: Metric) -> list[Detectable]:
    """The sentence on what two single trials must differ by; none where noise is unknown."""
    found = noise.floor(study, metric)
    if found is None:
        return []
    return [Detectable(metric.name, found.detectable, found.degrees_of_freedom)]


def _row(one: Floor) -> list[str]:
    sd, low, high = (short(one.metric, distance) for distance in (one.sd, *one.interval))
    steps = [float(one.between(m, m)) for m in range(1, MOST_SEEDS + 1)]
    return [
        one.metric.name,
        f"{one.configurations:,}",
        f"{one.degrees_of_freedom:,}",
        f"{sd} [{low}, {high}]",
        number(one.p_equal, 2),
        *(short(one.metric, step) for step in steps),
    ]


def short(metric: Metric, distance: float) -> str:
    """A distance on the metric's scale, with a cross for a factor."""
    return scales.difference(metric, distance).replace("a factor of ", "x ")


def _sentences(study: Study, floors: list[Floor]) -> list[Block]:
    claims: list[Block] = [*(claim for one in floors for claim in detectable(study, one.metric))]
    claims += [
        Uneven(one.metric.name, one.p_equal, one.half)
        for one in floors
        if one.half is not None and one.p_equal is not None
    ]
    rows = lowest(study, "fvu")
    if floors[0].metric.name == "fvu" and len(rows) > 1:
        expected, seeds = noise.expected_extreme(len(rows)), int(rows["seeds"].iloc[0])
        distance = expected * floors[0].sd / seeds**0.5
        claims.append(WinnersCurse("fvu", len(rows), seeds, expected, distance))
    return claims
