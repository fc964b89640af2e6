"""What stop policies save and what they cost: one sweep of 60 trials, run anew under each policy.

    python -m benchmarks.stopping

5 l1_alpha x 4 learning rates x 3 widths on layer 3 of all-MiniLM-L6-v2, 128 steps per trial. All
trials train side by side in one process, so that verdicts do not hang on how fast a core is. Each
run is one line of the results file; the table stands in benchmarks/README.md.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study.table import load
from analysis.topics.stopping.replay import good, replayed
from benchmarks import readme
from benchmarks.quality import cpu_name
from benchmarks.step_table import markdown
from sae_sweep.records.store import Reader, default_url
from sae_sweep.rules.dominance import pareto

HERE = Path(__file__).parent
SWEEP = (
    "sae=l1",
    "sweep.name=stopping",
    "activations.train_tokens=32768",
    "activations.validation_tokens=8192",
    "sae.expansion_factor=[0.5,1,2]",
    "sae.l1_alpha=[0.5,1,2,4,8]",
    "train.lr=[3e-4,1e-3,3e-3,1e-2]",
    "executor=inline",
    "executor.cohort=60",
    "store.weights=none",
)
UNDISTURBED = "none"
POLICIES = {
    UNDISTURBED: (),
    "stop=early_warnings": ("stop=early_warnings",),
    "plateau of l0 over 32 steps": (
        "stop.plateau={metric: l0, after_share: 0.5, window_steps: 32, sd_below: 0.5}",
    ),
    "stop=halving": ("stop=halving",),
    "halving by l1_alpha": ("stop.halving={first_share: 0.1, group_by: [sae.l1_alpha]}",),
}
"""What is added to the command, by the policy's name in the table."""
BOUNDS = {"fvu": (0.01, 1.0), "l0": (0.1, 1000.0)}
"""Between which hypervolume is measured, on logarithmic scales; reference: the upper ends."""


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Share of the bounded plane, on logarithmic scales, that is dominated by (fvu, l0) points."""
    bounds = np.log(np.array(list(BOUNDS.values())))
    scaled = (np.log(np.array(points)) - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
    volume, ceiling = 0.0, 1.0
    for x, y in sorted(np.clip(scaled, 0.0, 1.0).tolist()):
        volume += (1.0 - x) * max(0.0, ceiling - y)
        ceiling = min(ceiling, y)
    return volume


def run(outputs: Path, added: Sequence[str]) -> dict[str, Any]:
    """Run the sweep under a policy in a folder that holds nothing but the activations."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if (outputs / "activations").exists():
            shutil.copytree(outputs / "activations", folder / "activations")
        command = [sys.executable, "-m", "sae_sweep", *SWEEP, *added, f"outputs={folder}"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        return {"seconds": round(seconds, 1), **measure(default_url(folder), added)}


def measure(url: str, added: Sequence[str]) -> dict[str, Any]:
    """What became of the trials, and without a policy what each shipped rule would have done."""
    with Reader(url) as reader:
        sweep = reader.sweep("stopping")
        uids = [member.trial.uid for member in sweep.members]
        trained = {uid: int(steps[-1]) for uid, (steps, _) in reader.history(uids, "fvu").items()}
        study = load(sweep)
        ranked = study.ranked[["fvu", "l0"]]
        front = ranked[pareto(ranked.to_numpy(), ["down", "down"])]
        found: dict[str, Any] = {
            "trials": len(uids),
            "steps": sum(trained.values()),
            "stopped": sorted(study.trials.index[study.where("stopped")]),
            "front": {str(uid): [fvu, l0] for uid, fvu, l0 in front.itertuples()},
            "hypervolume": hypervolume(list(front.itertuples(index=False, name=None))),
        }
        if not added:
            whole = dataclasses.replace(study, history=reader.history)
            found["replayed"] = {
                one.rule.name: sorted([*one.good_ended, *one.others_ended])
                for one in replayed(whole, good(whole))
            }
    return found


def render(lines: Mapping[str, dict[str, Any]]) -> str:
    """Write the section: a row a policy beside the undisturbed sweep."""
    whole = lines[UNDISTURBED]
    lowest = min(whole["front"], key=lambda uid: whole["front"][uid][0])
    rows = []
    for name, line in lines.items():
        kept = len(set(whole["front"]) - set(line["stopped"]))
        expected = whole["replayed"].get(name)
        rows.append(
            [
                name,
                f"{len(line['stopped'])}",
                f"{100 * (1 - line['steps'] / whole['steps']):.1f} %",
                f"{kept} of {len(whole['front'])}",
                "no" if lowest in line["stopped"] else "yes",
                f"{line['hypervolume']:.4f}",
                f"{100 * (line['hypervolume'] / whole['hypervolume'] - 1):+.2f} %",
                "" if expected is None else _agreement(expected, line["stopped"]),
            ]
        )
    header = ["policy", "trials ended", "tokens saved", "front kept", "lowest fvu kept"]
    header += ["hypervolume", "beside undisturbed", "the same by replay"]
    bounds = " and ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in BOUNDS.items())
    return "\n\n".join(
        [
            f"`python -m benchmarks.stopping`, {whole['date']}: {whole['trials']} trials, every "
            f"row a sweep that was really run; {whole['versions']}; {whole['cpu_name']}.",
            markdown(header, rows),
            f"Front: the {len(whole['front'])} undominated trials (fvu down, l0 down) of the "
            "undisturbed sweep; kept are those that a policy lets go on to their end. Hypervolume "
            f"is of the finished trials, as a share of the plane of {bounds}, both on logarithmic "
            "scales. The last column compares the trials that ended with those that the report's "
            "replay of the undisturbed curves names.",
        ]
    )


def _agreement(expected: Sequence[str], stopped: Sequence[str]) -> str:
    if set(expected) == set(stopped):
        return "yes"
    return f"no: {len(set(expected) ^ set(stopped))} differ"


def main() -> None:
    """Read the command line, run what is asked for, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stopping", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--only", nargs="+", choices=list(POLICIES), help="policies to run again")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "stopping.jsonl", help="a line a policy"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    results = arguments.results
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    lines = {line["policy"]: line for line in map(json.loads, known)}
    for name in arguments.only or POLICIES:
        about = {
            "versions": ", ".join(
                f"{one} {metadata.version(one)}" for one in ("sae-sweep", "torch")
            ),
            "cpu_name": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "date": datetime.now(UTC).date().isoformat(),
        }
        lines[name] = {"policy": name, **run(arguments.outputs, POLICIES[name]), **about}
        text = "".join(json.dumps(line) + "\n" for line in lines.values())
        results.write_text(text, encoding="utf-8")
    readme.replace(
        arguments.readme, "stopping", render({n: lines[n] for n in POLICIES if n in lines})
    )


if __name__ == "__main__":
    main()
