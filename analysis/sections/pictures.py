"""Sections that are mostly figures."""

from analysis.blocks import Block
from analysis.study import Study


def picture(study: Study, name: str, words: str) -> list[str]:
    """The line that shows a figure, where it was drawn."""
    return [f"![{words}](figures/{name}.png)"] if name in study.figures else []


def heatmaps(study: Study) -> list[Block]:
    """Sparsity by width, a figure a metric."""
    shown = [
        line
        for metric in study.main_metrics
        for line in picture(study, f"heatmap_{metric.name}", f"{metric.name} by sparsity and width")
    ]
    if not shown:
        return []
    note = "Median over all other settings, with the number of ranked trials; hatched: none."
    return ["## Sparsity by width", note, *shown]


def training_curves(study: Study) -> list[Block]:
    """The course of the metrics during training."""
    shown = [
        line
        for name in ("fvu", "dead_features", "loss")
        for line in picture(study, f"curves_{name}", f"{name} during training")
    ]
    if not shown:
        return []
    note = (
        "As reported while training: fvu and dead_features over the first validation tokens, loss "
        "over a batch. In colour the recommended trials, then the front; the others in grey. "
        "Losses of different coefficients are not comparable."
    )
    return ["## Training curves", note, *shown]
