"""A whole sweep on a CPU: our command against the peers' bare loops and a Tune trial a cell.

    python -m benchmarks.sweep

Every way trains the 12 cells of `topk_12` on the same extracted activations. Ours is the command
`python -m sae_sweep +sweep=topk_12` from start to finished report: imports, Ray, training, 20
reports per trial, evaluation, database, figures. A peer's is its training loop alone, cell after
cell in one process, imports and evaluation not counted. CPU time is that of all processes that a
way starts. Each way is one line of the results file; the table stands in benchmarks/README.md.
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
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import readme
from benchmarks.quality import ACTIVATIONS, CELLS, cpu_name, load_rows, make_trial
from benchmarks.step import versions
from benchmarks.step_table import markdown
from benchmarks.trainers import TRAINERS

HERE = Path(__file__).parent
MARK = "SAE_SWEEP_BENCHMARK"
POLL_SECONDS = 0.2
BESIDE_SECONDS = 8.0
"""Target for what our command takes beside its loop alone: Ray, evaluation, report."""
OURS = {
    "sae-sweep": (),
    "sae-sweep, executor.cohort=6": ("executor.cohort=6",),
    "sae-sweep, executor=inline": ("executor=inline",),
    "sae-sweep, train.precision=bf16_select": ("train.precision=bf16_select",),
}
"""Our command, and what is added to it."""
TUNE = "a Tune trial a cell, reference form"
NOTHING = "two Tune trials that import torch and end"
LOOPS = tuple(f"{name}, loop alone" for name in TRAINERS)


class Time(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def watch(command: Sequence[str], folder: Path) -> Time:
    """Run a command to its end; CPU time over all its descendants, those that Ray detaches too."""
    mark = f"{time.time_ns()}"
    environment = {**os.environ, MARK: mark}
    began = time.perf_counter()
    log = folder / "log"
    used: dict[str, float] = {}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            used |= _cpu_seconds(f"{MARK}={mark}".encode())
            time.sleep(POLL_SECONDS)
    wall = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {log.read_text()[-2000:]}")
    return Time(wall, sum(used.values()))


def _cpu_seconds(mark: bytes) -> dict[str, float]:
    """CPU time so far of every process with the mark in its environment, by its id."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                found[folder.name] = (int(after_name[11]) + int(after_name[12])) / ticks
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
    return found


def our_command(outputs: Path, added: Sequence[str]) -> Time:
    """Time the command in a folder that holds nothing but the activations."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(outputs / "activations", folder / "activations")
        command = [sys.executable, "-m", "sae_sweep", "+sweep=topk_12", f"outputs={folder}"]
        taken = watch([*command, *added], folder)
        if not (folder / "topk_12" / "report.md").exists():
            raise RuntimeError((folder / "log").read_text()[-2000:])
        return taken


def tune_each(outputs: Path, added: Sequence[str] = ()) -> Time:
    """Time a Tune trial a cell."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.tune_each", "--outputs", str(outputs)]
        return watch([*command, *added], Path(name))


def loop(trainer: str, outputs: Path) -> Time:
    """Time a trainer's own loop over the cells, on all cores; imports are not timed."""
    source, activations = load_rows(ACTIVATIONS, outputs)
    trials = [make_trial(source, cell, lr=1e-3, seed=0) for cell in CELLS]
    warm = dataclasses.replace(trials[0], train=trials[0].train.model_copy(update={"steps": 9}))
    TRAINERS[trainer](warm, activations)  # imports
    wall, cpu = time.perf_counter(), time.process_time()
    for trial in trials:
        TRAINERS[trainer](trial, activations)
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def ways(outputs: Path) -> dict[str, Callable[[], Time]]:
    """Everything that is timed, by its name in the table."""
    found: dict[str, Callable[[], Time]] = {
        name: lambda added=added: our_command(outputs, added) for name, added in OURS.items()
    }
    found[TUNE] = lambda: tune_each(outputs)
    found[NOTHING] = lambda: tune_each(outputs, ["--nothing"])
    for name, trainer in zip(LOOPS, TRAINERS, strict=True):
        found[name] = lambda trainer=trainer: loop(trainer, outputs)
    return found


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section: the ways, and ours beside its targets."""
    found = {line["way"]: line for line in lines}
    ours = found["sae-sweep"]
    rows = [
        [
            name,
            f"{line['wall']:.1f}",
            f"{line['cpu']:.1f}",
            f"{line['wall'] / ours['wall']:.2f}",
            f"{line['cpu'] / ours['cpu']:.2f}",
        ]
        for name, line in found.items()
    ]
    peers = {name: found[name] for name in LOOPS[1:] if name in found}
    fastest = min(peers, key=lambda name: peers[name]["wall"])
    shares = [
        _verdict(f"the fastest peer ({fastest})", ours, peers[fastest], 1 / 2),
        *([_verdict(TUNE, ours, found[TUNE], 1 / 5)] if TUNE in found else []),
        *([_beside_training(ours, found)] if {LOOPS[0], NOTHING} <= set(found) else []),
    ]
    return "\n\n".join(
        [
            f"`python -m benchmarks.sweep`, {ours['date']}: the 12 cells of `topk_12`, seconds on "
            f"{ours['cores']} cores, activations extracted before; {ours['versions']}; "
            f"{ours['cpu_name']}. CPU time is of all processes, wall time is lengthened by other "
            "work on the machine.",
            markdown(["way", "wall", "CPU", "wall to ours", "CPU to ours"], rows),
            "\n".join(f"- {share}" for share in shares),
        ]
    )


def _verdict(of: str, ours: dict[str, Any], other: dict[str, Any], target: float) -> str:
    share = ours["wall"] / other["wall"]
    verdict = "met" if share < target else "missed"
    return f"Ours takes {share:.2f} of the wall time of {of}; target below {target:.2f}: {verdict}."


def _beside_training(ours: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    beside, nothing = ours["wall"] - found[LOOPS[0]]["wall"], found[NOTHING]["wall"]
    verdict = "met" if beside <= BESIDE_SECONDS else "missed"
    return (
        f"Beside its loop alone ours takes {beside:.1f} s ({NOTHING}: {nothing:.1f} s); target "
        f"{BESIDE_SECONDS:.0f} s: {verdict}."
    )


def main() -> None:
    """Read the command line, measure, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="for activations")
    parser.add_argument("--only", nargs="+", help="ways to measure again, by the start of a name")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "sweep.jsonl", help="a line a way"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    outputs = arguments.outputs.absolute()
    load_rows(ACTIVATIONS, outputs)
    results = arguments.results
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    lines = {line["way"]: line for line in map(json.loads, known)}
    for name, way in ways(outputs).items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        taken = way()
        lines[name] = {
            "way": name,
            "wall": round(taken.wall, 2),
            "cpu": round(taken.cpu, 2),
            "cores": len(os.sched_getaffinity(0)),
            "versions": versions(),
            "cpu_name": cpu_name(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        print(f"{name:45} {taken.wall:8.1f} s wall {taken.cpu:8.1f} s CPU", flush=True)
        text = "".join(json.dumps(line) + "\n" for line in lines.values())
        results.write_text(text, encoding="utf-8")
    order = [name for name in ways(outputs) if name in lines]
    readme.replace(arguments.readme, "sweep", render([lines[name] for name in order]))


if __name__ == "__main__":
    main()
