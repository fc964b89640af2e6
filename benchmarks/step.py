"""One training step on a CPU, optimiser included: ours, its reference form, and three peers.

    python -m benchmarks.step

Every trainer makes the same steps on the same batches, one after another, several rounds in turn,
on one thread. A step lasts from one call for a batch to the next; the first of a round are left
out. Times are medians over all rounds. The table stands in benchmarks/README.md.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import readme, trainers
from benchmarks.quality import cpu_name
from sae_sweep.config import (
    ActivationsConfig,
    Source,
    TopKConfig,
    TrainConfig,
    Trial,
    TrialConfig,
    resolve,
)
from sae_sweep.kernels import Moments, reference
from sae_sweep.sae import build, calibrate

HERE = Path(__file__).parent
WARM_UP_STEPS = 3
"""Of a round: the first builds caches and optimiser state, one peer's computes a median."""
BATCHES = 8


class Shape(NamedTuple):
    """What decides how long a step takes."""

    d: int
    n_latents: int
    k: int
    batch: int


SHAPES = (
    Shape(384, 3072, 32, 1024),
    Shape(768, 8192, 32, 1024),
    Shape(2048, 2048, 100, 256),
    Shape(384, 1536, 32, 256),
)


class Clocked:
    """Random rows in memory, and the times at which batches were asked for."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)
        self.d, self.fingerprint, self.group_names = shape.d, "random", ()
        self.n_train = self.n_validation = BATCHES * shape.batch
        self.mean, self.scale = torch.zeros(shape.d), 1.0
        self._rows = torch.randn(self.n_train, shape.d, generator=generator)
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def train_rows(self, indices: Tensor) -> Tensor:
        """Take rows, and the time."""
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        return self._rows[indices]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        """Take rows: what follows training is not timed."""
        return self._rows[start:stop]

    def validation_groups(self, start: int, stop: int) -> Tensor:
        """One group."""
        return torch.zeros(stop - start, dtype=torch.int16)


def settle(shape: Shape, steps: int) -> Trial:
    """Resolve a trial of this shape."""
    activations = ActivationsConfig(synthetic={}, d=shape.d, train_tokens=BATCHES * shape.batch)
    config = TrialConfig(
        activations=activations,
        sae=TopKConfig(k=shape.k, n_latents=shape.n_latents, aux_coeff=0),
        train=TrainConfig(lr=1e-3, batch_size=shape.batch, steps=steps, report_every=10**9),
    )
    return resolve(config, Source("random", shape.d, BATCHES * shape.batch, {}))


def eager(trial: Trial, activations: Any) -> None:
    """Train with the reference operations and autograd, as elsewhere than on a CPU."""
    sae = build(trial.sae, activations.d, trial.train.seed_init)
    dead = torch.zeros(trial.n_latents, dtype=torch.bool)
    settings = reference.Adam(trial.train.lr, trial.train.beta1, trial.train.beta2)
    moments = {
        name: Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
        for name, parameter in sae.named_parameters()
    }
    for step, x in enumerate(trainers.batches(trial, activations), start=1):
        if step == 1:
            calibrate(sae, x, "mean")
        sae.zero_grad(set_to_none=True)
        sae(x, dead, 1.0).loss.backward()
        assert sae.w_dec.grad is not None
        reference.remove_parallel(sae.w_dec.grad, sae.w_dec)
        for name, parameter in sae.named_parameters():
            assert parameter.grad is not None
            reference.adam_step(parameter, parameter.grad, moments[name], step, settings)
        sae.renormalise()


CONTENDERS: dict[str, Callable[[Trial, Any], object]] = {
    "sae-sweep": trainers.ours,
    "reference form": eager,
    **{name: train for name, train in trainers.TRAINERS.items() if name != "sae-sweep"},
}


def measure(shape: Shape, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Time every contender at a shape; a line each."""
    trial = settle(shape, WARM_UP_STEPS + steps)
    cpu: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    wall: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, train in CONTENDERS.items():
            clock = Clocked(shape)
            train(trial, clock)
            cpu[name] += _durations(clock.cpu, steps)
            wall[name] += _durations(clock.wall, steps)
    return [
        {
            **shape._asdict(),
            "trainer": name,
            "cpu_ms": round(1e3 * statistics.median(cpu[name]), 3),
            "wall_ms": round(1e3 * statistics.median(wall[name]), 3),
            "steps": len(cpu[name]),
            "versions": versions(),
            "cpu": cpu_name(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        for name in CONTENDERS
    ]


def _durations(called: list[float], steps: int) -> list[float]:
    """Of the last steps but one: what follows the last call is not only a step."""
    last = called[-steps:]
    return [after - before for before, after in itertools.pairwise(last)]


def versions() -> str:
    """Of everything that takes part."""
    named = [f"{name} {metadata.version(name)}" for name in trainers.TRAINERS]
    return ", ".join([*named, f"torch {torch.__version__}"])


def render(lines: Iterable[dict[str, Any]]) -> str:
    """Write the section: how it was measured, and samples a second of every shape."""
    by_shape: dict[tuple[int, ...], dict[str, dict[str, Any]]] = {}
    for line in lines:
        key = tuple(line[name] for name in Shape._fields)
        by_shape.setdefault(key, {})[line["trainer"]] = line
    some = next(iter(next(iter(by_shape.values())).values()))
    names = list(CONTENDERS)
    header = ["d, n_latents, k, batch", *names, "by", "ours to reference", "ours to best peer"]
    table = [header, ["---"] * len(header)]
    for shape, found in by_shape.items():
        for clock in ("cpu_ms", "wall_ms"):
            speed = {name: 1e3 * shape[-1] / found[name][clock] for name in names}
            ours, own_reference, *peers = speed.values()
            row = [", ".join(map(str, shape)), *(f"{each:,.0f}" for each in speed.values())]
            ratios = [f"{ours / own_reference:.2f}", f"{ours / max(peers):.2f}"]
            table.append([*row, clock.removesuffix("_ms"), *ratios])
    return "\n".join(
        [
            f"`python -m benchmarks.step`, {some['date']}: samples a second in full training steps "
            f"(TopK, no auxiliary loss, Adam), medians of {some['steps']} steps, one thread; "
            f"{some['versions']}; {some['cpu']}. By CPU time and by wall time: other work on the "
            "machine lengthens the second.",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
        ]
    )


def main() -> None:
    """Read the command line, measure, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns that each trainer takes")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a turn")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "step.jsonl", help="written anew"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for shape in SHAPES:
        lines += measure(shape, arguments.rounds, arguments.steps)
        print(*(f"{line['trainer']:20} {line['cpu_ms']:9.2f} ms" for line in lines[-5:]), sep="\n")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    arguments.results.write_text(text, encoding="utf-8")
    readme.replace(arguments.readme, "step", render(lines))


if __name__ == "__main__":
    main()
