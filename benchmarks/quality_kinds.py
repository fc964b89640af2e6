"""Reconstruction on real activations, every architecture: ours beside two peers, L0 matched.

    python -m benchmarks.quality_kinds

Rows, batches, schedule and learning rates as in `benchmarks.quality`, in two regimes: few rows seen
25 times, and many seen once. Each trainer is trained at several values of the setting that moves
its L0, which gives a curve of FVU over L0, both on validation rows and as the autoencoder is used;
a cell is that curve at L0 = 16, 32 or 64, linear between its points in logarithms. The best of
three learning rates is chosen for each cell by seed 0; seed 1 repeats its curve. One line per
training in the results file: an interrupted run goes on where it was.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

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
from sae_sweep.config import ActivationsConfig, Source, TrainConfig, Trial, TrialConfig, resolve
from sae_sweep.config.sae import ARCHITECTURES, OFTEN

HERE = Path(__file__).parent
N_LATENTS = 512
TARGETS = (16, 32, 64)
"""Active latents per token at which architectures are compared."""
BELOW = (10,)
"""Settings below the targets."""
OURS, AUTO = "sae-sweep", "sae-sweep auto"
"""Ours as it is, and with the encoder's start chosen by the regime, where k sets L0 and rows are
seen often: elsewhere both are one."""
PEERS = ("sae-lens", "dictionary-learning")
PENALTIES = {
    ("l1", "sae-sweep"): (0.6, 1.2, 2.1, 3.6),
    ("l1", "sae-lens"): (0.8, 1.6, 2.8),
    ("l1", "dictionary-learning"): (0.7, 1.3, 2.2, 3.7),
    ("gated", "sae-sweep"): (1.3, 2.2, 4.2, 8.0),
    ("gated", "sae-lens"): (1.3, 2.6, 5.2),
    ("gated", "dictionary-learning"): (1.4, 2.3, 4.4, 8.5),
}
"""Weights whose L0 lies around the targets."""


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


def strengths(kind: str, trainer: str, regime: Regime) -> tuple[str, tuple[float, ...]]:
    """The setting that moves L0, and its values: L0 in use lies on both sides of each target."""
    if kind in ("l1", "gated"):
        return "l1_alpha", PENALTIES[kind, trainer]
    # the threshold is of rows that were seen often: of others more latents are active
    values = (*BELOW, *TARGETS) if regime.epochs >= OFTEN and kind != "topk" else TARGETS
    return ("target_l0" if kind == "jumprelu" else "k"), values


def make_trial(regime: Regime, source: Source, task: Task) -> Trial:
    """Settle one training; no auxiliary loss on dead latents where k sets L0."""
    sae: dict[str, Any] = {task.setting: task.value, "n_latents": task.n_latents}
    if task.setting == "k":
        sae |= {"k": int(task.value), "aux_coeff": 0}
    if task.trainer == AUTO:
        sae["encoder_scale"] = "auto"
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
            setting, _ = strengths(kind, OURS, self._regime)
            auto = setting == "k" and self._regime.epochs >= OFTEN
            for trainer in (OURS, *((AUTO,) if auto else ()), *PEERS):
                first = [line for lr in LRS for line in self._curve(kind, trainer, lr, seed=0)]
                best = quality_kinds_table.best_rates(first)
                lines += first
                for lr in sorted(set(best.values())):
                    lines += self._curve(kind, trainer, lr, seed=1)
            yield lines

    def _curve(self, kind: str, trainer: str, lr: float, seed: int) -> list[dict[str, Any]]:
        setting, values = strengths(kind, trainer, self._regime)
        return [self._line(kind, trainer, setting, value, lr, seed) for value in values]

    def _line(
        self, kind: str, trainer: str, setting: str, value: float, lr: float, seed: int
    ) -> dict[str, Any]:
        """The line of one training, done now unless it was done before."""
        steps = round(self._regime.epochs * self._activations.n_train / TrainConfig().batch_size)
        task = Task(
            regime=self._regime.name,
            trainer=trainer,
            version=version(trainer.split()[0]),
            fingerprint=self._source.fingerprint,
            steps=steps,
            kind=kind,
            setting=setting,
            value=value,
            n_latents=N_LATENTS,
            lr=lr,
            seed=seed,
        )
        if (known := self._results.of(task)) is None:
            trial = make_trial(self._regime, self._source, task)
            assert trial.steps == steps
            known = {
                **task._asdict(),
                **train(trainer.split()[0], trial, self._activations),
                "torch": torch.__version__,
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            self._results.add(known)
            print(
                f"{task.regime} {trainer:20} {kind:10} {setting}={value:g} lr {lr:g} seed {seed}: "
                f"fvu {known['fvu']:.4f} l0 {known['l0']:.1f} dead {known['dead_features']:.1%} "
                f"{known['cpu_seconds']:.1f} s",
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
