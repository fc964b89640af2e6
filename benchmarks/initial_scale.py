"""How long the encoder's rows should be at the start: few rows seen often, or many seen once.

    python -m benchmarks.initial_scale

Our TopK from three starts, as shares of c, the norm that reconstructs the first batch best. One
seed; prints one row per setting: FVU on the validation rows, and in brackets the share of dead
latents.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import quality
from sae_sweep.activations import Activations, batch_indices
from sae_sweep.config import ActivationsConfig, TopKConfig, TrainConfig, Trial, TrialConfig, resolve
from sae_sweep.sae import build
from sae_sweep.train import Engine


class Case(NamedTuple):
    """A way of training, and the cells that are trained so."""

    activations: ActivationsConfig
    epochs: float
    lr: float
    cells: tuple[tuple[int, int], ...]
    """Each k and n_latents."""


MANY_ROWS = quality.ACTIVATIONS.model_copy(
    update={"train_tokens": 262_144, "validation_tokens": 32_768}
)
CASES = (
    Case(quality.ACTIVATIONS, quality.EPOCHS, 3e-4, ((5, 512), (100, 512))),
    Case(quality.ACTIVATIONS, quality.EPOCHS, 1e-3, ((32, 1024), (100, 512), (20, 2048))),
    Case(quality.ACTIVATIONS, quality.EPOCHS, 4e-3, ((5, 512), (32, 1024), (100, 512), (20, 2048))),
    Case(MANY_ROWS, 1, 1e-3, ((16, 768), (16, 1536), (32, 1536))),
    Case(MANY_ROWS, 1, 8e-3, ((64, 512),)),
)
"""The benchmark's training at a low, a usual and a high rate, and one pass over many rows."""


def best_norm(trial: Trial, activations: Activations) -> float:
    """Find c, the norm of a tied encoder that reconstructs the first batch best."""
    sae = build(trial.sae, activations.d, trial.train.seed_init)  # rows of norm 1, no biases
    first = batch_indices(trial.train.seed_data, 0, trial.train.batch_size, activations.n_train)
    x = activations.train_rows(first)
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(x))
    return ((x * x_hat).sum() / x_hat.square().sum()).item()


def final_metrics(trial: Trial, norm: float, activations: Activations) -> dict[str, float]:
    """Train to the end from encoder rows of the given norm."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(activations, Path(folder))
        engine.add(trial)
        state = engine.state(trial.uid)
        rows = state.tensors["w_enc"]
        rows.mul_(norm / rows.norm(dim=1, keepdim=True))
        engine.load(trial.uid, state)
        *_, outcome = engine.advance(trial.steps)
    assert outcome.status == "done", outcome.error
    return outcome.final


def row(case: Case, cell: tuple[int, int], outputs: Path) -> str:
    """Train one cell from every start."""
    source, activations = quality.load_rows(case.activations, outputs)
    k, n_latents = cell
    config = TrialConfig(
        activations=case.activations,
        sae=TopKConfig(k=k, n_latents=n_latents, aux_coeff=0),
        train=TrainConfig(lr=case.lr, epochs=case.epochs, report_every=10**9),
    )
    trial = resolve(config, source)
    c = best_norm(trial, activations)
    entries = []
    for share in (1, 0.5, k**-0.5):
        final = final_metrics(trial, share * c, activations)
        entries.append(f"{final['fvu']:.4f} ({final['dead_features']:.1%})")
    given = [f"{activations.n_train:,}", str(trial.steps), f"{case.lr:g}", str(n_latents), str(k)]
    return f"| {' | '.join([*given, f'{c:.2f}', *entries])} |"


def main() -> None:
    """Read the command line, print the table row by row."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.initial_scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    outputs = parser.parse_args().outputs
    torch.set_num_threads(1)
    print("| rows | steps | lr | n_latents | k | c | from c | from c / 2 | from c / sqrt(k) |")
    print(f"|{' --- |' * 9}")
    for case in CASES:
        for cell in case.cells:
            print(row(case, cell, outputs), flush=True)


if __name__ == "__main__":
    main()
