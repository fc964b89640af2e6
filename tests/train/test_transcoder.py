"""Transcoders: rows of one place, reconstructed at another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_sweep import sae as sae_package
from sae_sweep.config import (
    ActivationsConfig,
    Source,
    SyntheticConfig,
    Trial,
    TrialConfig,
    resolve,
    risks,
    validate,
)
from sae_sweep.errors import BadInput
from sae_sweep.train import evaluate
from tests.train.conftest import D, MemoryActivations, Run


class WithTargets(MemoryActivations):
    """Each row's target is a nonlinear function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_target = True
        generator = torch.Generator().manual_seed(7)
        maps = torch.randn(2, D, D, generator=generator) / D**0.5
        self._raw = {
            split: 3 + rows @ maps[0] + (rows @ maps[1]).relu()
            for split, rows in (("train", self.train), ("validation", self.validation))
        }
        self.target_mean = self._raw["train"].mean(dim=0)
        centred = self._raw["train"] - self.target_mean
        self.target_scale = (D**0.5 / centred.norm(dim=1).mean()).item()

    def targets(self, split: str) -> Tensor:
        return (self._raw[split] - self.target_mean) * self.target_scale

    def train_targets(self, indices: Tensor) -> Tensor:
        return self.targets("train")[indices]

    def validation_targets(self, start: int, stop: int) -> Tensor:
        return self.targets("validation")[start:stop]


def made(sae: dict[str, Any], *, has_target: bool = True, **train: Any) -> Trial:
    groups = {
        "activations": ActivationsConfig(synthetic=SyntheticConfig()),
        "sae": {"kind": "topk", "n_latents": 32, "transcoder": True, **sae},
        "train": {"lr": 3e-3, "batch_size": 64, "steps": 60, **train},
    }
    return resolve(validate(TrialConfig, groups), Source("memory", D, 2048, {}, has_target))


@pytest.fixture(scope="module")
def activations() -> WithTargets:
    return WithTargets()


def trained(trial: Trial, activations: WithTargets, folder: Path) -> Run:
    run = Run(activations, folder)
    run.engine.add(trial)
    return run.finish()


KINDS: list[dict[str, Any]] = [
    {"k": 3},
    {"k": 3, "skip": True},
    {"kind": "l1", "l1_alpha": 0.5, "skip": True},
    {"kind": "matryoshka", "k": 3, "prefixes": "8/32", "skip": True},
    {"kind": "jumprelu", "target_l0": 3},
    {"kind": "gated", "l1_alpha": 0.5, "skip": True},
]


@pytest.mark.parametrize("sae", KINDS, ids=str)
def test_fvu_is_of_the_target(sae: dict[str, Any], activations: WithTargets, tmp_path) -> None:
    trial = made(sae)
    run = trained(trial, activations, tmp_path)
    outcome = run.outcomes[trial.uid]
    assert outcome.status == "done", outcome.error
    module = sae_package.load(tmp_path / trial.folder)
    _, x_hat = module.read(activations.validation)
    y = activations.targets("validation")
    expected = (x_hat - y).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert outcome.final["fvu"] == pytest.approx(expected.item(), rel=1e-4)
    assert 0.02 < outcome.final["fvu"] < 0.9
    assert evaluate(module, activations).metrics["fvu"] == outcome.final["fvu"]
    assert module.target_normalisation is not None
    raw = module.target_normalisation.invert(y)
    torch.testing.assert_close(raw, activations._raw["validation"], rtol=1e-4, atol=1e-4)


def test_a_linear_skip_lowers_the_fvu(activations: WithTargets, tmp_path: Path) -> None:
    found = []
    for skip in (False, True):
        trial = made({"kind": "batchtopk", "k": 3, "skip": skip})
        outcomes = trained(trial, activations, tmp_path / str(skip)).outcomes
        found.append(outcomes[trial.uid].final["fvu"])
        assert trial.label.endswith("_skip" if skip else "_trans")
    assert found[1] < 0.8 * found[0]


def test_a_transcoder_goes_on_from_a_checkpoint_bit_for_bit(
    activations: WithTargets, tmp_path: Path
) -> None:
    trial = made({"kind": "batchtopk", "k": 3, "skip": True})
    whole = trained(trial, activations, tmp_path / "whole")
    first, second = (Run(activations, tmp_path / place) for place in ("first", "second"))
    first.engine.add(trial)
    first.advance(25)
    second.engine.add(trial, first.engine.state(trial.uid))
    second.finish()
    assert whole.outcomes[trial.uid].final == second.outcomes[trial.uid].final
    assert whole.weights(trial) == second.weights(trial)


@pytest.mark.parametrize(
    ("sae", "architecture"),
    [
        ({"kind": "l1", "l1_alpha": 0.5}, "transcoder"),
        ({"kind": "l1", "l1_alpha": 0.5, "skip": True}, "skip_transcoder"),
        ({"kind": "batchtopk", "k": 3, "skip": True}, "jumprelu_skip_transcoder"),
        ({"kind": "jumprelu", "target_l0": 3}, "jumprelu_transcoder"),
    ],
    ids=str,
)
def test_the_export_works_on_raw_rows(
    sae: dict[str, Any], architecture: str, activations: WithTargets, tmp_path: Path
) -> None:
    """As SAELens' transcoders: nothing is subtracted first, a skip is W_skip x."""
    trial = made(sae)
    trained(trial, activations, tmp_path)
    sae_package.export(tmp_path / trial.folder, tmp_path / "saelens")
    settings = json.loads((tmp_path / "saelens" / "cfg.json").read_text())
    assert settings["architecture"] == architecture
    assert not settings["apply_b_dec_to_input"]
    assert settings["d_out"] == D
    w = load_file(tmp_path / "saelens" / "sae_weights.safetensors")
    module = sae_package.load(tmp_path / trial.folder)
    rows = activations.validation[:100]
    raw = module.normalisation.invert(rows)
    pre = raw @ w["W_enc"] + w["b_enc"]
    latents = torch.where(pre > w.get("threshold", torch.zeros(())), pre, 0.0)
    found = latents @ w["W_dec"] + w["b_dec"]
    if "W_skip" in w:
        found = found + raw @ w["W_skip"].T
    assert module.target_normalisation is not None
    expected = module.target_normalisation.invert(module.read(rows).x_hat)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_transcoder_that_saelens_does_not_have_is_not_exported(
    activations: WithTargets, tmp_path: Path
) -> None:
    trial = made({"k": 3}, steps=2)
    trained(trial, activations, tmp_path)
    with pytest.raises(BadInput, match=r"sae\.kind=topk with sae\.transcoder=true: SAELens has no"):
        sae_package.export(tmp_path / trial.folder, tmp_path / "saelens")


@pytest.mark.parametrize(
    ("sae", "options", "message"),
    [
        ({}, {"has_target": False}, r"sae\.transcoder=true without a target: name the module"),
        ({"transcoder": False, "skip": True}, {}, r"sae\.skip=true with sae\.transcoder=false: "),
        (
            {},
            {"kernels": "fused"},
            r"train\.kernels=fused with sae\.transcoder=true: there is no fused form of it",
        ),
        (
            {"kind": "l1"},
            {"resample_every": 9},
            r"train\.resample_every=9 with sae\.transcoder=true: .*use train\.resample_every=null",
        ),
    ],
)
def test_what_a_transcoder_cannot_be_is_refused(
    sae: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        made(sae, **options)


def test_an_idle_target_is_a_risk() -> None:
    assert any(
        "sae.transcoder=false reconstructs" in one for one in risks(made({"transcoder": False}))
    )
