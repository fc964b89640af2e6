"""Ways to do the operations of a training step on a CPU: those taken, and those that lost.

    python -m benchmarks.operations

The first way of each is the one that training takes; all give the same result. CPU time on one
thread, medians, the ways of an operation in turn. The table stands in benchmarks/README.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import readme
from benchmarks.quality import cpu_name
from benchmarks.step import SHAPES, Shape
from sae_sweep.kernels import Adam, Moments, cpu, reference

HERE = Path(__file__).parent
REPEATS = 7
Ways = dict[str, Callable[[], Tensor]]


def ways(shape: Shape) -> dict[str, Ways]:
    """What can be done in more than one way, on random tensors of a shape."""
    d, m, k, n = shape
    torch.manual_seed(0)
    x, upstream, w = torch.randn(n, d), torch.randn(n, d), torch.randn(m, d)
    reference.normalise_rows(w)
    pre = x @ w.T
    latents = cpu.top_k(pre, k)
    return {
        "encoder product": {
            "oneDNN": lambda: cpu.linear(x, w),
            "F.linear": lambda: F.linear(x, w),
        },
        "selection": {
            "np.argpartition": lambda: _sorted(cpu.top_k(pre, k).values),
            "torch.topk": lambda: _sorted(pre.topk(k).values.relu()),
            "reference": lambda: _sorted(reference.top_k(pre, k).values),
        },
        "decoding": {
            "embedding_bag": lambda: cpu.decode(latents, w),
            "gather and bmm": lambda: torch.bmm(latents.values[:, None], w[latents.indices])[:, 0],
            "dense product": lambda: cpu.decode(_written_out(latents, m), w),
        },
        "gradient of activations": {
            "by latent": lambda: _by_latent(latents, upstream, w),
            "by token": lambda: _by_token(latents, upstream, w),
            "dense product": lambda: cpu.linear(upstream, w).gather(1, latents.indices),
        },
        "gradient of the decoder": {
            "embedding_bag": lambda: _bags(latents, upstream, m),
            "index_add_": lambda: _index_add(latents, upstream, m),
            "dense product": lambda: cpu.linear(_written_out(latents, m).T, upstream.T),
        },
        "Adam": {
            "fused": _adam(cpu.adam_step, w),
            "reference": _adam(reference.adam_step, w),
        },
    }


def _sorted(values: Tensor) -> Tensor:
    return values.sort(dim=1).values


def _written_out(latents: reference.SparseLatents, m: int) -> Tensor:
    zeros = latents.values.new_zeros(len(latents.values), m)
    return zeros.scatter_(1, latents.indices, latents.values)


def _order(latents: reference.SparseLatents) -> Tensor:
    keys = latents.indices.flatten().numpy().astype(np.uint16)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def _dots(of: Tensor, rows: Tensor, row: Tensor, start: Tensor, owner: Tensor) -> Tensor:
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(of, rows, row, start, owner, 0)


def _by_latent(latents: reference.SparseLatents, upstream: Tensor, w: Tensor) -> Tensor:
    flat, order = latents.indices.flatten(), _order(latents)
    token = order // latents.indices.shape[1]
    dots = _dots(w, upstream, token, torch.zeros(len(w), dtype=torch.int64), flat[order])
    return torch.empty_like(dots).scatter_(0, order, dots).view_as(latents.values)


def _by_token(latents: reference.SparseLatents, upstream: Tensor, w: Tensor) -> Tensor:
    n, k = latents.indices.shape
    owner = torch.arange(n).repeat_interleave(k)
    dots = _dots(upstream, w, latents.indices.flatten(), torch.arange(0, n * k, k), owner)
    return dots.view(n, k)


def _bags(latents: reference.SparseLatents, rows: Tensor, m: int) -> Tensor:
    flat, order = latents.indices.flatten(), _order(latents)
    counts = flat.bincount(minlength=m)
    token, start = order // latents.indices.shape[1], counts.cumsum(0) - counts
    values = latents.values.flatten()[order]
    return F.embedding_bag(token, rows, start, per_sample_weights=values, mode="sum")


def _index_add(latents: reference.SparseLatents, rows: Tensor, m: int) -> Tensor:
    spread = (latents.values[:, :, None] * rows[:, None]).flatten(0, 1)
    return rows.new_zeros(m, rows.shape[1]).index_add_(0, latents.indices.flatten(), spread)


def _adam(form: Callable[..., None], w: Tensor) -> Callable[[], Tensor]:
    """Make an update of a copy of w that can be made again and again."""
    parameter, gradient = w.clone(), w.clone()
    moments = Moments(torch.zeros_like(w), torch.zeros_like(w))

    def update() -> Tensor:
        form(parameter, gradient, moments, 1, Adam(1e-3, 0.9, 0.999))
        return parameter

    return update


def measure(shape: Shape) -> dict[tuple[str, str], float]:
    """Time every way of every operation in turn; medians in ms."""
    times: dict[tuple[str, str], list[float]] = {}
    for operation, by_name in ways(shape).items():
        for repeat in range(REPEATS + 1):
            for name, way in by_name.items():
                began = time.process_time()
                way()
                if repeat:
                    times.setdefault((operation, name), []).append(time.process_time() - began)
    return {key: 1e3 * statistics.median(measured) for key, measured in times.items()}


def render(found: dict[Shape, dict[tuple[str, str], float]]) -> str:
    """Write the section: a row a way, a column a shape."""
    header = ["operation", "way", *(", ".join(map(str, shape)) for shape in found)]
    rows = [
        [*key, *(f"{of_shape[key]:.2f}" for of_shape in found.values())]
        for key in next(iter(found.values()))
    ]
    return "\n".join(
        [
            f"`python -m benchmarks.operations`, {datetime.now(UTC).date().isoformat()}: ms of CPU "
            f"time on one thread, by d, n_latents, k, batch; torch {torch.__version__}; "
            f"{cpu_name()}. The first way of each operation is the one that training takes.",
            "",
            *(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]),
        ]
    )


def main() -> None:
    """Measure and renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    page = parser.parse_args().readme
    torch.set_num_threads(1)
    readme.replace(page, "operations", render({shape: measure(shape) for shape in SHAPES}))


if __name__ == "__main__":
    main()
