"""A trial's latents as Neuronpedia imports them: features and their contexts, in gzipped lines.

The layout is that which docs.neuronpedia.org/api-and-data/exports describes and the exporter of
SAEDashboard writes: `<model>/<source>/` with release, model, sourceset and source.jsonl, and
`features/` and `activations/` with `batch-<i>.jsonl.gz`.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.latents.data import contexts, table
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord

CREATOR = "clkht01d40000jv08hvalcvly"
"""The account that SAEDashboard's exporter enters where none is named."""
BATCH = 1024
"""Latents per file."""
UNKNOWN: dict[str, Any] = {
    "vector": [],
    "vectorLabel": None,
    "vectorDefaultSteerStrength": 10,
    **{f"neuron_alignment_{one}": [] for one in ("indices", "values", "l1")},
    **{f"correlated_neurons_{one}": [] for one in ("indices", "pearson", "l1")},
    **{f"correlated_features_{one}": [] for one in ("indices", "pearson", "l1")},
    **{f"{sign}_{one}": [] for sign in ("neg", "pos") for one in ("str", "values")},
    **{f"logits_hist_data_bar_{one}": [] for one in ("heights", "values")},
    "decoder_weights_dist": [],
}
"""What a feature has there and validation contexts do not tell: logits, neurons, steering."""


def write_neuronpedia(trial: TrialRecord, folder: Path) -> Path:
    """Write `neuronpedia/<model>/<source>/` into a trial's folder.

    Args:
        trial: its record.
        folder: holds latents.parquet and the contexts that the training half has collected.

    Returns:
        The source's folder.

    Raises:
        BadInput: one of them is missing or damaged, or the trial is of no known model.
    """
    settings = trial.config.get("activations", {})
    if "model" not in settings:
        raise BadInput(
            f"{trial.folder} was trained on activations of no known model, which Neuronpedia files "
            "its latents under: give a trial of activations.model"
        )
    model = PurePosixPath(str(settings["model"]).rpartition(":")[2]).name
    # blocks are counted from 0 there
    source = f"{max(int(settings['layer']) - 1, 0)}-sae_sweep-{trial.uid}"
    target = folder / "neuronpedia" / model / source
    now = datetime.now(UTC).isoformat()
    shared = {"creatorId": CREATOR, "createdAt": now}
    for name, row in _heads(trial, model, source).items():
        _write(target / f"{name}.jsonl", [row | shared])
    found = contexts(folder, len(table(folder)))
    features = list(_features(folder, found, {"modelId": model, "layer": source} | shared))
    for start in range(0, len(features), BATCH):
        batch = features[start : start + BATCH]
        name = f"batch-{start // BATCH}.jsonl.gz"
        _write(target / "features" / name, [feature for feature, _ in batch])
        _write(target / "activations" / name, [one for _, each in batch for one in each])
    return target


def _heads(trial: TrialRecord, model: str, source: str) -> dict[str, dict[str, Any]]:
    """The rows that say what the features belong to, by the names of their files."""
    settings = trial.config["activations"]
    name = source.partition("-")[2]
    text = f"{trial.label}, {trial.config.get('sae', {}).get('kind', '')} SAE by sae_sweep"
    return {
        "release": {
            "name": name,
            "description": text,
            "descriptionShort": text,
            "creatorName": "sae_sweep",
            "creatorNameShort": "sae_sweep",
            "urls": [],
        },
        "model": {"id": model, "instruct": False, "displayName": model, "displayNameShort": model},
        "sourceset": {
            "modelId": model,
            "name": name,
            "releaseName": name,
            "creatorName": "sae_sweep",
            "description": text,
            "visibility": "PUBLIC",
        },
        "source": {
            "id": source,
            "modelId": model,
            "setName": name,
            "dataset": str(settings.get("text", "")),
            "num_tokens_in_prompt": settings.get("context"),
            "visibility": "PUBLIC",
        },
    }


def _features(
    folder: Path, found: dict[str, Any], shared: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each latent's row, and a row for each of its contexts."""
    told = table(folder)
    words = [found["pieces"][one] for one in found["tokens"]]
    for latent, one in enumerate(found["latents"]):
        largest = float(told["max_activation"].iloc[latent])
        bins = len(one["histogram"])
        feature = shared | UNKNOWN | {
            "index": str(latent),
            "maxActApprox": largest,
            "hasVector": False,
            "hookName": None,
            "topkCosSimIndices": [int(other) for other, _ in one["neighbours"]],
            "topkCosSimValues": [cosine for _, cosine in one["neighbours"]],
            "frac_nonzero": float(told["frequency"].iloc[latent]),
            "freq_hist_data_bar_heights": one["histogram"],
            "freq_hist_data_bar_values": [(i + 0.5) * largest / bins for i in range(bins)],
        }  # fmt: skip
        activations = [
            shared | _activation(words[start:stop], {row - start: value for row, value in shown})
            | {"id": f"{shared['layer']}-{latent}-{place}", "index": str(latent)}
            for place, (_, start, stop, shown) in enumerate(one["contexts"])
        ]  # fmt: skip
        yield feature, activations


def _activation(tokens: list[str], fired: dict[int, float]) -> dict[str, Any]:
    values = [fired.get(place, 0.0) for place in range(len(tokens))]
    most = max(values)
    return {
        "tokens": tokens,
        "values": values,
        "maxValue": most,
        "maxValueTokenIndex": values.index(most),
        "minValue": min(values),
        "dfaValues": [],
        "lossValues": [],
    }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a line of JSON per row, gzipped where the name says so; whole or not at all."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    temporary.replace(path)
