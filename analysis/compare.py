"""Trials side by side: the settings in which they differ, and their final metrics."""

from pathlib import Path

from analysis.markdown import number
from analysis.settings import flattened, text
from sae_sweep.records import METRICS, TrialRecord
from sae_sweep.records.store import Reader

IDENTITY = ("uid", "label", "status")


def compare(trials: list[TrialRecord]) -> str:
    """A plain table: a column a trial, a row a setting that differs and a final metric."""
    flat = [dict(flattened(trial.config)) for trial in trials]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [[name, *(str(getattr(trial, name)) for trial in trials)] for name in IDENTITY]
    for key in keys:
        shown = [text(settings.get(key)) for settings in flat]
        if len(set(shown)) > 1:
            rows.append([key, *shown])
    for name in METRICS:
        if any(name in trial.final for trial in trials):
            rows.append([name, *(number(trial.final.get(name)) for trial in trials)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(trials) + 1)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in padded)


def draw(trials: list[TrialRecord], reader: Reader, folder: Path) -> list[Path]:
    """Draw the trials' training curves, a figure a metric."""
    from analysis.figures import curves, style

    folder.mkdir(parents=True, exist_ok=True)
    named = {trial.uid: f"{trial.label} {trial.uid}" for trial in trials}
    drawn = []
    for name in curves.SHOWN:
        history = curves.finite(reader.history(named, name))
        if not history:
            continue
        with style.applied():
            figure, (axes,) = style.new(1, 1, (9, 4.6))
            curves.draw_curves(axes, METRICS[name], history, named)
            drawn.append(folder / f"{style.save(figure, folder, f'compare_{name}')}.png")
    return drawn
