"""Reconstruction on real activations, every architecture: ours beside two peers, L0 matched.

    python -m benchmarks.quality_kinds

Rows, batches, schedule and learning rates as in `benchmarks.quality`, in two regimes: few rows seen
25 times, and many seen once. Each trainer is trained at several values of the setting that moves
its L0, until a training ends near each of L0 = 16, 32 and 64. That gives a curve of FVU over L0,
both on validation rows and as the autoencoder is used; a cell is that curve at one of these L0,
linear between two trainings in logarithms. The best of three learning rates is chosen for each cell
by seed 0; seed 1 repeats the two. One line per training in the results file: an interrupted run
goes on where it was.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from benchmarks import quality_kinds_table, readme
from benchmarks.initial_scale import MANY_ROWS
from benchmarks.quality import (
    ACTIVATIONS,
    EPOCHS,
    LRS,
    Results,
    cpu_name,
    load_rows,
    train,
    version,
)
from benchmarks.quality_kinds_table import TARGETS
from sae_sweep.config import ActivationsConfig, Source, TrainConfig, Trial, TrialConfig, resolve
from sae_sweep.config.sae import ARCHITECTURES, OFTEN
from sae_sweep.records.sparsity import l0_setting

HERE = Path(__file__).parent
N_LATENTS = 512
OURS, OTHERWISE = "sae-sweep", "sae-sweep otherwise"
"""Ours as it is, and with the settings below."""
PEERS = ("sae-lens", "dictionary-learning")
FIRST = {"l1": (0.8, 2.5), "gated": (1.5, 5.0)}
"""Weights from whose L0 those of the targets are found; counts are tried as they are."""
MOST = 10
"""Trainings of one curve at most."""


class Regime(NamedTuple):
    """How many rows, and how often they are seen."""

    name: str
    activations: ActivationsConfig
    epochs: float


REGIMES = (
    Regime("few", ACTIVATIONS, EPOCHS),
    Regime("many", MANY_ROWS, 1),
)


class Task(NamedTuple):
    """All that defines one training."""

    regime: str
    trainer: str
    version: str
    fingerprint: str
    """Of the activations."""
    steps: int
    kind: str
    setting: str
    """What moves L0."""
    value: float
    n_latents: int
    lr: float
    seed: int


def setting_of(kind: str) -> str:
    """The setting that moves L0."""
    found = l0_setting({"kind": kind})
    assert found is not None, kind
    return found.name


def otherwise(kind: str, regime: Regime) -> dict[str, Any]:
    """Settings whose default could be another; none where nothing is in question."""
    if kind == "l1":
        return {"l1_norm": "unit"}
    if kind == "gated":
        return {"encoder_scale": 0.2}
    if setting_of(kind) == "k" and regime.epochs >= OFTEN:
        return {"encoder_scale": ARCHITECTURES[kind].default_scale}  # as where rows are many
    return {}


def next_value(points: list[dict[str, Any]], target: float) -> float | None:
    """The setting's value for an L0, by those that were tried; None where one is near enough."""
    curve = pd.DataFrame(points)
    if quality_kinds_table.is_near(curve["l0"], target):
        return None
    found = quality_kinds_table.at_l0(curve, target, "value")
    found = min(max(found, curve["value"].min() / 2), curve["value"].max() * 2)
    value = float(round(found) if curve["setting"].iloc[0] == "k" else f"{found:.2g}")
    return None if value in set(curve["value"]) else value


def make_trial(regime: Regime, source: Source, task: Task) -> Trial:
    """Settle one training; no auxiliary loss on dead latents where k sets L0."""
    sae: dict[str, Any] = {task.setting: task.value, "n_latents": task.n_latents}
    if task.setting == "k":
        sae |= {"k": int(task.value), "aux_coeff": 0}
    if task.trainer == OTHERWISE:
        sae |= otherwise(task.kind, regime)
    settings = TrainConfig(
        lr=task.lr,
        epochs=regime.epochs,
        seed_init=task.seed,
        seed_data=task.seed,
        report_every=10**9,  # at the end alone: what is timed is training
    )
    config = TrialConfig(
        activations=regime.activations, sae=ARCHITECTURES[task.kind](**sae), train=settings
    )
    return resolve(config, source)


class Bench:
    """All trainings of one regime."""

    def __init__(self, regime: Regime, outputs: Path, results: Path) -> None:
        self._regime = regime
        self._source, self._activations = load_rows(regime.activations, outputs)
        self._results = Results(results)

    def run(self, kinds: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Train what is missing, kind by kind; yields the lines of all kinds so far."""
        lines: list[dict[str, Any]] = []
        for kind in kinds:
            twice = bool(otherwise(kind, self._regime))
            for trainer in (OURS, *((OTHERWISE,) if twice else ()), *PEERS):
                curves = {lr: self._curve(kind, trainer, lr) for lr in LRS}
                lines += (first := [line for curve in curves.values() for line in curve])
                best = quality_kinds_table.best_rates(first)
                for lr, curve in curves.items():
                    targets = [target for target in TARGETS if best[target] == lr]
                    lines += self._repeated(kind, trainer, lr, curve, targets)
            yield lines

    def _curve(self, kind: str, trainer: str, lr: float) -> list[dict[str, Any]]:
        """Train with seed 0 until some training is near each target."""
        task = self._task(kind, trainer, lr, seed=0)
        lines = self._results.alike(task, besides="value")
        if len(lines) < 2:  # no line to read
            lines = [self._line(task._replace(value=one)) for one in FIRST.get(kind, TARGETS)]
        for target in TARGETS:
            while len(lines) < MOST and (value := next_value(lines, target)) is not None:
                lines.append(self._line(task._replace(value=value)))
        return lines

    def _repeated(
        self, kind: str, trainer: str, lr: float, curve: list[dict[str, Any]], targets: list[int]
    ) -> list[dict[str, Any]]:
        """Repeat with seed 1 the trainings between which a curve is read."""
        task, points = self._task(kind, trainer, lr, seed=1), pd.DataFrame(curve)
        ends = [quality_kinds_table.ends(points, target)["value"] for target in targets]
        values = sorted({value for each in ends for value in each})
        return [self._line(task._replace(value=value)) for value in values]

    def _task(self, kind: str, trainer: str, lr: float, seed: int) -> Task:
        steps = round(self._regime.epochs * self._activations.n_train / TrainConfig().batch_size)
        return Task(
            regime=self._regime.name,
            trainer=trainer,
            version=version(trainer.split()[0]),
            fingerprint=self._source.fingerprint,
            steps=steps,
            kind=kind,
            setting=setting_of(kind),
            value=0.0,
            n_latents=N_LATENTS,
            lr=lr,
            seed=seed,
        )

    def _line(self, task: Task) -> dict[str, Any]:
        """The line of one training, done now unless it was done before."""
        if (known := self._results.of(task)) is None:
            trial = make_trial(self._regime, self._source, task)
            assert trial.steps == task.steps
            known = {
                **task._asdict(),
                **train(task.trainer.split()[0], trial, self._activations),
                "torch": torch.__version__,
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            self._results.add(known)
            print(
                f"{task.regime} {task.trainer:20} {task.kind:10} {task.setting}={task.value:g} "
                f"lr {task.lr:g} seed {task.seed}: fvu {known['fvu']:.4f} l0 {known['l0']:.1f} "
                f"dead {known['dead_features']:.1%} {known['cpu_seconds']:.1f} s",
                flush=True,
            )
        return known


def main() -> None:
    """Read the command line, train what is missing, renew the tables."""
    names = [regime.name for regime in REGIMES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality_kinds", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rows", choices=names, nargs="+", default=names, help="regimes")
    parser.add_argument(
        "--kinds", choices=list(ARCHITECTURES), nargs="+", default=list(ARCHITECTURES)
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "quality_kinds.jsonl")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for regime in REGIMES:
        if regime.name not in arguments.rows:
            continue
        for lines in Bench(regime, arguments.outputs, arguments.results).run(arguments.kinds):
            text = quality_kinds_table.render(lines)
            readme.replace(arguments.readme, f"quality-{regime.name}", text)


if __name__ == "__main__":
    main()
