"""The latents of one trial as one HTML page that needs nothing else, and lists of their ids."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from analysis.latents.data import contexts, table
from analysis.latents.neuronpedia import write_neuronpedia
from sae_sweep.records import TrialRecord
from sae_sweep.records.names import LATENTS_PAGE

__all__ = ["FILTERS", "filtered", "write_neuronpedia", "write_page"]

ALWAYS_ON = 0.8
"""Share of validation tokens above which a latent counts as always on, as the metric does."""
FILTERS = ("always_on", "dead")
GROUP = "frequency_"
MOST_CONTEXTS = 400_000
"""Highlighted tokens that a page holds; of larger trials each latent shows fewer contexts."""


def write_page(trial: TrialRecord, folder: Path) -> Path:
    """Write latents.html into a trial's folder.

    Args:
        trial: its record.
        folder: holds latents.parquet and the contexts that the training half has collected.

    Raises:
        BadInput: one of them is missing or damaged.
    """
    page = folder / LATENTS_PAGE
    text = (
        _file("page.html")
        .replace("{{ style }}", _file("page.css"))
        .replace("{{ script }}", _file("page.js"))
        .replace("{{ data }}", _script_data(_data(trial, folder)))
    )
    temporary = page.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(page)
    return page


def filtered(folder: Path, which: str) -> list[int]:
    """Ids of a trial's latents that are always on, or dead.

    Raises:
        BadInput: the trial's table of latents is missing.
    """
    frequency = table(folder)["frequency"]
    chosen = frequency > ALWAYS_ON if which == "always_on" else frequency == 0
    return [int(one) for one in frequency.index[chosen]]


def _data(trial: TrialRecord, folder: Path) -> dict[str, Any]:
    known = table(folder)
    found = contexts(folder, len(known))
    latents = found["latents"]
    told = sum(len(shown) for one in latents for *_, shown in one["contexts"])
    if told > MOST_CONTEXTS:
        keep = max(3, int(10 * MOST_CONTEXTS / told))
        for one in latents:
            one["contexts"] = one["contexts"][:keep]
    groups = [name for name in known.columns if name.startswith(GROUP)]
    specific = known[groups].div(known[groups].sum(axis=1).where(lambda total: total > 0), axis=0)
    return {
        "name": trial.label,
        "uid": trial.uid,
        "alwaysOn": ALWAYS_ON,
        "groups": [name.removeprefix(GROUP) for name in groups],
        "frequency": known["frequency"].tolist(),
        "largest": [float(f"{one:.4g}") for one in known["max_activation"]],
        "shares": specific.fillna(0).round(3).to_numpy().tolist() if len(groups) > 1 else [],
        **found,
    }


def _file(name: str) -> str:
    return resources.files("analysis.latents").joinpath(name).read_text(encoding="utf-8")


def _script_data(value: object) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
