"""Status of the trials, and checks of their records."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from analysis.context import ReportContext
from analysis.findings import record_checks
from analysis.page import style
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import STATUSES, TrialRecord

MOST_LISTED = 20
MOST_NAMED = 5
OPEN = ("queued", "running")


@dataclass(frozen=True)
class MoreLost:
    """Trials without a rank that the table leaves out."""

    hidden: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        more = counted(self.hidden, "more trial")
        return f"{more} without a rank: see `data/runs.csv`, columns status and error."


@dataclass(frozen=True)
class Outlying:
    """Ranked trials far from the others in one metric; they keep their rank."""

    metric: str
    n: int
    outliers: int
    named: tuple[tuple[str, float], ...]
    """The farthest: uid and robust z."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        limit = f"|robust z| > {record_checks.OUTLIER:g} in {self.metric}"
        if not self.outliers:
            return f"No ranked trial of {self.n:,} has {limit}."
        names = ", ".join(f"{code(uid)} ({z:.3g})" for uid, z in self.named)
        return (
            f"{self.outliers:,} of {counted(self.n, 'ranked trial')} have {limit}, the farthest "
            f"{names}; they are labelled here and keep their rank."
        )


@dataclass(frozen=True)
class NoSpread:
    """A metric in which outliers cannot be told."""

    metric: str
    n: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Over half of {counted(self.n, 'ranked trial')} have the same {self.metric}: outliers "
            "in it cannot be told."
        )


@dataclass(frozen=True)
class Broken:
    """Records that cannot be right."""

    rule: str
    trials: int
    named: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        names = ", ".join(map(code, self.named))
        trials = counted(self.trials, "trial")
        return f"**Warning:** {escaped(self.rule)} does not hold in {trials}: {names}."


@dataclass(frozen=True)
class RulesKept:
    """Every record keeps the rules."""

    done: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return f"No rule is broken in {counted(self.done, 'done trial')}."


@dataclass(frozen=True)
class Duplicated:
    """Different configurations with the same result in every metric."""

    groups: int
    trials: int
    named: tuple[str, ...]
    """The trials of the first group."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        names = listed([code(uid) for uid in self.named])
        return (
            f"{counted(self.trials, 'trial')} in {counted(self.groups, 'group')} have equal values "
            f"in every metric at different settings, such as {names}: a setting has no effect "
            "there, or a record is a copy."
        )


@dataclass(frozen=True)
class Skewed:
    """A metric of linear scale that a few trials decide."""

    metric: str
    n: int
    skewness: float
    max_over_median: float | None

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        ratio = ""
        if self.max_over_median is not None:
            ratio = f", largest over median {number(self.max_over_median, 3)}"
        return (
            f"{self.metric} is averaged as it is, and is skewed ({number(self.skewness, 3)}"
            f"{ratio}, n={self.n:,}): read its median, not its mean."
        )


@dataclass(frozen=True)
class Lacking:
    """A metric that ranked trials lack."""

    metric: str
    missing: int
    n: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"{self.metric} is missing or not finite in {self.missing:,} of "
            f"{counted(self.n, 'ranked trial')}: they count nowhere in it."
        )


@dataclass(frozen=True)
class Unreported:
    """Curves with gaps: reports that the store has lost."""

    missing: int
    reported: int
    trials: int
    named: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"{counted(self.missing, 'report')} of {self.missing + self.reported:,} missing in the "
            f"curves of {counted(self.trials, 'finished trial')} "
            f"({listed([code(uid) for uid in self.named])}): the store has lost them; final "
            "metrics do not depend on them."
        )


def status(context: ReportContext) -> list[Block]:
    """Counts, then every trial that ended without a rank, with reason and place."""
    study = context.study
    counts = Counter(study.trials["status"])
    rows = [[one, f"{counts[one]:,}"] for one in STATUSES if counts[one]]
    rows.append(["all", f"{len(study.trials):,}"])
    parts: list[Block] = ["## Status", table(["status", "trials"], rows)]
    parts += context.picture("status_map", "what became of the trials, by level")
    lost = (~study.trials["ranked"] & ~study.trials["status"].isin(OPEN)).to_numpy()
    if lost.any():
        parts += ["### Ended without a rank", *_where(study, lost), *_lost(study, lost)]
    return parts


def _where(study: Study, lost: np.ndarray) -> list[Block]:
    """How these trials spread over the levels, with Wilson intervals of their shares."""
    rows = []
    for one in study.hyperparameters:
        for i, level in enumerate(one.order):
            here = one.at(level)
            n, k = int(here.sum()), int((lost & here).sum())
            low, high = stats.binomtest(k, n).proportion_ci(method="wilson") if n else (0, 1)
            name = escaped(one.name) if i == 0 else ""
            share = f"{100 * k / n:.3g} %" if n else MISSING
            interval = f"{100 * low:.3g} to {100 * high:.3g} %"
            rows.append([name, escaped(level), f"{k:,}", f"{n:,}", share, interval])
    if not rows:
        return []
    header = ["", "level", "without a rank", "trials", "share", "95 % interval"]
    return [table(header, rows, left=2)]


def _lost(study: Study, lost: np.ndarray) -> list[Block]:
    """These trials with the reason of each."""
    records = [one for one, is_lost in zip(study.records, lost, strict=True) if is_lost]
    rows = [
        [code(one.label), code(one.uid), one.status, escaped(_reason(one))]
        for one in records[:MOST_LISTED]
    ]
    text = table(["trial", "uid", "status", "reason"], rows, left=4)
    hidden = len(records) - len(rows)
    return [text, MoreLost(hidden)] if hidden else [text]


def _reason(record: TrialRecord) -> str:
    if record.error:
        return record.error
    if record.worse_than_mean:
        return f"fvu {number(record.final['fvu'])} is not below 1: no better than the mean"
    if record.status == "done":
        return "its fvu is not finite" if "fvu" in record.final else "it has no fvu"
    return "not started" if record.started is None else "no reason recorded"


def checks(context: ReportContext) -> list[Block]:
    """Doubtful records: labelled, counted, and kept."""
    study = context.study
    if not record_checks.checked(study):
        return []
    note = (
        "Nothing is dropped here. Rules: l0 cannot exceed the alive latents or k, "
        "explained_variance is 1 - fvu, shares lie in 0 to 1, a trial stands at one level of each "
        "hyperparameter. Robust z is 0.6745 times the distance from the median over the median "
        "absolute deviation, on the metric's scale."
    )
    return ["## Checks of the records", note, *_violations(study), *_doubts(study)]


def _violations(study: Study) -> list[Claim]:
    found = [
        Broken(one.rule, len(one.uids), tuple(one.uids[:MOST_NAMED]))
        for one in record_checks.violations(study)
    ]
    return [*found] or [RulesKept(record_checks.checked(study))]


def _doubts(study: Study) -> list[Claim]:
    claims: list[Claim] = []
    for one in record_checks.outliers(study):
        if one.z is None:
            claims.append(NoSpread(one.metric.name, one.n))
        else:
            named = tuple((str(uid), float(z)) for uid, z in one.z.head(MOST_NAMED).items())
            claims.append(Outlying(one.metric.name, one.n, len(one.z), named))
    if groups := record_checks.duplicates(study):
        first = tuple(groups[0][:MOST_NAMED])
        claims.append(Duplicated(len(groups), sum(map(len, groups)), first))
    for skew in record_checks.skews(study):
        ratio = skew.max_over_median
        known = ratio if ratio == ratio else None
        claims.append(Skewed(skew.metric.name, skew.n, skew.skewness, known))
    if (lost := record_checks.missing_reports(study)).missing:
        first_lost = tuple(lost.uids[:MOST_NAMED])
        claims.append(Unreported(lost.missing, lost.reported, len(lost.uids), first_lost))
    claims += [Lacking(gap.metric.name, gap.missing, gap.n) for gap in record_checks.gaps(study)]
    return claims


NAME = "status_map"
CAPTION = "what became of the trials, by level of each hyperparameter"
COLUMNS = 2
OUTCOMES = (
    ("ranked", style.COLOURS[0], ""),
    ("done, no rank", style.COLOURS[4], "//"),
    ("stopped", style.COLOURS[2], ".."),
    ("diverged", style.RED, "xx"),
    ("failed or oom", style.BLACK, ""),
    ("not ended", style.GREY, ""),
)
"""Each with its colour and hatch, in the order in which they are stacked."""
KINDS = {"failed": "failed or oom", "oom": "failed or oom", "done": "done, no rank"}
KINDS |= dict.fromkeys(("queued", "running", "interrupted"), "not ended")


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One bar per level, stacked by outcome; none where nothing varies or every trial is ranked."""
    kinds = study.trials["status"].map(lambda one: KINDS.get(one, one))
    kinds = kinds.mask(study.trials["ranked"], "ranked")
    if not study.hyperparameters or bool(study.trials["ranked"].all()):
        return []
    columns = min(COLUMNS, len(study.hyperparameters))
    rows = -(-len(study.hyperparameters) // columns)
    most = max(len(one.order) for one in study.hyperparameters)
    size = (1 + 3.9 * columns, 0.9 + rows * (0.8 + 0.28 * most))
    figure, panels = style.new(rows, columns, size)
    for axes, one in zip(panels, study.hyperparameters, strict=False):
        _panel(one, kinds.to_numpy(), axes)
    for axes in panels[len(study.hyperparameters) :]:
        axes.set_axis_off()
    figure.suptitle("Trials by outcome at each level", fontsize=11, x=0.01, ha="left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4)
    return [style.save(figure, folder, NAME, CAPTION)]


def _panel(one: Hyperparameter, kinds: np.ndarray, axes: Axes) -> None:
    places = np.arange(len(one.order))
    left = np.zeros(len(one.order))
    for name, colour, hatch in OUTCOMES:
        counts = np.array([((kinds == name) & one.at(level)).sum() for level in one.order])
        if (kinds == name).any():
            bars = axes.barh(
                places, counts, 0.7, left, color=colour, label=name, hatch=hatch, edgecolor="white"
            )
            shown = [str(n) if n else "" for n in counts]
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            texts = axes.bar_label(
                bars, shown, label_type="center", color="white", fontsize=9, bbox=box
            )
            for text, n in zip(texts, counts, strict=True):
                text.set_visible(bool(n))
        left += counts
    axes.set_yticks(places, one.order)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_title(one.name, loc="left")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("trials")
