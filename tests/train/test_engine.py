"""Equal trials give equal bits, whoever is beside and however often they are interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_sweep.activations import batch_indices
from sae_sweep.config import ARCHITECTURES, Trial
from sae_sweep.errors import BadInput
from sae_sweep.kernels.cpu import forms, latents
from sae_sweep.records import METRICS
from sae_sweep.train import State, checkpoint, require_device
from tests.train.conftest import KINDS, Run
from tests.train.test_pack import FURTHER, ZOO


def assert_same(left, right, trial: Trial) -> None:
    """Equal bits of final metrics, reports and weights."""
    final = right.outcomes[trial.uid].final
    assert left.outcomes[trial.uid].final == pytest.approx(final, rel=0, abs=0, nan_ok=True)
    assert left.rows[trial.uid] == right.rows[trial.uid]
    assert left.weights(trial) == right.weights(trial)


def same_state(left: State, right: State) -> None:
    assert left.step == right.step
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        assert torch.equal(tensor, right.tensors[name]), name


def test_every_architecture_is_trained_in_company_and_every_fused_form_in_a_pack() -> None:
    alike = {sae.get("kind", "topk") for sae, _ in KINDS.values()}
    assert alike == ARCHITECTURES.keys()
    packed = {sae.get("kind", "topk") for sae, _ in (ZOO | FURTHER).values()}
    assert packed == {kind for kind, one in ARCHITECTURES.items() if "fused" in one.forms}


def test_a_trial_ends_alike_alone_packed_and_joined_late(
    alone, trials: dict[str, Trial], company: tuple[Run, Run], name: str
) -> None:
    reference = alone(trials[name])
    for run in company:
        assert_same(reference, run, trials[name])


RESUMED_AT = [pytest.param(1, marks=pytest.mark.slow), 20, pytest.param(24, marks=pytest.mark.slow)]


@pytest.mark.parametrize("at", RESUMED_AT)
def test_a_resumed_trial_ends_in_the_same_bits(
    start, trials: dict[str, Trial], tmp_path: Path, name: str, at: int
) -> None:
    trial = trials[name]
    straight = start("straight")
    straight.engine.add(trial)
    straight.advance(trial.steps - 1)
    before_the_end = straight.engine.state(trial.uid)
    straight.finish()

    killed = start("resumed")
    killed.engine.add(trial)
    killed.advance(at)
    checkpoint.save(tmp_path / "states", trial.uid, killed.engine.state(trial.uid))
    resumed = start("resumed")
    resumed.rows = killed.rows
    resumed.engine.add(trial, checkpoint.load(tmp_path / "states", trial.uid))
    assert resumed.engine.step(trial.uid) == at
    assert resumed.engine.seconds(trial.uid) == killed.engine.seconds(trial.uid)
    resumed.advance(trial.steps - 1 - at)
    same_state(resumed.engine.state(trial.uid), before_the_end)
    assert_same(straight, resumed.finish(), trial)


def test_load_puts_a_member_back(start, trials: dict[str, Trial]) -> None:
    trial = trials["topk"]
    engine = start("here").engine
    engine.add(trial)
    engine.advance(5)
    early = engine.state(trial.uid)
    engine.advance(10)
    late = engine.state(trial.uid)
    engine.load(trial.uid, early)
    assert engine.step(trial.uid) == 5
    engine.advance(10)
    same_state(engine.state(trial.uid), late)


def test_reports_come_when_they_should_and_do_not_change_training(
    alone, make_trial: Callable[..., Trial]
) -> None:
    often, seldom = make_trial(report_every=3), make_trial(report_every=30)
    assert often.uid == seldom.uid
    chatty = alone(often, "often")
    quiet = alone(seldom, "seldom")
    assert [row.step for row in chatty.rows[often.uid]] == [*range(3, 40, 3), 40]
    assert [row.step for row in quiet.rows[often.uid]] == [30, 40]
    assert chatty.weights(often) == quiet.weights(seldom)
    row = quiet.rows[often.uid][0]
    assert row.values.keys() <= METRICS.keys()
    assert row.values.keys() == {
        "loss",
        "loss_reconstruction",
        "loss_sparsity",
        "loss_aux",
        "fvu",
        "explained_variance",
        "l0",
        "l0_fraction",
        "dead_features",
        "always_on",
    }


def test_a_removed_member_says_no_more(start, trials: dict[str, Trial]) -> None:
    run = start("here")
    for name in ("topk", "narrow", "usage"):
        run.engine.add(trials[name])
    run.advance(3)
    run.engine.remove(trials["topk"].uid)
    run.engine.add(trials["l1"])
    run.engine.remove(trials["l1"].uid)
    assert run.engine.uids == (trials["narrow"].uid, trials["usage"].uid)
    run.finish()
    assert set(run.outcomes) == {trials["narrow"].uid, trials["usage"].uid}


def test_the_global_random_state_is_left_alone(alone, trials: dict[str, Trial]) -> None:
    before = torch.get_rng_state()
    alone(trials["l1"])
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_select_is_refused_elsewhere_than_on_a_cpu(trials: dict[str, Trial]) -> None:
    refused = r"train\.precision=bf16_select on cuda: only CPUs have it; use train\.precision=fp32"
    with pytest.raises(BadInput, match=refused):
        require_device(trials["bf16_select"], torch.device("cuda"))
    for name, trial in trials.items():
        require_device(trial, torch.device("cpu"))
        if name != "bf16_select":
            require_device(trial, torch.device("cuda"))


def test_the_settings_of_a_trial_say_how_a_step_is_computed(
    alone, trials: dict[str, Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    propose, counts = latents._propose, []

    def counted(*given: Any) -> Any:
        counts.append(given[-1])
        return propose(*given)

    monkeypatch.setattr(latents, "_propose", counted)
    trial, weights = trials["bf16_select"], []
    for name, sparse in (("one", True), ("other", False)):
        # latents=dense: whatever was measured
        monkeypatch.setattr(forms, "is_sparse_faster", lambda *_, sparse=sparse: sparse)
        weights.append(alone(trial, name).weights(trial))
    assert weights[0] == weights[1]
    assert counts == [3 + latents.margin(3)] * trial.steps * 2


def test_a_member_that_goes_on_reads_only_what_comes_next(
    activations, start, trials, monkeypatch
) -> None:
    trial = trials["topk"]
    first = start("first")
    first.engine.add(trial)
    first.advance(10)
    state, asked, take = first.engine.state(trial.uid), [], activations.train_rows

    def recording(indices: torch.Tensor) -> torch.Tensor:
        asked.append(indices.tolist())
        return take(indices)

    monkeypatch.setattr(activations, "train_rows", recording)
    second = start("second")
    second.engine.add(trial, state)
    second.advance(1)
    # the first batch may lie in a window that would have to be computed again
    assert asked == [batch_indices(trial.train.seed_data, 10, 64, activations.n_train).tolist()]
