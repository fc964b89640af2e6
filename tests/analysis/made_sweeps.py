"""Trials with fixed numbers, and the sweep that has everything that can go wrong in it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sae_sweep.records import Outcome, Place, Row, TrialRecord, digest
from sae_sweep.records.store import Reader, Store, Sweep, writer

START = 1_750_000_000.0
D = 64

Build = Callable[..., str]
Load = Callable[..., tuple[Sweep, Reader]]


@dataclass
class Ran:
    """A trial and what became of it."""

    assignment: dict[str, Any]
    final: dict[str, float] = field(default_factory=dict)
    status: str = "done"
    error: str | None = None
    curve: list[float] = field(default_factory=list)
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    """Further resolved settings, by dotted key."""
    always_on_ids: tuple[int, ...] = ()
    reports: dict[str, list[float]] = field(default_factory=dict)
    """What it reports every ten steps, by metric; in place of `curve`."""

    @property
    def record(self) -> TrialRecord:
        config: dict[str, Any] = {
            "activations": {"fingerprint": "0123456789ab", "d": D, "validation_tokens": 4096},
            "sae": {"kind": "topk", "n_latents": 128, "k": 8},
            "train": {"lr": 1e-3, "steps": 100, "batch_size": 64, "seed_init": 0, "seed_data": 0},
        }
        for key, value in {**self.assignment, **self.settings}.items():
            section, name = key.split(".")
            if name == "expansion_factor":
                config["sae"]["n_latents"] = round(value * D)
            elif value is not None:
                config[section][name] = value
            else:
                config[section].pop(name, None)
        given = {key.split(".")[-1]: value for key, value in self.assignment.items()}
        label = "_".join(
            f"{name}{value:g}" for name, value in given.items() if isinstance(value, int | float)
        )
        return TrialRecord(digest(config), label, "queued", config)


def write_store(
    folder: Path, trials: Sequence[Ran], name: str = "study", *, ended: bool = True, **run: Any
) -> str:
    """Write a sweep into a store and return the store's URL; every record at the same moment."""
    url = f"sqlite:///{folder / 'sae_sweep.db'}"
    with pytest.MonkeyPatch.context() as patch, Store(url) as store:
        patch.setattr(writer, "now", lambda _: START)
        number = start_run(store, url, trials, name, **run)
        if ended:
            store.finish_run(number)
    return url


def start_run(
    store: Store, url: str, trials: Sequence[Ran], name: str = "study", **run: Any
) -> int:
    """Write a sweep that goes on into an open store; returns the run's number."""
    fields = {
        "question": "Which k?",
        "config": {"store": {"weights": "all"}},
        "command": f"python -m sae_sweep +sweep={name} store.url={url}",
        "git": "4ca17f6",
        "versions": {"torch": "2.13.0"},
    }
    number = store.start_run(name, **(fields | run))
    members = [(trial.record, trial.assignment) for trial in trials]
    store.enlist(number, members)
    mine = store.claim(number, [record.uid for record, _ in members])
    for trial, (record, _) in zip(trials, members, strict=True):
        if trial.status != "queued" and record.uid in mine:  # else it has ended before
            _train(store, number, trial, record.uid)
    store.event(number, "cohort", "a cohort of 2 ended")
    return number


def _train(store: Store, run: int, trial: Ran, uid: str) -> None:
    store.running(run, uid, Place("here", trial.device, 1, "4ca17f6", {"torch": "2.13.0"}))
    reports = trial.reports or dict.fromkeys(("fvu", "dead_features", "loss"), trial.curve)
    rows = enumerate(zip(*reports.values(), strict=True), start=1)
    store.rows(run, [Row(uid, 10 * i, dict(zip(reports, each, strict=True))) for i, each in rows])
    if trial.status != "running":
        ended = (uid, trial.status, 100, trial.final, trial.error, 2.5, trial.always_on_ids)
        outcome = Outcome(*ended)  # type: ignore[arg-type]
        store.outcome(run, outcome)


def grid() -> list[Ran]:
    """k x width x auxiliary loss (tied to its target), with everything that can go wrong in it."""
    trials = []
    auxiliary = [(0, None), (1.0, 0.02)]
    for i, (k, wide, (coefficient, target)) in enumerate(
        itertools.product([4, 8, 16], [2, 4], auxiliary)
    ):
        keys = ("sae.k", "sae.expansion_factor", "sae.aux_coeff", "sae.aux_target")
        fvu = 0.8 * k**-0.5 * wide**-0.25 * (1 + 0.05 * coefficient)
        dead = 0.02 * wide * (1 - 0.5 * coefficient) + 0.001 * i
        final = {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "l0": float(k),
            "dead_features": dead,
            "always_on": float(i % 2),
            "loss": 10 * fvu,
        }
        curve = [fvu * (1 + 2 / step) for step in range(1, 6)]
        trials.append(
            Ran(dict(zip(keys, (k, wide, coefficient, target), strict=True)), final, curve=curve)
        )
    trials[2].status, trials[2].final, trials[2].error = "diverged", {}, "loss is nan at step 30"
    trials[2].curve[3:] = [float("nan")] * 2
    trials[5].final["fvu"] = 3.5
    trials[8].status, trials[8].final, trials[8].error = "failed", {}, "OSError: a | b <c>\n`d`"
    trials[9].status, trials[9].final = "running", {}
    return trials


def in_model() -> list[Ran]:
    """A grid whose trials were measured in a causal model; at k 16 fvu and loss disagree."""
    trials = grid()
    shared = {"ce_clean": 3.0, "ce_zero": 7.0, "ce_mean": 5.0, "output_cosine_zero": 0.1}
    for i, trial in enumerate(trials):
        if "fvu" in trial.final:
            increase = trial.final["fvu"] + (0.3 if i == 10 else 0.0)
            trial.final |= {
                **shared,
                "output_cosine_mean": 0.3,
                "output_cosine": 1 - trial.final["fvu"] / 2,
                "ce_loss_increase": increase,
                "ce_recovered": 1 - increase / 4,
                "ce_recovered_mean": 1 - increase / 2,
                "kl": increase / 3,
            }
    return trials


def ground_truth() -> list[Ran]:
    """A grid on synthetic activations; at k 16 the lower fvu finds less of the truth."""
    trials = grid()
    for i, trial in enumerate(trials):
        if "fvu" in trial.final:
            l0 = trial.final["l0"]
            f1 = 0.9 - abs(l0 - 7) / 20 - trial.final["fvu"] / 10 - (0.2 if i == 10 else 0.0)
            trial.final |= {
                "true_l0": 7.5,
                "f1": f1,
                "mcc": f1 - 0.1,
                "precision": 1 - l0 / 40,
                "recall": l0 / 20,
                "uniqueness": 0.9,
            }
    return trials


def right_l0(cosines: Sequence[float] = (0.09, 0.07, 0.05, 0.06, 0.08)) -> list[Ran]:
    """k from 4 up in doublings; decoder rows are least alike where the cosine is lowest."""
    return [
        Ran({"sae.k": k, "train.lr": lr}, {"fvu": 0.8 * k**-0.5, "l0": float(k)} | measured)
        for k, cosine in zip((4, 8, 16, 32, 64), cosines, strict=False)
        for lr in (1e-3, 2e-3)
        for measured in [{"dead_features": 0.1, "decoder_cosine": cosine * (1 + 10 * lr)}]
    ]
