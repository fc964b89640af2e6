"""Layouts of other libraries against their documented forward passes, on raw activations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_saelens import CONFIGS, D, M, N, stored
from torch import Tensor

from sae_sweep.cli.export import FORMATS
from sae_sweep.config import Architecture, BatchTopKConfig, TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.sae import LAYOUTS, AbstractSae, Normalisation, build, export, load, save

TRANSCODERS = {
    "relu": CONFIGS["standard"].model_copy(update={"transcoder": True}),
    "threshold": BatchTopKConfig(n_latents=M, k=5, transcoder=True, skip=True),
}


def transcoder(folder: Path, config: Architecture) -> None:
    generator = torch.Generator().manual_seed(2)
    sae = build(config, D, seed=0)
    with torch.no_grad():
        for _, parameter in sae.named_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in sae.named_buffers():
            buffer.fill_(0.4 if name == "threshold" else 7)
    sae.normalisation = Normalisation(torch.randn(D, generator=generator), 0.3)
    sae.target_normalisation = Normalisation(torch.randn(D, generator=generator), 1.7)
    save(folder, sae, {"sae": config.model_dump(exclude_none=True), "activations": {"layer": 3}})


def ours(sae: AbstractSae) -> tuple[Tensor, Tensor, Tensor]:
    """Raw rows, our latents, our raw reconstruction."""
    x = sae.normalisation.invert(torch.randn(N, D, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        latents, x_hat = sae.read(sae.normalisation.apply(x))
    return x, latents, (sae.target_normalisation or sae.normalisation).invert(x_hat)


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def top(pre: Tensor, k: int) -> Tensor:
    chosen = pre.topk(k)
    return torch.zeros_like(pre).scatter(1, chosen.indices, chosen.values)


@pytest.mark.parametrize("skip", [False, True])
def test_sparsify_computes_the_same_from_raw_rows(tmp_path: Path, skip: bool) -> None:
    if skip:
        transcoder(tmp_path, TopKConfig(n_latents=M, k=5, transcoder=True, skip=True))
    else:
        stored(tmp_path, CONFIGS["topk"])
    export(tmp_path, tmp_path / "theirs", "sparsify")
    settings = json.loads((tmp_path / "theirs" / "cfg.json").read_text())
    w = load_file(tmp_path / "theirs" / "sae.safetensors")
    x, latents, x_hat = ours(load(tmp_path))
    assert (settings["d_in"], settings["num_latents"], settings["transcode"]) == (D, M, skip)
    inside = x if settings["transcode"] else x - w["b_dec"]
    found = top((inside @ w["encoder.weight"].T + w["encoder.bias"]).relu(), settings["k"])
    theirs = found @ w["W_dec"] + w["b_dec"]
    if settings["skip_connection"]:
        theirs = theirs + x @ w["W_skip"].T
    assert close(found, latents)
    assert close(theirs, x_hat)


def dictionary_learning_forward(
    name: str, k: int | None, w: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    match name:
        case "AutoEncoderTopK":
            assert k is not None
            pre = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
            latents = top(pre, k)
            return latents, latents @ w["decoder.weight"].T + w["b_dec"]
        case "AutoEncoderNew":
            latents = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
            return latents, latents @ w["decoder.weight"].T + w["decoder.bias"]
        case "JumpReluAutoEncoder":
            pre = x @ w["W_enc"] + w["b_enc"]
            latents = (pre * (pre > w["threshold"])).relu()
            return latents, latents @ w["W_dec"] + w["b_dec"]
        case _:
            shared = (x - w["decoder_bias"]) @ w["encoder.weight"].T
            magnitude = (shared * w["r_mag"].exp() + w["mag_bias"]).relu()
            latents = (shared + w["gate_bias"] > 0) * magnitude
            return latents, latents @ w["decoder.weight"].T + w["decoder_bias"]


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - {"abstopk"}))
def test_dictionary_learning_computes_the_same_from_raw_rows(tmp_path: Path, kind: str) -> None:
    stored(tmp_path, CONFIGS[kind])
    said = export(tmp_path, tmp_path / "theirs", "dictionary_learning")
    assert said.endswith("ae.pt is a pickle of plain tensors, the only form that it reads")
    trainer = json.loads((tmp_path / "theirs" / "config.json").read_text())["trainer"]
    w = torch.load(tmp_path / "theirs" / "ae.pt", weights_only=True)
    x, latents, x_hat = ours(load(tmp_path))
    found, theirs = dictionary_learning_forward(trainer["dict_class"], trainer.get("k"), w, x)
    assert close(found, latents)
    assert close(theirs, x_hat)


@pytest.mark.parametrize("kind", TRANSCODERS)
def test_circuit_tracer_computes_the_same_from_raw_rows(tmp_path: Path, kind: str) -> None:
    transcoder(tmp_path, TRANSCODERS[kind])
    said = export(tmp_path, tmp_path / "theirs", "circuit-tracer")
    assert "one for every layer from 0 on" in said
    w = load_file(tmp_path / "theirs" / "layer_3.safetensors")
    x, latents, x_hat = ours(load(tmp_path))
    pre = x @ w["W_enc"].T + w["b_enc"]
    limit: Any = w.get("activation_function.threshold", torch.zeros(M))
    found = pre * (pre > limit)
    theirs = found @ w["W_dec"] + w["b_dec"]
    if "W_skip" in w:
        theirs = theirs + x @ w["W_skip"].T
    assert close(found, latents)
    assert close(theirs, x_hat)


@pytest.mark.parametrize(
    ("layout", "config", "message"),
    [
        ("sparsify", CONFIGS["gated"], "sparsify of a trial with sae.kind=gated: it has TopK"),
        ("sparsify", CONFIGS["abstopk"], "it has TopK alone, by value: export one of kind topk"),
        ("dictionary_learning", CONFIGS["abstopk"], "it has no abstopk: export to saelens"),
        ("dictionary_learning", TRANSCODERS["relu"], "it has no transcoders: export to saelens"),
        ("circuit-tracer", CONFIGS["topk"], "train one with sae.transcoder=true"),
        (
            "circuit-tracer",
            TopKConfig(n_latents=M, k=5, transcoder=True),
            "with sae.transcoder=true: it reads ReLU and thresholds",
        ),
    ],
)
def test_what_a_library_has_nothing_like_is_refused(
    tmp_path: Path, layout: str, config: Architecture, message: str
) -> None:
    make = transcoder if config.transcoder else stored
    make(tmp_path, config)
    with pytest.raises(BadInput, match=message):
        export(tmp_path, tmp_path / "theirs", layout)
    assert not (tmp_path / "theirs").exists()


def test_the_command_offers_every_layout() -> None:
    assert ["saelens", *LAYOUTS] == FORMATS
