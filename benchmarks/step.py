"""One training step on a CPU, optimiser included: ours, its reference form, and three peers.

    python -m benchmarks.step

Every trainer makes the same trainings on the same rows, in turns, on one thread. A step lasts from
one call for a batch to the next; the first of a training are left out. Times are medians over all
steps of all turns. Rows are layer 3 of all-MiniLM-L6-v2 where the width is its own, synthetic ones
elsewhere. The tables stand in benchmarks/README.md.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import readme, references, step_table, trainers
from benchmarks.quality import ACTIVATIONS, cpu_name, fvu, load_rows
from sae_sweep.activations import Activations
from sae_sweep.config import (
    ActivationsConfig,
    L1Config,
    Source,
    TopKConfig,
    TrainConfig,
    Trial,
    TrialConfig,
    resolve,
)
from sae_sweep.kernels import cpu

HERE = Path(__file__).parent
WARM_UP_STEPS = 3
"""Of a training: the first builds caches and optimiser state, one peer's computes a median."""


class Shape(NamedTuple):
    """What decides how long a step takes."""

    d: int
    n_latents: int
    k: int | None
    """Of TopK; L1 where there is none."""
    batch: int


SHAPES = (
    Shape(384, 3072, 32, 1024),
    Shape(768, 8192, 32, 1024),
    Shape(2048, 2048, 100, 256),
    Shape(384, 1536, 32, 256),
)
STEPS = {
    **dict(zip(SHAPES, (64, 16, 64, 256), strict=True)),
    Shape(2048, 16384, 64, 1024): 7,
    Shape(384, 1536, None, 256): 256,
    Shape(384, 3072, None, 1024): 64,
}
"""Of a training."""


class Clocked:
    """Activations, and the times at which batches were asked for."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __getattr__(self, name: str) -> Any:
        """All else is as it was."""
        return getattr(self._activations, name)

    def train_rows(self, indices: Tensor) -> Tensor:
        """Take rows, and the time."""
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        return self._activations.train_rows(indices)


class Turn(NamedTuple):
    """One training: what its steps lasted in seconds, and what came of it."""

    cpu: list[float]
    wall: list[float]
    end: dict[str, Any]
    """fvu and l0, or the error."""


def settings(shape: Shape) -> ActivationsConfig:
    """Choose what a shape is trained on."""
    if shape.d == 384:
        return ACTIVATIONS
    rows = 8 * shape.batch
    return ActivationsConfig(
        synthetic={}, d=shape.d, train_tokens=rows, validation_tokens=min(rows, 1024)
    )


def settle(shape: Shape, source: Source, steps: int, precision: str = "auto") -> Trial:
    """Resolve a trial of this shape."""
    sae: TopKConfig | L1Config = L1Config(n_latents=shape.n_latents)
    if shape.k is not None:
        sae = TopKConfig(k=shape.k, n_latents=shape.n_latents, aux_coeff=0)
    train = TrainConfig(
        lr=1e-3, batch_size=shape.batch, steps=steps, report_every=10**9, precision=precision
    )
    return resolve(TrialConfig(activations=settings(shape), sae=sae, train=train), source)


def contenders(shape: Shape) -> dict[str, Callable[..., trainers.Autoencoder]]:
    """Who takes part at a shape, ours first."""
    peers = {name: train for name, train in trainers.TRAINERS.items() if name != "sae-sweep"}
    found = {"sae-sweep": trainers.ours, "bf16_select": trainers.ours}
    found |= {"reference form": references.eager, "torch.compile": references.compiled, **peers}
    if shape.k is None:
        del found["bf16_select"], found["eai-sparsify"]  # neither has L1
    return found


def measure(shape: Shape, outputs: Path, rounds: int, steps: int) -> Iterator[dict[str, Any]]:
    """Time every contender at a shape; a line each, and one of the encoder's product alone."""
    turns: dict[str, list[Turn]] = {}
    products: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for number, name in itertools.product(range(rounds), contenders(shape)):
        if name != "torch.compile":
            turns.setdefault(name, []).append(take_turn(shape, name, outputs, steps))
        elif number == 0:  # a turn more would be compiled again
            turns[name] = [_apart(shape, name, outputs, steps)]
        for dtype, times in products.items():
            times += _products(shape, dtype)
    common = {
        **shape._asdict(),
        "tokens": steps * shape.batch,
        "rows": settings(shape).kind,
        "versions": versions(),
        "cpu": cpu_name(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    for name, taken in turns.items():
        yield {**common, "trainer": name, **_times(taken), **taken[-1].end}
    for dtype, times in products.items():
        alone = round(1e3 * statistics.median(times), 3)
        yield {**common, "trainer": f"encoder {str(dtype).removeprefix('torch.')}", "cpu_ms": alone}


def take_turn(shape: Shape, name: str, outputs: Path, steps: int) -> Turn:
    """Let a contender train once."""
    torch.set_num_threads(1)
    source, activations = load_rows(settings(shape), outputs)
    precision = "bf16_select" if name == "bf16_select" else "auto"
    trial, clock = settle(shape, source, steps, precision), Clocked(activations)
    autoencoder = contenders(shape)[name](trial, clock)
    return Turn(_durations(clock.cpu), _durations(clock.wall), _quality(autoencoder, activations))


def _apart(shape: Shape, name: str, outputs: Path, steps: int) -> Turn:
    """Take a turn in a process of its own: what a peer imports breaks the compiler."""
    spawn = multiprocessing.get_context("spawn")
    try:
        with futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
            return process.submit(take_turn, shape, name, outputs, steps).result()
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises is the result
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Turn([], [], {"error": words[:200]})


def _products(shape: Shape, dtype: torch.dtype) -> list[float]:
    """CPU time of the encoder's product alone, in the chunks that training makes."""
    x, w = torch.randn(shape.batch, shape.d), torch.randn(shape.n_latents, shape.d)
    chunks = x.to(dtype).split(max(1, cpu.CHUNK_ENTRIES // shape.n_latents))
    w = w.to(dtype)
    times = []
    for _ in range(3):
        began = time.process_time()
        for chunk in chunks:
            cpu.linear(chunk, w)
        times.append(time.process_time() - began)
    return times[1:]


@torch.no_grad()
def _quality(autoencoder: trainers.Autoencoder, activations: Activations) -> dict[str, float]:
    x = activations.validation_rows(0, min(activations.n_validation, 1024))
    x_hat, latents = autoencoder(x)
    return {"fvu": fvu(x, x_hat), "l0": (latents > 0).sum().item() / len(x)}


def _times(turns: list[Turn]) -> dict[str, Any]:
    cpu_times = [one for turn in turns for one in turn.cpu]
    wall_times = [one for turn in turns for one in turn.wall]
    if not cpu_times:
        return {}
    return {
        "cpu_ms": round(1e3 * statistics.median(cpu_times), 3),
        "wall_ms": round(1e3 * statistics.median(wall_times), 3),
        "steps": len(cpu_times),
    }


def _durations(called: list[float]) -> list[float]:
    """Of all steps after the first, but the last: what follows its call is not only a step."""
    return [after - before for before, after in itertools.pairwise(called[WARM_UP_STEPS:])]


def versions() -> str:
    """Of everything that takes part."""
    named = [f"{name} {metadata.version(name)}" for name in trainers.TRAINERS]
    return ", ".join([*named, f"torch {torch.__version__}"])


def main() -> None:
    """Read the command line, measure, renew the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns that each trainer takes")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each training")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "step.jsonl", help="written anew"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for shape, steps in STEPS.items():
        length = max(WARM_UP_STEPS + 3, round(arguments.share * steps))
        for line in measure(shape, arguments.outputs, arguments.rounds, length):
            lines.append(line)
            print(f"{shape} {line['trainer']:20} {line.get('cpu_ms', line.get('error'))}")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    arguments.results.write_text(text, encoding="utf-8")
    readme.replace(arguments.readme, "step", step_table.render(lines))


if __name__ == "__main__":
    main()
