"""A trial's activations as delphi caches them, for explanations by a language model.

The layout is that of `LatentCache.save_splits` and `LatentDataset` in EleutherAI's delphi (0.1.3 of
eai-delphi): in a folder per hookpoint, files `<first latent>_<last latent>.safetensors` with
`locations` [n, 3] (sequence, place in it, latent counted from the file's first), `activations` [n]
and `tokens` [sequences, length], and `config.json`.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from safetensors.numpy import save

from sae_sweep.activations import open_activations
from sae_sweep.activations.model_folder import model_folder
from sae_sweep.activations.pretrained import load_tokenizer
from sae_sweep.config import ActivationsConfig
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.evaluate.contexts import fired
from sae_sweep.sae import load
from sae_sweep.sae.weights import read_config

SPLITS = 5
"""Files that latents are spread over, as delphi does by default."""
EXAMPLE = 32
"""Tokens of an example of delphi's, by default: the length of a sequence is a multiple of it."""


class Sequences(NamedTuple):
    """The validation text in sequences of one length, and where in them each row stands."""

    tokens: Int64[np.ndarray, "sequences length"]
    sequence: Int64[np.ndarray, " rows"]
    place: Int64[np.ndarray, " rows"]


def write(folder: Path, outputs: Path) -> Path:
    """Write `delphi/latents/<hookpoint>/` into a finished trial's folder.

    Args:
        folder: the trial's, with its weights.
        outputs: folder of all outputs, below which its activations lie.

    Returns:
        The folder `latents`, which delphi's `LatentDataset` reads.

    Raises:
        BadInput: for a trial without weights, activations that are no model's tokens, or that do
            not know them.
    """
    sae, settings = load(folder), read_config(folder)["activations"]
    if "model" not in settings or settings.get("pooling", "token") != "token":
        raise BadInput(
            f"{folder.name} was not trained on a model's activations token by token, which delphi "
            "shows with its tokeniser: give a trial with activations.model and pooling=token"
        )
    names = {name: settings[name] for name in ("model", "revision") if name in settings}
    config = ActivationsConfig(**names, layer=settings["layer"])
    model = model_folder(config)
    activations = open_activations(outputs / "activations" / settings["fingerprint"])
    origins = activations.validation_origins()
    tokenizer = load_tokenizer(model, config)
    roles = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    padding = next(one for one in roles if one is not None)
    found = sequences(origins.token_id.numpy(), origins.window.numpy(), padding)
    target = folder / "delphi" / "latents" / hookpoint(settings)
    values = fired(sae, activations)
    edges = np.linspace(0, values.shape[1], min(SPLITS, values.shape[1]) + 1).astype(int)
    for first, after in pairwise(edges):
        part = values[:, first:after].tocoo()
        order = np.lexsort((part.row, part.col))
        row, latent = part.row[order], part.col[order]
        locations = np.stack([found.sequence[row], found.place[row], latent], axis=1)
        tensors = {
            "locations": locations.astype(np.uint32),
            "activations": part.data[order].astype(np.float32),
            "tokens": found.tokens,
        }
        with replacing(target / f"{first}_{after - 1}.safetensors") as path:
            path.write_bytes(save(tensors))
    with replacing(target / "config.json") as path:
        path.write_text(json.dumps(_config(settings, model, found)), encoding="utf-8")
    return target.parent


def hookpoint(settings: dict[str, Any]) -> str:
    """The name of the place that a trial reads: a module's path, or `layers.` and its block."""
    if settings.get("hook"):
        return str(settings["hook"]).format(layer=settings["layer"])
    return f"layers.{settings['layer'] - 1}" if settings["layer"] else "embeddings"


def sequences(
    token_id: Int64[np.ndarray, " rows"], window: Int64[np.ndarray, " rows"], padding: int
) -> Sequences:
    """Lay each window down as a sequence of its own, padded on the right to the longest."""
    begins = np.flatnonzero(np.diff(window, prepend=window[0] - 1))
    lengths = np.diff(np.append(begins, len(window)))
    sequence = np.repeat(np.arange(len(begins)), lengths)
    place = np.arange(len(window)) - np.repeat(begins, lengths)
    length = -(-int(lengths.max()) // EXAMPLE) * EXAMPLE
    tokens = np.full((len(begins), length), padding, dtype=np.int64)
    tokens[sequence, place] = token_id
    return Sequences(tokens, sequence, place)


def _config(settings: dict[str, Any], model: Path, found: Sequences) -> dict[str, Any]:
    """What delphi's CacheConfig holds, and the model whose tokeniser it loads."""
    n, length = found.tokens.shape
    return {
        "dataset_repo": str(settings.get("text", "")),
        "dataset_split": "validation",
        "dataset_name": "",
        "dataset_column": settings.get("text_column", "text"),
        "batch_size": 1,
        "cache_ctx_len": length,
        "ctx_len": length,
        "n_tokens": n * length,
        "n_splits": SPLITS,
        "model_name": str(model.absolute()),
    }
