"""Failures are recorded, and stay with the trial that failed."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_sweep.config import Trial


def test_a_diverged_trial_is_recorded_with_step_and_reason(
    alone, diverging: Trial, tmp_path: Path
) -> None:
    outcome = alone(diverging).outcomes[diverging.uid]
    assert outcome.status == "diverged"
    assert outcome.final == {}
    # the first update blows the parameters up; the second forward pass shows it
    assert outcome.step == 2
    assert outcome.error == ("the loss became non-finite at step 2 with train.lr=1e+30: lower it")
    assert not (tmp_path / "alone" / diverging.folder).exists()


def test_parameters_that_are_not_finite_are_noticed_at_the_end(
    start, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial({"aux_coeff": 0}, steps=1, lr_warmup_fraction=0.0, lr=1e30)
    engine = start("here").engine
    engine.add(trial)
    state = engine.state(trial.uid)
    state.tensors["first.b_enc"].fill_(1e20)
    engine.load(trial.uid, state)
    (outcome,) = engine.advance(1)
    assert (outcome.status, outcome.step) == ("diverged", 1)
    assert "parameters became non-finite at step 1 with train.lr=1e+30" in outcome.error


def test_a_trial_whose_files_find_no_room_is_interrupted_not_failed(
    start, make_trial: Callable[..., Trial], monkeypatch
) -> None:
    def fill(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sae_sweep.train.results.write", fill)
    engine, trial = start("here").engine, make_trial(steps=2)
    engine.add(trial)
    *_, outcome = engine.advance(2)
    assert (outcome.status, outcome.step, engine.uids) == ("interrupted", 2, ())
    assert "no room for the files of trials in" in outcome.error
    assert "No space left on device" in outcome.error


def break_call(number: int, error: Exception, rows: Callable[..., Any]) -> Callable[..., Any]:
    """Raise at the given call, and read rows at every other."""
    calls = iter(range(1, 1000))

    def read(indices: torch.Tensor) -> torch.Tensor:
        if next(calls) == number:
            raise error
        return rows(indices)

    return read


@pytest.mark.parametrize("call", [1, 4], ids=["while it is built", "while it trains"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("shard 3"), "failed KeyError: 'shard 3'"),
        (RuntimeError("first line\nsecond line"), "failed RuntimeError: first line"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom OutOfMemoryError: CUDA out of memory"),
        (MemoryError("no room"), "oom MemoryError: no room"),
        (MemoryError(), "oom MemoryError"),
    ],
)
def test_a_failure_stays_with_its_member(
    activations, start, trials: dict[str, Trial], error: Exception, reason: str, call: int
) -> None:
    untouched = start("untouched")
    untouched.engine.add(trials["narrow"])
    untouched.finish()
    activations.train_rows = break_call(call, error, activations.train_rows)
    run = start("broken")
    run.engine.add(trials["topk"])
    run.engine.add(trials["narrow"])
    run.finish(5)
    failed, fine = run.outcomes[trials["topk"].uid], run.outcomes[trials["narrow"].uid]
    assert f"{failed.status} {failed.error}" == reason
    assert failed.step == max(0, call - 2)  # the first batch is read to calibrate, too
    assert fine.final == untouched.outcomes[fine.uid].final


def test_the_cpu_allocators_error_is_out_of_memory(alone, make_trial: Callable[..., Trial]) -> None:
    trial = make_trial({"n_latents": 2**50})
    assert alone(trial).outcomes[trial.uid].status == "oom"


def test_a_folder_that_cannot_be_written_fails_the_trial(
    alone, trials: dict[str, Trial], tmp_path: Path
) -> None:
    trial = trials["topk"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / trial.folder).write_text("a file where the folder should be")
    outcome = alone(trial).outcomes[trial.uid]
    assert outcome.status == "failed"
    assert outcome.error.startswith("FileExistsError: ")
