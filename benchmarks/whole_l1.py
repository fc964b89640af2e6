"""L1 over a whole training: when each trainer is as good as SAELens at its end, and early steps.

    python -m benchmarks.whole_l1

Ours, SAELens and dictionary_learning train on the same rows in the same batches on one thread, at
the same l1_alpha, learning rate and ramps, each from its library's own start. Every 20 steps FVU
and L0 on all validation rows are read, with the clock stopped. A training is one line of the
results file; the table stands in benchmarks/README.md. 3 minutes on an idle core.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import readme
from benchmarks.quality import ACTIVATIONS, cpu_name, fvu, load_rows
from benchmarks.step import versions
from benchmarks.step_table import markdown
from benchmarks.trainers import TRAINERS, WATCHED, Autoencoder
from sae_sweep.activations import Activations
from sae_sweep.config import L1Config, Source, TrainConfig, Trial, TrialConfig, resolve

HERE = Path(__file__).parent
NAMES = ("sae-sweep", "sae-lens", "dictionary-learning")
PEER = "sae-lens"
EARLY = 100
"""Steps at the beginning and at the end whose speed is compared."""

Point = tuple[int, float, float, float]
"""Steps, seconds of processor time, FVU, L0."""


def make_trial(source: Source, l1_alpha: float, steps: int) -> Trial:
    """Settle the training that every trainer makes."""
    return resolve(
        TrialConfig(
            activations=ACTIVATIONS,
            sae=L1Config(n_latents=1536, l1_alpha=l1_alpha),
            train=TrainConfig(lr=1e-3, steps=steps, batch_size=256, report_every=10**9),
        ),
        source,
    )


def curve(trainer: str, trial: Trial, activations: Activations) -> list[Point]:
    """Train once; what was reached when."""
    x = activations.validation_rows(0, activations.n_validation)
    points: list[Point] = []
    clock = {"trained": 0.0, "since": time.process_time()}

    @torch.no_grad()
    def watch(step: int, autoencoder: Autoencoder) -> None:
        clock["trained"] += time.process_time() - clock["since"]
        x_hat, latents = autoencoder(x)
        l0 = (latents > 0).sum().item() / len(x)
        points.append((step, round(clock["trained"], 3), fvu(x, x_hat), l0))
        clock["since"] = time.process_time()

    watch(trial.steps, TRAINERS[trainer](trial, activations, watch))
    return points


def reached(points: Sequence[Point], target: Point) -> Point | None:
    """The first point that is as good as another in FVU and in L0."""
    return next((one for one in points if one[2] <= target[2] and one[3] <= target[3]), None)


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section: every trainer's course, and when it is as good as the peer."""
    some, rows = lines[0], []
    for alpha in sorted({line["l1_alpha"] for line in lines}):
        alike = [line for line in lines if line["l1_alpha"] == alpha]
        [peer, *_] = [line["points"] for line in alike if line["trainer"] == PEER]
        for line in sorted(alike, key=lambda line: (line["steps"], NAMES.index(line["trainer"]))):
            points = line["points"]
            steps, seconds, last_fvu, last_l0 = points[-1]
            early = next(one for one in points if one[0] >= EARLY)
            late = next(one for one in points if one[0] >= steps - EARLY)
            rows.append(
                [
                    f"{alpha:g}",
                    line["trainer"],
                    f"{steps:,}",
                    f"{1000 * early[1] / early[0]:.1f}",
                    f"{1000 * (seconds - late[1]) / (steps - late[0]):.1f}",
                    f"{seconds:.1f}",
                    f"{last_fvu:.4f}",
                    f"{last_l0:.1f}",
                    _when(reached(points, peer[-1])),
                    _when(reached(peer, points[-1])),
                ]
            )
    header = [
        *("l1_alpha", "trainer", "steps", f"ms per step, first {EARLY}"),
        *(f"ms per step, last {EARLY}", "s, whole training", "FVU", "L0"),
        *(f"as good as {PEER} at its end", f"{PEER} as good as this end"),
    ]
    return "\n\n".join(
        [
            f"`python -m benchmarks.whole_l1`, {some['date']}: steps of 256 rows, d 384, 1,536 "
            "latents, lr 1e-3, one thread, processor time; FVU and L0 on 1,495 unseen rows, "
            f"read every {WATCHED} steps; {some['versions']}; {some['cpu']}, load "
            f"{some['load']:.0f} on {some['cores']} cores.",
            markdown(header, rows),
        ]
    )


def _when(point: Point | None) -> str:
    return f"{point[1]:.1f} s, step {point[0]:,}" if point else "not reached"


def main() -> None:
    """Read the command line, measure, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_l1", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--l1-alpha", type=float, nargs="+", default=[5.0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "whole_l1.jsonl", help="a training each"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, activations = load_rows(ACTIVATIONS, arguments.outputs.absolute())
    results = arguments.results
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    lines = {
        (line["l1_alpha"], line["trainer"], line["steps"]): line for line in map(json.loads, known)
    }
    for alpha in arguments.l1_alpha:
        trial = make_trial(source, alpha, arguments.steps)
        for name in arguments.only:
            TRAINERS[name](make_trial(source, alpha, 20), activations)  # imports
            lines[alpha, name, arguments.steps] = {
                "l1_alpha": alpha,
                "trainer": name,
                "steps": arguments.steps,
                "points": curve(name, trial, activations),
                "load": os.getloadavg()[0],
                "cores": len(os.sched_getaffinity(0)),
                "versions": versions(),
                "cpu": cpu_name(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            last = lines[alpha, name, arguments.steps]["points"][-1]
            print(f"{alpha:g} {name:20} {last}", flush=True)
            text = "".join(json.dumps(line) + "\n" for line in lines.values())
            results.write_text(text, encoding="utf-8")
    readme.replace(arguments.readme, "whole_l1", render(list(lines.values())))


if __name__ == "__main__":
    main()
