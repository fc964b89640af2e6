"""What one trial's training counts, mends and leaves behind."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_sweep import sae as sae_package
from sae_sweep.activations.order import batch_indices
from sae_sweep.config import Trial
from sae_sweep.records import METRICS, MOST_PREFIXES
from sae_sweep.records.metrics import GROUND_TRUTH
from sae_sweep.train import Engine, evaluate

AFTERWARDS = ("ce_", "kl", "output_cosine", "probe_")
"""Beginnings of the metrics that are measured once a trial is done: in its model, by probes."""
TRUTH = {*GROUND_TRUTH, "true_l0"}
"""Those of sources whose dictionary is known, measured then too."""


def test_a_finished_trial_has_every_metric_and_its_folder(
    activations, alone, trials: dict[str, Trial], tmp_path: Path, name: str
) -> None:
    activations.group_names = ["en", "fr"]
    trial = trials[name]
    outcome = alone(trial).outcomes[trial.uid]
    assert (outcome.status, outcome.step, outcome.error) == ("done", trial.steps, None)
    assert outcome.seconds > 0
    moves = trial.sae.l0_setting.name
    missing = set() if moves == "k" else {"k"}
    held = (
        {f"{moves}_final", f"{moves}_saturated", "l0_target_error"} if trial.controlled else set()
    )
    missing |= {name for name in METRICS if name.startswith(AFTERWARDS)} | TRUTH
    missing |= {"fvu_ordinary", "massive_rows", "massive_variance"}  # there are none
    missing |= {name for name in METRICS if name.endswith(("_final", "_saturated"))} - held
    missing |= {"l0_target_error"} - held
    nested = len(getattr(trial.sae, "sizes", [0]))
    missing |= {f"fvu_prefix_{i}" for i in range(nested, MOST_PREFIXES)}
    assert outcome.final.keys() == METRICS.keys() - missing
    assert outcome.final["n_latents"] == trial.n_latents
    assert len(outcome.always_on_ids) == outcome.final["always_on"]

    folder = tmp_path / "alone" / trial.folder
    config = json.loads((folder / "config.json").read_text())
    weights = hashlib.sha256((folder / "sae.safetensors").read_bytes()).hexdigest()
    said = {"uid": trial.uid, "label": trial.label, "weights_sha256": weights}
    assert config == {**said, **trial.record}
    sae = sae_package.load(folder)
    assert evaluate(sae, activations).metrics["fvu"] == outcome.final["fvu"]
    raw = sae.normalisation.invert(activations.validation)
    torch.testing.assert_close(
        sae.normalisation.apply(raw), activations.validation, rtol=1e-4, atol=1e-5
    )
    table = pq.read_table(folder / "latents.parquet")
    assert table.column_names == [
        "id",
        "frequency",
        "max_activation",
        "frequency_en",
        "frequency_fr",
    ]
    frequency = table["frequency"].to_numpy()
    assert frequency.sum() == pytest.approx(outcome.final["l0"])
    assert table["max_activation"].to_numpy().max() == outcome.final["max_activation"]
    assert table["id"].to_pylist() == list(range(trial.n_latents))
    groups = pq.read_table(folder / "groups.parquet")
    assert groups.column_names == ["group", "tokens", "fvu", "l0", "dead_features"]
    assert groups["group"].to_pylist() == ["en", "fr"]
    for name, l0 in zip(("en", "fr"), groups["l0"].to_pylist(), strict=True):
        assert table[f"frequency_{name}"].to_numpy().sum() == pytest.approx(l0)
    tokens = groups["tokens"].to_numpy()
    assert tokens @ groups["l0"].to_numpy() / tokens.sum() == pytest.approx(outcome.final["l0"])


@pytest.mark.parametrize("kind", ["topk", "l1"])
def test_training_is_the_plain_loop_with_torch_adam(
    activations, start, make_trial: Callable[..., Trial], kind: str
) -> None:
    steps, warmup, decay, l1_warmup = 20, 5, 8, 10
    trial = make_trial(
        {"kind": kind, **({"aux_coeff": 0} if kind == "topk" else {"l1_norm": "unit"})},
        steps=steps + 1,
        lr_warmup_fraction=warmup / (steps + 1),
        lr_decay_fraction=decay / (steps + 1),
        l1_warmup_fraction=l1_warmup / (steps + 1),
        beta1=0.8,
        seed_data=3,
    )
    sae = sae_package.build(trial.sae, activations.d, trial.train.seed_init)
    adam = torch.optim.Adam(sae.parameters(), betas=(0.8, 0.999))
    nobody = torch.zeros(trial.n_latents, dtype=torch.bool)
    for step in range(1, steps + 1):
        x = activations.train[batch_indices(3, step - 1, 64, activations.n_train)]
        if step == 1:
            sae_package.calibrate(sae, x, "mean")
        rising, falling = step / warmup, (steps + 2 - step) / decay
        adam.param_groups[0]["lr"] = trial.train.lr * min(1.0, rising, falling)
        adam.zero_grad()
        sae(x, nobody, min(1.0, step / l1_warmup)).loss.backward()
        rows, slope = sae.w_dec.detach(), sae.w_dec.grad
        slope -= (slope * rows).sum(dim=1, keepdim=True) * rows
        adam.step()
        rows /= rows.norm(dim=1, keepdim=True)

    engine = start("here").engine
    engine.add(trial)
    engine.advance(steps)
    trained = engine.state(trial.uid).tensors
    for name, expected in sae.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-5)


def test_means_over_the_last_half_are_those_of_its_batches(
    activations, start, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial({"kind": "l1"}, steps=11)
    engine = start("here").engine
    engine.add(trial)
    sae = sae_package.build(trial.sae, activations.d, seed=0)
    fvu, density = [], []
    for step in range(11):
        state = engine.state(trial.uid).tensors
        sae.load_state_dict({name: state[name] for name in sae.state_dict()})
        x = activations.train[batch_indices(0, step, 64, activations.n_train)]
        with torch.no_grad():
            latents = sae.encode(x)
            error = (sae.decode(latents) - x).square().sum()
        fvu.append((error / x.square().sum()).item())
        density.append((latents > 0).float().mean().item())
        events = engine.advance(1)
    final = events[-1].final
    assert final["fvu_last_half"] == pytest.approx(np.mean(fvu[5:]), rel=1e-5)
    assert final["l0_fraction_last_half"] == pytest.approx(np.mean(density[5:]), rel=1e-5)
    assert final["l0_fraction_last_half_sd"] == pytest.approx(np.std(density[5:]), rel=1e-3)


def test_a_constant_l0_has_no_spread(alone, make_trial: Callable[..., Trial]) -> None:
    trial = make_trial({"n_latents": 128, "aux_coeff": 0})
    final = alone(trial).outcomes[trial.uid].final
    assert final["l0_fraction_last_half"] == pytest.approx(3 / 128)
    assert final["l0_fraction_last_half_sd"] == 0


def final_of_a_trial_with_silenced_latents(engine: Engine, trial: Trial, bias: float) -> Any:
    """Begin with the encoder's bias of the first half of the latents at a negative value."""
    engine.add(trial)
    state = engine.state(trial.uid)
    state.tensors["b_enc"][: trial.n_latents // 2] = bias
    engine.load(trial.uid, state)
    return engine.advance(trial.steps)[-1].final


def test_latents_that_stay_silent_are_dead_in_training(
    start, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial({"aux_coeff": 0, "k": 8}, dead_window_tokens=128)
    final = final_of_a_trial_with_silenced_latents(start("here").engine, trial, -100.0)
    assert final["dead_train"] == final["dead_features"] == 0.5


@pytest.mark.slow
def test_aux_k_brings_latents_back(start, make_trial: Callable[..., Trial]) -> None:
    dead = {}
    for coeff in (0.0, 1.0):
        trial = make_trial({"aux_coeff": coeff}, dead_window_tokens=128, steps=150, lr=3e-3)
        final = final_of_a_trial_with_silenced_latents(start("here").engine, trial, -1.2)
        dead[coeff] = final["dead_features"]
    assert dead[1.0] < dead[0.0] / 2


def test_resampling_brings_silent_latents_back(start, make_trial: Callable[..., Trial]) -> None:
    dead = {}
    for every in (None, 10):
        trial = make_trial({"kind": "l1", "l1_alpha": 0.1}, resample_every=every, steps=45)
        final = final_of_a_trial_with_silenced_latents(start("here").engine, trial, -100.0)
        dead[every] = final["dead_features"]
    assert dead[None] >= 0.5
    assert dead[10] < 0.1


def test_latents_silent_for_less_than_resample_after_are_left_alone(
    start, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial({"kind": "l1"}, resample_every=10, resample_after=30, steps=25)
    final = final_of_a_trial_with_silenced_latents(start("here").engine, trial, -100.0)
    assert final["dead_features"] >= 0.5


def test_nothing_is_resampled_after_the_last_update(
    start, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial({"kind": "l1"}, resample_every=20, resample_after=5, steps=20)
    final = final_of_a_trial_with_silenced_latents(start("here").engine, trial, -100.0)
    assert final["dead_features"] >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("activations", [65_536], indirect=True, ids=["many tokens"])
def test_topk_recovers_a_known_dictionary(
    activations, alone, make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    trial = make_trial({"n_latents": 48, "k": 2}, lr=3e-3, steps=2000, batch_size=256)
    assert alone(trial).outcomes[trial.uid].status == "done"
    rows = sae_package.load(tmp_path / "alone" / trial.folder).w_dec.detach()
    cosine = activations.dictionary @ torch.nn.functional.normalize(rows, dim=1).T
    assert cosine.amax(dim=1).mean().item() > 0.95
