"""Files of a trial's latents: their table, and the collected contexts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd

from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records.names import CONTEXTS_FILE


def table(folder: Path) -> pd.DataFrame:
    """latents.parquet of a trial's folder, by the latents' ids.

    Raises:
        BadInput: it is missing or damaged.
    """
    path = folder / "latents.parquet"
    with edge(str(path), "give a trial that is done, or run its sweep again with rerun=all"):
        return pd.read_parquet(path).set_index("id").sort_index()


def contexts(folder: Path, n_latents: int) -> dict[str, Any]:
    """Where each of a trial's latents fires, as the training half has collected it.

    Raises:
        BadInput: it has not, the file is damaged, or it is of another number of latents.
    """
    path, uid = folder / CONTEXTS_FILE, folder.name.rpartition("-")[2]
    if not path.exists():
        raise BadInput(
            f"{path} does not exist: python -m sae_sweep latents {uid} collects where the trial's "
            "latents fire"
        )
    with edge(str(path), f"delete it and run python -m sae_sweep latents {folder.name}"):
        found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    if len(found["latents"]) != n_latents:
        raise BadInput(
            f"{folder}: {n_latents} latents in latents.parquet and {len(found['latents'])} in "
            f"{CONTEXTS_FILE}: delete {CONTEXTS_FILE} and run python -m sae_sweep latents {uid}"
        )
    return found
