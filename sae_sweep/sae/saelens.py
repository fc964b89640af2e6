"""Export to SAELens: cfg.json and sae_weights.safetensors, as SAE.load_from_disk reads them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
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
        BadInput: where the trial's folder holds no weights, or SAELens has nothing like it.
    """
    sae, config = load(folder), read_config(Path(folder))
    place = Path(destination)
    particular = sae.saelens().settings
    if sae.config.transcoder:
        particular = _as_transcoder(sae, particular)
    with replacing(place / "sae_weights.safetensors") as path:
        path.write_bytes(save(raw_weights(sae)))
    m, d = sae.w_dec.shape
    settings = {
        **particular,
        "d_in": d,
        "d_sae": m,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not sae.config.transcoder,
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


def _as_transcoder(sae: AbstractSae, particular: dict[str, Any]) -> dict[str, Any]:
    """SAELens' name for a transcoder; it has them with relu and with thresholds."""
    names = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}
    architecture = particular["architecture"]
    if architecture not in names:
        raise BadInput(
            f"sae.kind={sae.config.kind} with sae.transcoder=true: SAELens has no such transcoder; "
            "export one of kind batchtopk, matryoshka, jumprelu or l1"
        )
    name = names[architecture]
    if sae.w_skip is not None:
        name = name.replace("transcoder", "skip_transcoder")
    return {"architecture": name, "d_out": len(sae.b_dec)}


@torch.no_grad()
def raw_weights(sae: AbstractSae) -> dict[str, Tensor]:
    """Fold x' = (x - mean) * scale into the weights: equal latents, reconstruction of raw rows.

    w_enc (scale (x - mean) - b_dec) = scale w_enc (x - (mean + b_dec / scale)), and
    x_hat = (f w_dec + b_dec) / scale + mean. A transcoder takes nothing from x, so -scale w_enc
    mean goes into b_enc, and its outputs go back by the target's mean and scale. Computed in
    float64, W_enc is [d m] there.
    """
    mean, scale = sae.normalisation.mean.double(), sae.normalisation.scale
    after = sae.target_normalisation or sae.normalisation
    w_enc = sae.w_enc.double() * scale
    folded = {
        "W_enc": w_enc.T,
        "W_dec": sae.w_dec.double() / after.scale,
        "b_dec": after.mean.double() + sae.b_dec.double() / after.scale,
        **sae.saelens().tensors,
    }
    if sae.config.transcoder:
        folded["b_enc"] = folded["b_enc"].double() - w_enc @ mean
    if sae.w_skip is not None:
        folded["W_skip"] = sae.w_skip.double() * (scale / after.scale)
        folded["b_dec"] = folded["b_dec"] - folded["W_skip"] @ mean
    return {name: tensor.float().contiguous() for name, tensor in folded.items()}
