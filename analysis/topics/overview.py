"""What was run; definitions and statistics of the metrics."""

from collections import Counter
from dataclasses import dataclass

from analysis.context import ReportContext
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, counted, duration, escaped, listed, number, table
from analysis.study import scales, settings
from analysis.study.table import Study
from sae_sweep.records import STATUSES, Metric

ACTIVATIONS = {
    "model": "{model}, layer {layer}, over {text}",
    "files": "the files of {files}",
    "synthetic": "a synthetic dictionary",
}
"""How each kind of source is called, from its settings."""


@dataclass(frozen=True)
class Counts:
    """Counts of the trials by status."""

    trials: int
    configurations: int
    statuses: tuple[tuple[str, int], ...]
    ranked: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        total = counted(self.trials, "trial")
        if not self.trials:
            return f"{total}."
        parts = listed([f"{n:,} {status}" for status, n in self.statuses])
        verb = "is" if self.ranked == 1 else "are"
        return (
            f"{total} of {counted(self.configurations, 'configuration')}: {parts}. {self.ranked:,} "
            f"{verb} ranked: done, with a finite fvu below 1."
        )


@dataclass(frozen=True)
class Varied:
    """The axes, each with its levels."""

    axes: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        if not self.axes:
            return "No setting varies but the seeds."
        parts = "; ".join(
            f"{escaped(name)} {escaped(', '.join(levels))}" for name, levels in self.axes
        )
        return f"Varied: {parts}."


@dataclass(frozen=True)
class Source:
    """What the SAEs were trained on."""

    source: str
    d: int
    train_tokens: int
    validation_tokens: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Activations: {escaped(self.source)}, d = {self.d:,}, {self.train_tokens:,} training "
            f"and {self.validation_tokens:,} validation rows."
        )


@dataclass(frozen=True)
class Tokens:
    """How long a trial is trained."""

    low: int
    high: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        extent = f"{self.low:,}" if self.low == self.high else f"{self.low:,} to {self.high:,}"
        return f"A trial is trained on {extent} tokens, repeats counted."


@dataclass(frozen=True)
class Time:
    """What the trials took."""

    seconds: float
    trials: int
    median: float
    devices: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        place = f", on {escaped(listed(self.devices))}" if self.devices else ""
        return (
            f"Training and evaluation took {duration(self.seconds)} over "
            f"{counted(self.trials, 'trial')}, {duration(self.median)} in the median{place}."
        )


@dataclass(frozen=True)
class Noted:
    """How an input was read where that was a guess, as the run said it."""

    text: str

    @property
    def words(self) -> str:
        """The note."""
        return escaped(self.text) + "."


def what_was_run(context: ReportContext) -> list[Block]:
    """Trials, axes, activations, tokens, time, and what was guessed."""
    return ["## What was run", *extent(context.study), *map(Noted, context.study.notes)]


def extent(study: Study) -> list[Claim]:
    """What was run, the counts of trials first."""
    counts = Counter(study.trials["status"])
    statuses = tuple((status, counts[status]) for status in STATUSES if counts[status])
    configurations = study.trials["configuration"].nunique()
    claims: list[Claim] = [
        Counts(len(study.trials), int(configurations), statuses, len(study.ranked))
    ]
    axes = tuple((one.name, tuple(one.order)) for one in study.hyperparameters)
    claims += [Varied(axes), *_activations(study)] if len(study.trials) else []
    tokens = study.trials["tokens"].dropna()
    if len(tokens):
        claims.append(Tokens(int(tokens.min()), int(tokens.max())))
    seconds = study.trials["seconds"].dropna()
    if len(seconds):
        devices = tuple(sorted({one.device for one in study.records if one.device}))
        total, middle = float(seconds.sum()), float(seconds.median())
        claims.append(Time(total, len(seconds), middle, devices))
    return claims


def _activations(study: Study) -> list[Claim]:
    """What the SAEs were trained on, where all trials share it."""
    sources = [one.config.get("activations", {}) for one in study.records]
    said = sources[0]
    kind = next((kind for kind in ACTIVATIONS if kind in said), None)
    sizes = ("d", "train_tokens", "validation_tokens")
    if any(one != said for one in sources) or kind is None or not set(sizes) <= said.keys():
        return []
    words = {key: settings.shown(value) for key, value in said.items()}
    return [Source(ACTIVATIONS[kind].format(**words), *(int(said[key]) for key in sizes))]


def definitions(context: ReportContext) -> list[Block]:
    """The metrics that occur, as the registry defines them."""
    study = context.study
    if not study.metrics:
        return []
    better = {"down": "lower", "up": "higher", "none": MISSING}
    known = _definitions(study)
    rows = [
        [one.name, one.unit, better[one.direction], one.scale, escaped(known[one.name])]
        for one in study.metrics
    ]
    note = "Means and correlations are taken on the scale named here."
    if study.imported is not None:
        note += (
            " What a metric is, on which data and at which moment of training it was taken, is as "
            "the tool that wrote the file has it: figures of different tools need not compare."
        )
    header = ["metric", "unit", "better", "scale", "definition"]
    return ["## Metrics", note, table(header, rows, left=5)]


def _definitions(study: Study) -> dict[str, str]:
    """Each metric as the registry defines it, or as an imported file gave it."""
    if study.imported is not None:
        return study.imported.definitions
    return {one.name: one.definition for one in study.metrics}


def statistics(context: ReportContext) -> list[Block]:
    """How each metric is distributed over the ranked trials."""
    study = context.study
    if study.ranked.empty:
        return []
    rows = [_distribution(study, metric) for metric in study.metrics]
    header = ["metric", "n", "mean", "sd", "median", "min", "max", "geometric mean"]
    note = (
        "Over the ranked trials that have the metric; the geometric mean for metrics of log scale "
        "that are positive throughout."
    )
    return ["## Summary statistics", note, table(header, rows)]


def _distribution(study: Study, metric: Metric) -> list[str]:
    values = study.ranked[metric.name].dropna()
    # the sd of equal numbers is rounding noise, not 0
    sd = 0.0 if values.nunique() == 1 and len(values) > 1 else values.std()
    moments = [values.mean(), sd, values.median(), values.min(), values.max()]
    centre = float("nan")
    if metric.scale == "log" and len(values):
        centre = scales.back(metric, study.scaled.loc[values.index, metric.name].mean(skipna=False))
    return [metric.name, f"{len(values):,}", *map(number, moments), number(centre)]
