"""A training step of every architecture on a CPU: ours beside two peers, at one shape.

    python -m benchmarks.step_kinds

Measured as in `benchmarks.step`: the same rows, one thread, medians of CPU time from one call for a
batch to the next, the optimiser included. Each contender takes its turns one after the other. L1
and Gated begin with half of all latents active, and have longer turns: their L0 falls meanwhile.
"""

import argparse
import statistics
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import readme, trainers
from benchmarks.quality import ACTIVATIONS, cpu_name, load_rows
from benchmarks.step import Clocked, versions
from sae_sweep.config import TrainConfig, TrialConfig, resolve
from sae_sweep.config.sae import ARCHITECTURES

HERE = Path(__file__).parent
N_LATENTS, K, BATCH = 1536, 32, 256
WARM_UP_STEPS = 5
SETTINGS = {
    **{kind: {"k": K, "aux_coeff": 0} for kind in ("topk", "batchtopk", "matryoshka")},
    "l1": {"l1_alpha": 2.0},
    "jumprelu": {"target_l0": K},
    "gated": {"l1_alpha": 4.0},
}
LONGER = {"l1": 6, "gated": 6}
"""How many times as many steps a turn has."""
NAMES = ("sae-sweep", "sae-lens", "dictionary-learning")
FURTHER = {"topk": ("eai-sparsify",)}
"""Peers that have one kind only."""


def measure(outputs: Path, kinds: list[str], steps: int, turns: int) -> dict[str, dict[str, float]]:
    """Median CPU milliseconds of a step, by architecture and trainer."""
    source, activations = load_rows(ACTIVATIONS, outputs)
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(turns):
        for kind in kinds:
            length = steps * LONGER.get(kind, 1)
            train = TrainConfig(lr=1e-3, batch_size=BATCH, steps=length, report_every=10**9)
            sae = ARCHITECTURES[kind](n_latents=N_LATENTS, **SETTINGS[kind])
            config = TrialConfig(activations=ACTIVATIONS, sae=sae, train=train)
            trial = resolve(config, source)
            for name in (*NAMES, *FURTHER.get(kind, ())):
                clock = Clocked(activations)
                trainers.TRAINERS[name](trial, clock)
                taken = [b - a for a, b in zip(clock.cpu, clock.cpu[1:], strict=False)]
                times.setdefault(kind, {}).setdefault(name, []).extend(taken[WARM_UP_STEPS:])
                print(kind, name, f"{1e3 * statistics.median(taken):.2f} ms", flush=True)
    return {
        kind: {name: 1e3 * statistics.median(each) for name, each in by_name.items()}
        for kind, by_name in times.items()
    }


def render(found: dict[str, dict[str, float]]) -> str:
    """Write the table."""
    names = list(dict.fromkeys(name for times in found.values() for name in times))
    header = ["kind", *(f"{name}, ms" for name in names), "against the fastest peer"]
    rows = [header, ["---"] * len(header)]
    for kind, times in found.items():
        ratio = min(times[name] for name in times if name != NAMES[0]) / times[NAMES[0]]
        entries = [f"{times[name]:.1f}" if name in times else "" for name in names]
        rows.append([kind, *entries, f"{ratio:.2f} times"])
    return (
        f"`python -m benchmarks.step_kinds`, {datetime.now(UTC).date().isoformat()}: d 384, "
        f"{N_LATENTS} latents, k {K}, batch {BATCH}; CPU time, one thread, medians; {versions()}; "
        f"{cpu_name()}.\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    )


def main() -> None:
    """Read the command line, measure, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_kinds", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=40, help="of a turn")
    parser.add_argument("--turns", type=int, default=2, help="of each contender")
    parser.add_argument("--kinds", choices=list(SETTINGS), nargs="+", default=list(SETTINGS))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.outputs, arguments.kinds, arguments.steps, arguments.turns)
    readme.replace(arguments.readme, "step-kinds", render(found))


if __name__ == "__main__":
    main()
