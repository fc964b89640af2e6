"""Selection proposed in bfloat16: what it misses on real activations, and what it saves on a CPU.

    python -m benchmarks.selection

Trains the cells of the sweep `topk_12` and two wider ones with `train.precision=fp32` and
`=bf16_select`, and lets the second encode all training rows both ways. Recall is the share of what
full precision selects that is selected. Times are medians of CPU time on one thread. The table
stands in benchmarks/README.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import readme
from benchmarks.quality import ACTIVATIONS, CELLS, EPOCHS, cpu_name, fvu, load_rows
from benchmarks.step_table import markdown
from sae_sweep.activations import Activations
from sae_sweep.config import Source, TopKConfig, TrainConfig, Trial, TrialConfig, resolve
from sae_sweep.kernels import SparseLatents, cpu
from sae_sweep.sae import AbstractSae, load
from sae_sweep.train import Engine

HERE = Path(__file__).parent
WIDER = ((32, 3072), (64, 6144))
BATCH = 256
REPEATS = 5


class Row(NamedTuple):
    """What is found of one cell."""

    k: int
    n_latents: int
    fvu_fp32: float
    fvu_select: float
    recall_without_margin: float
    recall: float
    deepest: int
    """How many places below the k-th the deepest proposal stood that belonged."""
    ms_fp32: float
    ms_select: float


def train(source: Source, activations: Activations, cell: tuple[int, int], way: str) -> AbstractSae:
    """Train a cell in one of the precisions."""
    k, n_latents = cell
    trial: Trial = resolve(
        TrialConfig(
            activations=ACTIVATIONS,
            sae=TopKConfig(k=k, n_latents=n_latents, aux_coeff=0),
            train=TrainConfig(lr=1e-3, epochs=EPOCHS, precision=way, report_every=10**9),
        ),
        source,
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(activations, Path(folder), threads=torch.get_num_threads())
        engine.add(trial)
        *_, outcome = engine.advance(trial.steps)
        assert outcome.status == "done", outcome.error
        return load(Path(folder) / trial.folder)


@torch.no_grad()
def measure(
    exact: AbstractSae, proposed: AbstractSae, activations: Activations, cell: tuple[int, int]
) -> Row:
    """Compare two trainings of a cell, and two selections of the second."""
    k, n_latents = cell
    x = activations.train_rows(torch.arange(activations.n_train))
    centred, weights = x - proposed.b_dec, (proposed.w_enc, proposed.b_enc)
    wanted = cpu.encode(centred, *weights, k)
    found = cpu.encode(centred, *weights, k, bf16_select=True)
    places = _places(centred, *weights, wanted)
    validation = activations.validation_rows(0, activations.n_validation)
    quality = [fvu(validation, sae.decode(sae.encode(validation))) for sae in (exact, proposed)]
    batch = centred[:BATCH]
    return Row(
        *cell,
        *quality,
        recall_without_margin=(places < k).double().mean().item(),
        recall=recall(wanted, found, n_latents),
        deepest=int(places.max()) - k + 1,
        ms_fp32=_milliseconds(lambda: cpu.encode(batch, *weights, k)),
        ms_select=_milliseconds(lambda: cpu.encode(batch, *weights, k, bf16_select=True)),
    )


def recall(wanted: SparseLatents, found: SparseLatents, n_latents: int) -> float:
    """Share of the positive latents of one selection that the other has too."""
    chosen = torch.zeros(len(found.indices), n_latents, dtype=torch.bool)
    chosen.scatter_(1, found.indices, found.values > 0)
    return chosen.gather(1, wanted.indices)[wanted.values > 0].double().mean().item()


def _places(centred: Tensor, w_enc: Tensor, b_enc: Tensor, wanted: SparseLatents) -> Tensor:
    """At which place, from 0, a product in bfloat16 puts each latent that belongs."""
    rough = cpu.linear(centred.bfloat16(), w_enc.bfloat16(), b_enc.bfloat16()).float()
    order = rough.argsort(dim=1, descending=True, stable=True)
    places = torch.empty_like(order).scatter_(1, order, torch.arange(len(b_enc)).expand_as(order))
    return places.gather(1, wanted.indices)[wanted.values > 0]


def _milliseconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1e3 * median(times)


def render(rows: list[Row]) -> str:
    """Write the section."""
    header = ["n_latents", "k", "FVU, fp32", "FVU, bf16_select", "recall without margin", "recall"]
    header += ["deepest", "margin", "encode ms, fp32", "encode ms, bf16_select", "ratio"]
    table = [
        [
            str(row.n_latents),
            str(row.k),
            f"{row.fvu_fp32:.4f}",
            f"{row.fvu_select:.4f}",
            f"{row.recall_without_margin:.4%}",
            f"{row.recall:.5%}",
            str(row.deepest),
            str(cpu.margin(row.k)),
            f"{row.ms_fp32:.2f}",
            f"{row.ms_select:.2f}",
            f"{row.ms_fp32 / row.ms_select:.2f}",
        ]
        for row in rows
    ]
    return (
        f"`python -m benchmarks.selection`, {datetime.now(UTC).date().isoformat()}: layer 3 of "
        f"all-MiniLM-L6-v2, {ACTIVATIONS.train_tokens:,} rows, seed 0, lr 1e-3; deepest: places "
        "below the k-th at which bfloat16 ranked a latent that belonged; encode: batches of "
        f"{BATCH}, CPU time on one thread; torch {torch.__version__}; {cpu_name()}.\n\n"
        f"{markdown(header, table)}"
    )


def main() -> None:
    """Train, measure, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.selection", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, activations = load_rows(ACTIVATIONS, arguments.outputs)
    rows = []
    for cell in (*CELLS, *WIDER):
        exact, proposed = (train(source, activations, cell, way) for way in ("fp32", "bf16_select"))
        rows.append(measure(exact, proposed, activations, cell))
        print(rows[-1], flush=True)
    readme.replace(arguments.readme, "selection", render(rows))


if __name__ == "__main__":
    main()
