"""Whether the dictionary is the true one, where the activations' features are known."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.context import ReportContext
from analysis.findings.beside_fvu import FEWEST, beside, measured, measured_rows, orders
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import code, counted, number
from analysis.study.table import Study
from sae_sweep.records.metrics import GROUND_TRUTH

TITLE = "The true dictionary"
HEADLINE = "f1"
TRUE_L0 = "true_l0"


@dataclass(frozen=True)
class TrueSparsity:
    """How many features a token has, and where the sweep lies."""

    true_l0: float
    low: float
    """Smallest l0 of the configurations."""
    high: float
    below: int
    """Configurations with a smaller l0 than the truth."""
    n: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**A token sums {number(self.true_l0)} features** on average; the l0 of "
            f"{counted(self.n, 'configuration')} lies between {number(self.low)} and "
            f"{number(self.high)}, of {self.below:,} below the truth."
        )


@dataclass(frozen=True)
class NearestToTruth:
    """The configuration that finds most of the truth, beside the one that reconstructs best."""

    metric: str
    label: str
    value: float
    lowest_fvu: str
    """Label of the one with the lowest fvu."""
    its_value: float
    n: int

    @property
    def words(self) -> str:
        """The sentence."""
        best = (
            f"**Highest {self.metric}:** {code(self.label)}, {number(self.value)}, of "
            f"{counted(self.n, 'configuration')}"
        )
        if self.lowest_fvu == self.label:
            return f"{best}; it has the lowest fvu too."
        return f"{best}; {code(self.lowest_fvu)} has the lowest fvu, with {number(self.its_value)}."


def ground_truth(context: ReportContext) -> list[Block]:
    """A row for each recommended configuration and each on the first front."""
    study = context.study
    metrics = measured(study, GROUND_TRUTH)
    rows = measured_rows(study, metrics)
    if rows.empty:
        return []
    note = (
        "The activations are synthetic: their features are known, and which of them every token "
        "sums. Each latent is taken as a detector of the feature whose direction is nearest to its "
        "decoder row; the metrics are those of SynthSAEBench (arXiv:2602.14687), on all validation "
        "tokens. Low precision and high recall go with too large an l0, the reverse with too small "
        "a one."
    )
    claims: list[Block] = [
        *_sparsity(study, rows),
        *_nearest(study, rows),
        *orders(study, metrics[:2], rows),
    ]
    pictures = context.picture(NAME, CAPTION)
    return [f"## {TITLE}", note, *claims, beside(study, metrics, rows), *pictures]


def _sparsity(study: Study, rows: pd.DataFrame) -> Iterator[TrueSparsity]:
    true = _true_l0(study)
    if true is None or "l0" not in rows or study.configurations.empty:
        return
    l0 = rows["l0"].dropna()
    yield TrueSparsity(true, float(l0.min()), float(l0.max()), int((l0 < true).sum()), len(l0))


def _true_l0(study: Study) -> float | None:
    """Features of a token, where all trials are of one source."""
    if TRUE_L0 not in study.ranked:
        return None
    found = study.ranked[TRUE_L0].dropna().unique()
    return float(found[0]) if len(found) == 1 else None


def _nearest(study: Study, rows: pd.DataFrame) -> Iterator[NearestToTruth]:
    if study.configurations.empty or len(rows) < 2:
        return
    best = rows.sort_values([HEADLINE, "label"], ascending=[False, True], kind="stable")
    least = rows.sort_values(["fvu", "label"], kind="stable")
    yield NearestToTruth(
        HEADLINE,
        str(best["label"].iloc[0]),
        float(best[HEADLINE].iloc[0]),
        str(least["label"].iloc[0]),
        float(least[HEADLINE].iloc[0]),
        len(rows),
    )


NAME = "ground_truth"
CAPTION = "f1 over fvu, and precision and recall over l0, against the true dictionary"


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """F1 over fvu, hue by width; precision and recall over l0, with the true l0 as a line."""
    if not measured(study, GROUND_TRUTH) or study.configurations.empty:
        return []
    points = study.configurations.dropna(subset=["fvu", "l0", "f1", "precision", "recall"])
    if len(points) < FEWEST:
        return []
    figure, (left, right) = style.new(1, 2, (9.5, 4.2))
    colours = style.shades(study, points["n_latents"])
    left.scatter(points["fvu"], points["f1"], s=36, color=colours)
    left.set_xlabel("fvu (ratio)")
    left.set_ylabel("f1")
    for name, marker, colour in (
        ("precision", "o", style.COLOURS[0]),
        ("recall", "^", style.COLOURS[1]),
    ):
        right.scatter(
            points["l0"], points[name], s=32, marker=marker, color=colour, label=name, alpha=0.8
        )
    if (true := _true_l0(study)) is not None:
        right.axvline(true, color=style.BLACK, linewidth=1, linestyle="--", label="true l0")
    right.set_xlabel("l0 (latents/token)")
    right.set_ylabel("share")
    for axes in (left, right):
        axes.set_xscale("log")
        style.plain_ticks(axes, "x")
    handles, _ = right.get_legend_handles_labels()
    figure.legend(handles=[*handles, *style.width_legend(study)], loc="outside lower left", ncols=3)
    return [style.save(figure, folder, NAME, CAPTION)]
