"""Where each latent of a trial fires: contexts, neighbours and a histogram, in one file.

Everything comes from the validation split. The file is JSON, so that a report needs no torch.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy import sparse

from sae_sweep.activations import Activations, open_activations
from sae_sweep.activations.model_folder import model_folder
from sae_sweep.activations.pretrained import load_tokenizer, pieces
from sae_sweep.config import ActivationsConfig
from sae_sweep.disk import replacing
from sae_sweep.records.names import CONTEXTS_FILE
from sae_sweep.sae import AbstractSae, load
from sae_sweep.sae.weights import read_config

TOP = 10
"""Contexts with the largest activations, one per window."""
QUANTILES = (0.75, 0.5, 0.25)
"""Of a latent's windows by their largest activation, from which further contexts come."""
PER_QUANTILE = 2
AROUND = 12
"""Tokens that are shown on either side of the one that fires most."""
NEIGHBOURS = 5
BINS = 20
CHUNK_ENTRIES = 2**22


def write(folder: Path, outputs: Path) -> None:
    """Collect the contexts of a finished trial into its folder.

    Args:
        folder: the trial's, with its weights.
        outputs: folder of all outputs, below which its activations lie.

    Raises:
        BadInput: for a trial without weights, or activations that do not know their tokens.
    """
    sae, settings = load(folder), read_config(folder)["activations"]
    activations = open_activations(outputs / "activations" / settings["fingerprint"])
    origins = activations.validation_origins()
    values = fired(sae, activations)
    windows = origins.window.numpy().astype(np.int64)
    ids, places = np.unique(origins.token_id.numpy(), return_inverse=True)
    nearest = _nearest(sae)
    latents = [
        {
            "contexts": _contexts(values, latent, windows),
            "histogram": _histogram(values, latent),
            "neighbours": nearest[latent],
        }
        for latent in range(values.shape[1])
    ]
    found = {
        "pieces": _pieces(settings, ids.tolist()),
        "tokens": places.tolist(),
        "windows": np.flatnonzero(np.diff(windows, prepend=-2)).tolist(),
        "latents": latents,
    }
    text = json.dumps(found, separators=(",", ":"))  # dump() would encode in Python
    with replacing(folder / CONTEXTS_FILE) as path:
        path.write_bytes(gzip.compress(text.encode(), compresslevel=5))


@torch.no_grad()
def fired(sae: AbstractSae, activations: Activations) -> Any:
    """Activations of all validation rows, [rows, latents], as a sparse matrix by latent."""
    m, parts = len(sae.w_dec), []
    step = max(1, CHUNK_ENTRIES // m)
    for start in range(0, activations.n_validation, step):
        x = activations.validation_rows(start, min(start + step, activations.n_validation))
        parts.append(sparse.csr_matrix(sae.read(x).latents.abs().numpy()))
    whole = sparse.vstack(parts).tocsc()
    whole.sort_indices()
    return whole


def _contexts(fired: Any, latent: int, windows: Int64[np.ndarray, " rows"]) -> list[list[Any]]:
    """The latent's contexts: [kind, first row, row after the last, [[row, activation], ...]]."""
    inside = slice(fired.indptr[latent], fired.indptr[latent + 1])
    rows, values = fired.indices[inside], fired.data[inside]
    peaks = _peaks(rows, values, windows)
    chosen = [("top", one) for one in peaks[:TOP]]
    for quantile in QUANTILES:
        at = min(round((1 - quantile) * len(peaks)), len(peaks))
        kind = f"quantile {quantile:g}"
        chosen += [(kind, one) for one in peaks[max(at, TOP) : max(at, TOP) + PER_QUANTILE]]
    found: list[list[Any]] = []
    for kind, peak in chosen:
        row = rows[peak]
        near = np.arange(max(row - AROUND, 0), min(row + AROUND + 1, len(windows)))
        near = near[windows[near] == windows[row]]
        start, stop = int(near[0]), int(near[-1]) + 1
        low, high = np.searchsorted(rows, [start, stop])
        shown = [[int(r), _short(v)] for r, v in zip(rows[low:high], values[low:high], strict=True)]
        found.append([kind, start, stop, shown])
    return found


def _peaks(
    rows: Int64[np.ndarray, " fired"],
    values: Float32[np.ndarray, " fired"],
    windows: Int64[np.ndarray, " rows"],
) -> Int64[np.ndarray, " windows"]:
    """Places of the largest activation of each window, the largest first."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(windows[rows[order]], return_index=True)
    return order[np.sort(first)]


def _histogram(fired: Any, latent: int) -> list[int]:
    """Counts of the activations above 0 in equal bins up to the largest."""
    values = fired.data[fired.indptr[latent] : fired.indptr[latent + 1]]
    if not len(values):
        return []
    return np.histogram(values, bins=BINS, range=(0, float(values.max())))[0].tolist()


@torch.no_grad()
def _nearest(sae: AbstractSae) -> list[list[list[float]]]:
    """The latents whose decoder rows have the largest cosines with each: [id, cosine]."""
    unit = torch.nn.functional.normalize(sae.w_dec, dim=1)
    m = len(unit)
    step = max(1, CHUNK_ENTRIES // m)
    found: list[list[list[float]]] = []
    for start in range(0, m, step):
        cosine = unit[start : start + step] @ unit.T
        own = torch.arange(len(cosine))
        cosine[own, own + start] = -2
        top = cosine.topk(min(NEIGHBOURS, m - 1), dim=1)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found += [[[i, _short(c)] for i, c in zip(*pair, strict=True)] for pair in pairs]
    return found


def _pieces(settings: dict[str, Any], ids: list[int]) -> list[str]:
    """The text of each token; its number where the activations come from files."""
    if "model" not in settings:
        return [f"[{one}]" for one in ids]
    names = {name: settings[name] for name in ("model", "revision") if name in settings}
    config = ActivationsConfig(**names, layer=0)
    return pieces(load_tokenizer(model_folder(config), config), ids)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
