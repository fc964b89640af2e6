"""How near its target a trial with an L0 controller ends: one training per row, nothing repeated.

    python -m benchmarks.controller

L1 trials on real activations, each with its target from the start of one training. The last three
rows begin elsewhere, or have a target that moves. The table stands in benchmarks/README.md.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import quality, readme
from sae_sweep.activations import Activations
from sae_sweep.config import ActivationsConfig, L1Config, Source, TrainConfig, TrialConfig, resolve
from sae_sweep.train import Engine

HERE = Path(__file__).parent
N_LATENTS, STEPS, LR = 768, 384, 1e-3
TARGETS = (0.2, 0.1, 0.05, 0.02, 0.01)
COLUMNS = (
    *("layer", "l1_alpha at first", "target", "L0", "error", "l1_alpha at last", "at its bound"),
    *("sd of a batch's L0", "FVU"),
)


class Case(NamedTuple):
    """One training; None as a target: none is held."""

    layer: int
    target: float | None
    l1_alpha: float = 5.0
    start: float | None = None


CASES = (
    *(Case(layer, target) for layer in (3, 5) for target in (None, *TARGETS)),
    Case(3, 0.05, l1_alpha=1.0),
    Case(3, 0.05, l1_alpha=20.0),
    Case(3, 0.05, start=0.1),
)


def row(case: Case, source: Source, activations: Activations) -> str:
    """Train one case and say how it ended."""
    train = TrainConfig(
        lr=LR,
        steps=STEPS,
        l0_controller=case.target is not None,
        l0_target=case.target,
        l0_target_start=case.start,
        report_every=10**9,
    )
    sae = L1Config(n_latents=N_LATENTS, l1_alpha=case.l1_alpha)
    trial = resolve(TrialConfig(activations=settings(case.layer), sae=sae, train=train), source)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(activations, Path(folder))
        engine.add(trial)
        *_, outcome = engine.advance(trial.steps)
    assert outcome.status == "done", outcome.error
    final = outcome.final
    l0 = final["l0_fraction"]
    target, error, last, bound = "none", "", f"{case.l1_alpha:g}", ""
    if case.target is not None:
        moving = "" if case.start is None else f"{case.start:.0%} to "
        target = f"{moving}{case.target:.0%}"
        error = f"{l0 / case.target - 1:+.1%}"
        last = f"{final['l1_alpha_final']:.2f}"
        bound = f"{final['l1_alpha_saturated']:.0%}"
    spread = final["l0_fraction_last_half_sd"] / final["l0_fraction_last_half"]
    measured = [f"{l0:.2%}", error, last, bound, f"{spread:.1%}", f"{final['fvu']:.3f}"]
    return f"| {' | '.join([str(case.layer), f'{case.l1_alpha:g}', target, *measured])} |"


def settings(layer: int) -> ActivationsConfig:
    """Activations of a layer."""
    changes = {"layer": layer, "train_tokens": 65_536, "validation_tokens": 8_192}
    return quality.ACTIVATIONS.model_copy(update=changes)


def main() -> None:
    """Read the command line, train every case, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.controller", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    outputs = parser.parse_args().outputs
    torch.set_num_threads(1)
    loaded = {layer: quality.load_rows(settings(layer), outputs) for layer in (3, 5)}
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        lines.append(row(case, *loaded[case.layer]))
        print(lines[-1], flush=True)
    readme.replace(HERE / "README.md", "controller", "\n".join(lines))


if __name__ == "__main__":
    main()
