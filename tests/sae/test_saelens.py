"""The export against SAELens' documented forward pass, on raw activations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_sweep.config import (
    ARCHITECTURES,
    Architecture,
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    TopKConfig,
)
from sae_sweep.sae import AbstractSae, Normalisation, build, export, load, save

N, D, M, K = 40, 16, 48, 5
CONFIGS = {
    "topk": TopKConfig(n_latents=M, k=K),
    "standard": L1Config(n_latents=M),
    "abstopk": TopKConfig(n_latents=M, k=K, select="magnitude"),
    "batchtopk": BatchTopKConfig(n_latents=M, k=K),
    "matryoshka": MatryoshkaConfig(n_latents=M, k=K, prefixes="12/48"),
    "jumprelu": JumpReluConfig(n_latents=M, target_l0=K),
    "gated": GatedConfig(n_latents=M),
}
NAMES = {"batchtopk": "jumprelu", "matryoshka": "jumprelu"}
"""What SAELens calls it, where that is another name."""


def test_every_kind_is_exported() -> None:
    assert {config.kind for config in CONFIGS.values()} == ARCHITECTURES.keys()


def stored(folder: Path, config: Architecture) -> AbstractSae:
    generator = torch.Generator().manual_seed(0)
    sae = build(config, D, seed=0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name in {"b_enc", "b_gate", "b_mag", "r_mag", "threshold"}:
                parameter.add_(0.1 * torch.randn(M, generator=generator))
        sae.b_dec.copy_(0.3 * torch.randn(D, generator=generator))
        for name, buffer in sae.named_buffers():
            buffer.fill_(0.4 if name == "threshold" else 7)
    sae.normalisation = Normalisation(5 * torch.randn(D, generator=generator), 0.037)
    record: dict[str, Any] = {
        "uid": "0a1b2c",
        "sae": config.model_dump(exclude_none=True),
        "activations": {"model": "some/model", "layer": 3},
    }
    save(folder, sae, record)
    return sae


def saelens_forward(
    settings: dict[str, Any], w: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, ...]:
    """SAELens 6's inference: the bias is taken off, encode, activate, decode."""
    assert settings["apply_b_dec_to_input"]
    assert settings["normalize_activations"] == "none"
    shared = (x - w["b_dec"]) @ w["W_enc"]
    if settings["architecture"] == "gated":
        magnitude = (shared * w["r_mag"].exp() + w["b_mag"]).relu()
        latents = (shared + w["b_gate"] > 0) * magnitude
        return latents, latents @ w["W_dec"] + w["b_dec"]
    pre = shared + w["b_enc"]
    match settings["architecture"]:
        case "topk":
            assert not settings["rescale_acts_by_decoder_norm"]
            top = pre.topk(settings["k"])
            latents = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        case "abstopk":
            chosen = pre.abs().topk(settings["k"]).indices
            latents = torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen))
        case "jumprelu":
            latents = pre.relu() * (pre > w["threshold"])
        case _:
            latents = pre.relu()
    return latents, latents @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_exported_weights_work_on_raw_activations(tmp_path: Path, architecture: str) -> None:
    stored(tmp_path / "trial", CONFIGS[architecture])
    export(tmp_path / "trial", tmp_path / "saelens")
    settings = json.loads((tmp_path / "saelens" / "cfg.json").read_text())
    weights = load_file(tmp_path / "saelens" / "sae_weights.safetensors")
    sae = load(tmp_path / "trial")
    generator = torch.Generator().manual_seed(1)
    x = sae.normalisation.invert(torch.randn(N, D, generator=generator))

    latents, x_hat = saelens_forward(settings, weights, x)
    with torch.no_grad():
        expected_latents = sae.encode(sae.normalisation.apply(x))
        expected = sae.normalisation.invert(sae.decode(expected_latents))

    assert settings["architecture"] == NAMES.get(architecture, architecture)
    assert (latents - expected_latents).abs().max() <= 1e-5 * expected_latents.abs().max()
    assert (x_hat - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_settings_leave_nothing_to_the_loaders_defaults(
    tmp_path: Path, architecture: str
) -> None:
    stored(tmp_path / "trial", CONFIGS[architecture])
    export(tmp_path / "trial", tmp_path / "saelens")
    settings = json.loads((tmp_path / "saelens" / "cfg.json").read_text())
    weights = load_file(tmp_path / "saelens" / "sae_weights.safetensors")
    assert (settings["d_in"], settings["d_sae"], settings["dtype"]) == (D, M, "float32")
    assert ("k" in settings) == (architecture in {"topk", "abstopk"})
    assert settings["metadata"]["sae_lens_version"]
    assert settings["metadata"]["model_name"] == "some/model"
    assert settings["metadata"]["sae_sweep_uid"] == "0a1b2c"
    biases = {"gated": ["b_gate", "b_mag", "r_mag"], "jumprelu": ["b_enc", "threshold"]}
    expected = {"W_enc": (D, M), "W_dec": (M, D), "b_dec": (D,)}
    expected |= dict.fromkeys(biases.get(settings["architecture"], ["b_enc"]), (M,))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == expected
