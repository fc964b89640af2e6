"""Export to SAELens: cfg.json and sae_weights.safetensors, as SAE.load_from_disk reads them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sae_sweep.activations.disk import replacing
from sae_sweep.sae.base import AbstractSae
from sae_sweep.sae.weights import load, read_config

LAYOUT_VERSION = "6.0.0"
"""The first SAELens release with this layout; without it the loader rewrites the settings."""


def export(folder: str | Path, destination: str | Path) -> None:
    """Write a trained trial for SAELens; its inputs are then raw activations.

    Args:
        folder: the trial's, with its weights.
        destination: a folder, made where it is missing.

    Raises:
        BadInput: where the trial's folder holds no weights.
    """
    sae, config = load(folder), read_config(Path(folder))
    place = Path(destination)
    with replacing(place / "sae_weights.safetensors") as path:
        path.write_bytes(save(_raw_weights(sae)))
    m, d = sae.w_dec.shape
    settings = {
        **sae.saelens().settings,
        "d_in": d,
        "d_sae": m,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": LAYOUT_VERSION, **_metadata(config)},
    }
    with replacing(place / "cfg.json") as path:
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    """Where the trial comes from; model_name is SAELens' own key."""
    activations = config.get("activations", {})
    return {
        "model_name": activations.get("model"),
        "activations": activations,
        "sae_sweep_uid": config.get("uid"),
    }


@torch.no_grad()
def _raw_weights(sae: AbstractSae) -> dict[str, Tensor]:
    """Fold x' = (x - mean) * scale into the weights: equal latents, reconstruction of raw x.

    w_enc (scale (x - mean) - b_dec) = scale w_enc (x - (mean + b_dec / scale)), and
    x_hat = (f w_dec + b_dec) / scale + mean. Computed in float64, W_enc is [d m] there.
    """
    mean, scale = sae.normalisation.mean.double(), sae.normalisation.scale
    folded = {
        "W_enc": (sae.w_enc.double() * scale).T,
        "W_dec": sae.w_dec.double() / scale,
        "b_dec": mean + sae.b_dec.double() / scale,
        **sae.saelens().tensors,
    }
    return {name: tensor.float().contiguous() for name, tensor in folded.items()}
