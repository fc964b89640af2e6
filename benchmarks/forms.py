"""Sparse against dense decoding and gradients on a CPU: the table that training looks up.

    python -m benchmarks.forms

Times both forms at every shape on one thread, in CPU time, and writes
sae_sweep/kernels/cpu/forms.csv. Run it where nothing else runs.
"""

import argparse
import csv
import itertools
import statistics
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch

from sae_sweep.kernels import SparseLatents, cpu
from sae_sweep.kernels.cpu import forms

WIDTHS = (384, 2048)
DICTIONARIES = (512, 2048, 8192)
BATCHES = (256, 1024)
DENSITIES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
REPEATS = 3


def milliseconds(call: Callable[[], object]) -> float:
    """Median CPU time of a call that has been made once before."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1e3 * statistics.median(times)


def measure(d: int, n_latents: int, k: int, batch: int) -> forms.Timing:
    """Time one shape, latents spread evenly."""
    torch.manual_seed(0)
    x, upstream, w_dec = (torch.randn(rows, d) for rows in (batch, batch, n_latents))
    indices = torch.rand(batch, n_latents).topk(k).indices.sort(dim=1).values
    latents = SparseLatents(torch.rand(batch, k), indices)

    def sparse() -> None:
        cpu.decode(latents, w_dec)
        cpu.gradients(latents, upstream, x, w_dec)

    def dense() -> None:
        written = x.new_zeros(batch, n_latents).scatter_(1, indices, latents.values)
        cpu.decode(written, w_dec)
        cpu.gradients(written, upstream, x, w_dec)

    return forms.Timing(d, n_latents, k, batch, milliseconds(sparse), milliseconds(dense))


def main() -> None:
    """Measure every shape and write the table."""
    default = Path(str(resources.files(cpu.__name__).joinpath(forms.TABLE)))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forms", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--table", type=Path, default=default, help="written anew")
    table = parser.parse_args().table
    torch.set_num_threads(1)
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["d", "n_latents", "k", "batch", "sparse_ms", "dense_ms"])
        for d, m, batch, density in itertools.product(WIDTHS, DICTIONARIES, BATCHES, DENSITIES):
            timing = measure(d, m, round(density * m), batch)
            rows.writerow([*timing[:4], f"{timing.sparse:.2f}", f"{timing.dense:.2f}"])
            file.flush()
            print(timing, flush=True)


if __name__ == "__main__":
    main()
