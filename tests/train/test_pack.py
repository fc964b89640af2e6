"""Trials in a pack: nobody's bits depend on who else is there; the reference's within rounding."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sae_sweep.config import Trial
from sae_sweep.records import Outcome
from sae_sweep.train import pack, pack_steps

# the interpreter is NumPy, which warns of what a mask then leaves out
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

STEPS = 50


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after another: small pages, and both forms at any width."""
    monkeypatch.setattr(pack, "PAGE", 16)
    monkeypatch.setattr(pack, "SPARSE_UP_TO", 0.15)
    monkeypatch.setattr(pack, "FORM_STEPS", 4)


@pytest.fixture
def device() -> str:
    """The interpreter, or with TRITON_INTERPRET=0 a GPU."""
    return "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


@pytest.fixture
def fused(make_trial: Callable[..., Trial]) -> Callable[..., Trial]:
    """A short fused trial in float32."""

    def made(sae: dict[str, Any], **train: Any) -> Trial:
        settings = {"kernels": "fused", "precision": "fp32", "batch_size": 4, "steps": STEPS}
        return make_trial(sae, **(settings | train))

    return made


SPARSE_TOPK = ({"n_latents": 16, "k": 2, "aux_coeff": 0}, {"lr": 3e-3})
DENSE_TOPK = ({"n_latents": 13, "k": 5, "aux_coeff": 0}, {"beta1": 0.8, "seed_data": 1})
SPARSE_AUX = ({"n_latents": 20, "k": 1, "aux_coeff": 0.5}, {"dead_window_tokens": 12})
DENSE_AUX = ({"n_latents": 12, "k": 4}, {"dead_window_tokens": 8, "lr_warmup_fraction": 0.5})
FREE_L1 = ({"kind": "l1", "n_latents": 12, "l1_alpha": 2.0}, {"seed_init": 4, "steps": 41})
UNIT_L1 = ({"kind": "l1", "n_latents": 9, "l1_alpha": 9.0, "l1_norm": "unit"}, {"beta2": 0.99})
ZOO = {
    "sparse topk": SPARSE_TOPK,
    "dense topk": DENSE_TOPK,
    "sparse with aux": SPARSE_AUX,
    "dense with aux": DENSE_AUX,
    "l1 with free rows": FREE_L1,
    "l1 with unit rows": UNIT_L1,
    "resampled": (UNIT_L1[0], {"resample_every": 6, "resample_after": 2, "seed_data": 2}),
}


@pytest.fixture
def diverges(fused) -> Trial:
    return fused({"aux_coeff": 0, "n_latents": 8}, lr=1e30, lr_warmup_fraction=0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bits_do_not_depend_on_the_company(start, fused, diverges: Trial) -> None:
    """Alone, packed with seven others, joined late, beside one that diverges: the same bits."""
    trials = [fused(sae, **train) for sae, train in ZOO.values()]
    packed = start("packed")
    for trial in (trials[3], diverges, trials[0], trials[5]):
        packed.engine.add(trial)
    packed.advance(5)
    for trial in (trials[6], trials[1], trials[4], trials[2]):
        packed.engine.add(trial)
    packed.finish(7)
    assert packed.outcomes[diverges.uid].status == "diverged", packed.outcomes[diverges.uid]
    assert {packed.outcomes[trial.uid].status for trial in trials} == {"done"}
    for trial in (trials[0], trials[2], trials[4], trials[6]):  # others cost a minute more
        alone = start("alone")
        alone.engine.add(trial)
        alone.finish(50)
        assert alone.outcomes[trial.uid].final == packed.outcomes[trial.uid].final
        assert alone.rows[trial.uid] == packed.rows[trial.uid]
        assert alone.weights(trial) == packed.weights(trial)


@pytest.mark.parametrize("name", ["sparse with aux", "resampled"])
def test_a_trial_goes_on_from_a_checkpoint_bit_for_bit(start, fused, name: str) -> None:
    sae, train = ZOO[name]
    trial = fused(sae, **{**train, "steps": 9})
    whole, first, second = start("whole"), start("first"), start("second")
    whole.engine.add(trial)
    whole.finish()
    first.engine.add(trial)
    first.advance(5)
    second.engine.add(trial, first.engine.state(trial.uid))
    second.finish()
    assert whole.outcomes[trial.uid].final == second.outcomes[trial.uid].final
    assert whole.weights(trial) == second.weights(trial)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "reproducible"),
    [
        *(("sparse topk", False), ("dense topk", True), ("l1 with free rows", False)),
        *(("sparse with aux", True), ("dense with aux", False), ("l1 with unit rows", True)),
    ],
)
def test_training_is_that_of_the_reference(start, fused, name: str, reproducible: bool) -> None:
    sae, train = ZOO[name]
    trial = fused(sae, **train, reproducible=reproducible)
    plain = fused(sae, **train, kernels="auto")
    run = start("here")
    run.engine.add(trial)
    run.engine.add(plain)
    run.advance(trial.steps - 1)
    found, expected = (run.engine.state(one.uid).tensors for one in (trial, plain))
    for tensor in expected:
        wanted, got = expected[tensor].double(), found[tensor].double()
        assert (got - wanted).norm() <= 1e-4 * wanted.norm(), tensor
    run.finish()
    ends = [run.outcomes[one.uid].final for one in (trial, plain)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_an_error_in_a_step_fails_all_who_shared_it(start, fused, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    run = start("here")
    trials = [fused(sae, **train) for sae, train in (SPARSE_TOPK, DENSE_TOPK)]
    for trial in trials:
        run.engine.add(trial)
    monkeypatch.setattr(pack_steps.PackSteps, "run", broken)
    run.advance(1)
    for trial in trials:
        outcome = run.outcomes[trial.uid]
        assert isinstance(outcome, Outcome)
        assert (outcome.status, outcome.error) == ("failed", "RuntimeError: no such luck")
    assert run.engine.uids == ()


def test_l1_goes_by_active_latents_once_they_are_few(start, fused) -> None:
    trial = fused(FREE_L1[0] | {"l1_alpha": 60.0}, lr=1e-2, steps=40)
    run = start("here")
    run.engine.add(trial)
    forms = []
    for _ in range(9):
        run.advance(4)
        forms.append(int(run.engine.state(trial.uid).tensors["form"][0]))
    assert set(forms) == {pack.DENSE, pack.SPARSE}


def test_a_batch_with_too_many_active_latents_is_made_by_whole_rows(
    start, fused, monkeypatch
) -> None:
    """Room for none: every step by active latents overflows, and the results are the same."""
    trial = fused(FREE_L1[0] | {"l1_alpha": 20.0}, lr=1e-2, steps=12)
    states = []
    for share, room in ((0.0, 4), (1.0, 0.01)):
        monkeypatch.setattr(pack, "SPARSE_UP_TO", share)
        monkeypatch.setattr(pack, "ROOM", room)
        run = start(f"room {room}")
        run.engine.add(trial)
        run.advance(11)
        states.append(run.engine.state(trial.uid).tensors)
    for name, tensor in states[0].items():
        if name != "form":
            assert torch.equal(tensor, states[1][name]), name
