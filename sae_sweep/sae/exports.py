"""A trained trial in the layouts of other libraries, normalisation folded in.

Every layout is made from the weights as SAELens has them, which take raw activations.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.sae import saelens
from sae_sweep.sae.base import AbstractSae
from sae_sweep.sae.weights import load, read_config


class _Written(NamedTuple):
    """Files of a layout, by name, and what to know before they are used."""

    files: dict[str, bytes]
    note: str = ""


def export(folder: str | Path, destination: str | Path, layout: str = "saelens") -> str:
    """Write a trained trial for another library; its inputs are then raw activations.

    Args:
        folder: the trial's, with its weights.
        destination: a folder, made where it is missing.
        layout: one of `LAYOUTS`.

    Returns:
        What was written and what to know of it, for a person.

    Raises:
        BadInput: where the trial's folder holds no weights, or the library has nothing like it.

    Example:
        >>> import tempfile
        >>> from sae_sweep.config import TopKConfig
        >>> from sae_sweep.sae import Normalisation, build, save
        >>> with tempfile.TemporaryDirectory() as name:
        ...     sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
        ...     sae.normalisation = Normalisation(torch.zeros(4), 1.0)
        ...     save(Path(name), sae, {"sae": {"kind": "topk", "n_latents": 8, "k": 2}})
        ...     print(export(name, Path(name) / "theirs", "sparsify").replace(name, "TRIAL"))
        wrote TRIAL/theirs/cfg.json and TRIAL/theirs/sae.safetensors
    """
    place = Path(destination)
    if layout == "saelens":
        saelens.export(folder, place)
        return f"wrote {place}/cfg.json and {place}/sae_weights.safetensors"
    written = LAYOUTS[layout](load(folder), read_config(Path(folder)))
    for name, content in written.files.items():
        with replacing(place / name) as path:
            path.write_bytes(content)
    names = " and ".join(f"{place}/{name}" for name in written.files)
    return f"wrote {names}{'; ' if written.note else ''}{written.note}"


def _sparsify(sae: AbstractSae, _config: dict[str, Any]) -> _Written:
    """`cfg.json` and `sae.safetensors`, as SparseCoder.load_from_disk reads them."""
    form = sae.saelens().settings
    if form["architecture"] != "topk":
        raise _nothing_like("sparsify", sae, "has TopK alone, by value: export one of kind topk")
    raw = saelens.raw_weights(sae)
    tensors = {
        "encoder.weight": raw["W_enc"].T,
        "encoder.bias": raw["b_enc"],
        "W_dec": raw["W_dec"],
        "b_dec": raw["b_dec"],
    }
    if sae.w_skip is not None:
        tensors["W_skip"] = raw["W_skip"]
    m, d = sae.w_dec.shape
    described = {
        "activation": "topk",
        "num_latents": m,
        "k": form["k"],
        "normalize_decoder": True,
        "skip_connection": sae.w_skip is not None,
        "transcode": sae.config.transcoder,
        "d_in": d,
    }
    return _Written({"cfg.json": _json(described), "sae.safetensors": _tensors(tensors)})


def _dictionary_learning(sae: AbstractSae, config: dict[str, Any]) -> _Written:
    """`config.json` and `ae.pt`, as its load_dictionary reads them.

    `ae.pt` is a pickle, the only thing that it reads: a dictionary of plain tensors, which
    `torch.load(..., weights_only=True)` takes.
    """
    if sae.config.transcoder:
        raise _nothing_like("dictionary_learning", sae, "has no transcoders: export to saelens")
    form, raw = sae.saelens().settings, saelens.raw_weights(sae)
    linear = {"encoder.weight": raw["W_enc"].T, "decoder.weight": raw["W_dec"].T}

    def bias_of_raw_inputs() -> Tensor:  # where it takes b_dec off nothing
        return raw["b_enc"] - raw["b_dec"] @ raw["W_enc"]

    match form["architecture"]:
        case "topk":
            name = "AutoEncoderTopK"
            tensors = {
                **linear,
                "encoder.bias": raw["b_enc"],
                "b_dec": raw["b_dec"],
                "k": torch.tensor(form["k"], dtype=torch.int32),
                "threshold": torch.tensor(-1.0),  # none
            }
        case "standard":
            name = "AutoEncoderNew"
            tensors = {**linear, "encoder.bias": bias_of_raw_inputs(), "decoder.bias": raw["b_dec"]}
        case "jumprelu":
            name = "JumpReluAutoEncoder"
            tensors = {
                **{key: raw[key] for key in ("W_enc", "W_dec", "b_dec", "threshold")},
                "b_enc": bias_of_raw_inputs(),
            }
        case "gated":
            name = "GatedAutoEncoder"
            tensors = {
                **linear,
                "decoder_bias": raw["b_dec"],
                "r_mag": raw["r_mag"],
                "gate_bias": raw["b_gate"],
                "mag_bias": raw["b_mag"],
            }
        case other:
            raise _nothing_like("dictionary_learning", sae, f"has no {other}: export to saelens")
    m, d = sae.w_dec.shape
    activations = config.get("activations", {})
    described = {
        "trainer": {
            "dict_class": name,
            "activation_dim": d,
            "dict_size": m,
            "layer": activations.get("layer"),
            "lm_name": activations.get("model"),
            **({"k": form["k"]} if "k" in form else {}),
        }
    }
    return _Written(
        {"config.json": _json(described), "ae.pt": _pickle(tensors)},
        "ae.pt is a pickle of plain tensors, the only form that it reads",
    )


def _circuit_tracer(sae: AbstractSae, config: dict[str, Any]) -> _Written:
    """`layer_N.safetensors`, one of a set of transcoders."""
    if not sae.config.transcoder:
        raise BadInput(
            "--format circuit-tracer: it replaces MLPs by transcoders, and this is an autoencoder: "
            "train one with sae.transcoder=true"
        )
    raw = saelens.raw_weights(sae)
    if sae.saelens().settings["architecture"] not in {"standard", "jumprelu"}:
        raise _nothing_like(
            "circuit-tracer",
            sae,
            "reads ReLU and thresholds: export one of kind batchtopk, matryoshka, jumprelu or l1",
        )
    tensors = {key: raw[key] for key in ("W_dec", "b_enc", "b_dec")} | {"W_enc": raw["W_enc"].T}
    if "threshold" in raw:
        tensors["activation_function.threshold"] = raw["threshold"]
    if "W_skip" in raw:
        tensors["W_skip"] = raw["W_skip"]
    layer = config.get("activations", {}).get("layer")
    return _Written(
        {f"layer_{layer}.safetensors": _tensors(tensors)},
        "circuit-tracer takes one for every layer from 0 on, with a config.yaml that lists them "
        "under transcoders and names feature_input_hook and feature_output_hook as TransformerLens "
        "does",
    )


LAYOUTS: dict[str, Callable[[AbstractSae, dict[str, Any]], _Written]] = {
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
    "circuit-tracer": _circuit_tracer,
}
"""Layouts beside SAELens' own."""


def _nothing_like(library: str, sae: AbstractSae, what: str) -> BadInput:
    more = " with sae.transcoder=true" if sae.config.transcoder else ""
    return BadInput(
        f"--format {library} of a trial with sae.kind={sae.config.kind}{more}: it {what}"
    )


def _json(settings: dict[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _tensors(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _pickle(tensors: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return file.getvalue()
