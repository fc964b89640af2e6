"""The latents of one trial as one HTML page that needs nothing else, and lists of their ids."""

import gzip
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records import TrialRecord
from sae_sweep.records.names import CONTEXTS_FILE, LATENTS_PAGE

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
    frequency = _table(folder)["frequency"]
    chosen = frequency > ALWAYS_ON if which == "always_on" else frequency == 0
    return [int(one) for one in frequency.index[chosen]]


def _data(trial: TrialRecord, folder: Path) -> dict[str, Any]:
    table, found = _table(folder), _contexts(folder)
    latents = found["latents"]
    if len(latents) != len(table):
        raise BadInput(
            f"{folder}: {len(table)} latents in latents.parquet and {len(latents)} in "
            f"{CONTEXTS_FILE}: delete {CONTEXTS_FILE} and run python -m sae_sweep latents "
            f"{trial.uid}"
        )
    told = sum(len(shown) for one in latents for *_, shown in one["contexts"])
    if told > MOST_CONTEXTS:
        keep = max(3, int(10 * MOST_CONTEXTS / told))
        for one in latents:
            one["contexts"] = one["contexts"][:keep]
    groups = [name for name in table.columns if name.startswith(GROUP)]
    specific = table[groups].div(table[groups].sum(axis=1).where(lambda total: total > 0), axis=0)
    return {
        "name": trial.label,
        "uid": trial.uid,
        "alwaysOn": ALWAYS_ON,
        "groups": [name.removeprefix(GROUP) for name in groups],
        "frequency": table["frequency"].tolist(),
        "largest": [float(f"{one:.4g}") for one in table["max_activation"]],
        "shares": specific.fillna(0).round(3).to_numpy().tolist() if len(groups) > 1 else [],
        **found,
    }


def _table(folder: Path) -> pd.DataFrame:
    path = folder / "latents.parquet"
    with edge(str(path), "give a trial that is done, or run its sweep again with rerun=all"):
        return pd.read_parquet(path).set_index("id").sort_index()


def _contexts(folder: Path) -> dict[str, Any]:
    path = folder / CONTEXTS_FILE
    if not path.exists():
        raise BadInput(
            f"{path} does not exist: python -m sae_sweep latents {folder.name.rpartition('-')[2]} "
            "collects where the trial's latents fire"
        )
    with edge(str(path), f"delete it and run python -m sae_sweep latents {folder.name}"):
        found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        return found


def _file(name: str) -> str:
    return resources.files("analysis.latents").joinpath(name).read_text(encoding="utf-8")


def _script_data(value: object) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
