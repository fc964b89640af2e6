"""How long the report of a large sweep takes, and how much memory.

    python -m benchmarks.report

Writes made-up sweeps through the driver's own writer: a grid of six hyperparameters of TopK with
seeds, and L1 with five of which two are drawn at random. A fresh process renders each twice, and
the files of both times must be equal in every byte. The table stands in benchmarks/README.md.
"""

import argparse
import hashlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis import contents, data, report, web
from benchmarks import readme
from benchmarks.quality import cpu_name
from benchmarks.step_table import markdown
from sae_sweep.records import Outcome, Place, Row, TrialRecord, digest
from sae_sweep.records.store import Reader, Store

HERE = Path(__file__).parent
REPORTS = 500
LARGEST = 1_000_000
"""Reports of one sweep above which each trial gets fewer: the store would fill the disk."""
SIZES = (2_000, 10_000)
BATCH = 100_000
"""Reports written in one transaction."""
MOST_PARTS = 16
"""That the table names."""

TOPK = {
    "sae.k": (8, 16, 32, 64),
    "sae.expansion_factor": (2, 4, 8),
    "sae.aux_coeff": (0.0, 1 / 32),
    "train.lr": (1e-4, 3e-4, 1e-3, 3e-3),
    "train.batch_size": (256, 1024),
    "train.warmup_steps": (0, 100),
}
DRAWN = {"sae.l1_alpha": (0.3, 30.0), "train.lr": (1e-4, 3e-3)}
"""Of the L1 sweep: drawn evenly on a logarithmic axis, so that every configuration is new."""
CHOSEN = {
    "sae.expansion_factor": (2, 4, 8),
    "train.batch_size": (256, 1024),
    "train.warmup_steps": (0, 100),
}
SEEDS = 2
"""Of each drawn configuration."""
KINDS = ("topk", "l1")
D = 384


class Measured(NamedTuple):
    """One rendering."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    parts: dict[str, float]
    """Wall seconds of every section and kind of figure."""


def main() -> None:
    """Write the sweeps, render each twice, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    parser.add_argument("--reports", type=int, default=REPORTS, help="a trial, at most")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    parser.add_argument("--render", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.render is not None:
        print(json.dumps(rendered(arguments.render)))
        return
    lines = [
        (kind, n, each, *measure(kind, n, each))
        for n in arguments.trials
        for each in [min(arguments.reports, LARGEST // n)]
        for kind in KINDS
    ]
    readme.replace(arguments.readme, "report", render(lines))


def measure(kind: str, trials: int, reports: int) -> tuple[Measured, bool]:
    """Write a sweep and render it twice."""
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary), kind, trials, reports)
        found, are_equal = twice(Path(temporary))
    print(kind, trials, reports, are_equal, found, flush=True)
    return found, are_equal


def twice(folder: Path) -> tuple[Measured, bool]:
    """Render a store in two processes: the second one's figures, and whether all bytes agree."""
    prints = []
    for _ in range(2):
        command = [sys.executable, "-m", "benchmarks.report", "--render", str(folder)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        prints.append(fingerprint(folder / "report"))
    return Measured(*json.loads(output)), prints[0] == prints[1]


def write(folder: Path, kind: str, n: int, reports: int) -> None:
    """Write a sweep of n trials into a store."""
    random = np.random.default_rng(0)
    members = list(itertools.islice(sweep(kind), n))
    with Store(_url(folder)) as store:
        number = store.start_run(
            f"{kind}_{n}",
            question="How fast is the report?",
            config={"store": {"weights": "none"}},
            command="python -m benchmarks.report",
            git=None,
            versions={},
        )
        store.enlist(number, members)
        store.claim(number, [record.uid for record, _ in members])
        waiting: list[Row] = []
        ended: list[Outcome] = []
        for record, assignment in members:
            store.running(number, record.uid, Place("here", "cpu", 1, None, {}))
            ended.append(outcome_of(record, assignment, random))
            waiting += course(record.uid, ended[-1], reports, random)
            if len(waiting) >= BATCH:
                _record(store, number, waiting, ended)
                waiting, ended = [], []
        _record(store, number, waiting, ended)
        store.finish_run(number)


def _record(store: Store, run: int, rows: list[Row], outcomes: list[Outcome]) -> None:
    store.rows(run, rows)
    for outcome in outcomes:
        store.outcome(run, outcome)


def sweep(kind: str) -> Iterator[tuple[TrialRecord, dict[str, Any]]]:
    """Trials without end."""
    for given, seed in grid() if kind == "topk" else drawn():
        assignment = {**given, "train.seed_init": seed, "train.seed_data": seed}
        config: dict[str, Any] = {
            "activations": {"fingerprint": "0123456789ab", "d": D, "validation_tokens": 4096},
            "sae": {"kind": kind, "n_latents": D * given["sae.expansion_factor"]},
            "train": {"steps": 10_000},
        }
        for key, value in assignment.items():
            section, name = key.split(".")
            if name != "expansion_factor":
                config[section][name] = value
        label = "_".join(f"{key.split('.')[1]}{value:g}" for key, value in assignment.items())
        yield TrialRecord(digest(config), label, "queued", config), assignment


def grid() -> Iterator[tuple[dict[str, float], int]]:
    """Every combination of TopK's levels, then again with the next seed."""
    for seed in itertools.count():
        for values in itertools.product(*TOPK.values()):
            yield dict(zip(TOPK, values, strict=True)), seed


def drawn() -> Iterator[tuple[dict[str, float], int]]:
    """Configurations of L1 at random, each with its seeds."""
    random = np.random.default_rng(1)
    while True:
        given = {name: float(10 ** random.uniform(*np.log10(ends))) for name, ends in DRAWN.items()}
        given |= {name: int(random.choice(values)) for name, values in CHOSEN.items()}
        yield from ((given, seed) for seed in range(SEEDS))


def outcome_of(record: TrialRecord, given: dict[str, Any], random: np.random.Generator) -> Outcome:
    """Powers of the hyperparameters with noise; some trials diverge, most of them at high lr."""
    if random.random() < (0.06 if given["train.lr"] > 1e-3 else 0.005):
        return Outcome(record.uid, "diverged", 300, {}, "loss is nan at step 300", 2.0)
    m = record.config["sae"]["n_latents"]
    noise = 10 ** random.normal(0, 0.01, 3)
    l0 = given.get("sae.k") or 90 * given["sae.l1_alpha"] ** -0.9 * noise[0]
    away = abs(np.log10(given["train.lr"] / 5e-4))
    fvu = 0.9 * l0**-0.4 * (768 / m) ** 0.2 * (1 + 0.1 * away) * noise[1]
    dead = min(0.05 * m / 768 * (1 - 10 * given.get("sae.aux_coeff", 0)) * noise[2], 1.0)
    final = {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "l0": float(l0),
        "l0_fraction": l0 / m,
        "dead_features": dead,
        "always_on": 0.0,
        "loss": 10 * fvu,
    }
    return Outcome(record.uid, "done", 10_000, final, None, 30.0)


def course(uid: str, outcome: Outcome, reports: int, random: np.random.Generator) -> Iterator[Row]:
    """Reports that fall towards the final metrics, and are nan from where a trial diverged."""
    done = np.arange(1, reports + 1) / reports
    final = outcome.final or {"fvu": 0.3, "l0": 32.0, "dead_features": 0.1, "loss": 3.0}
    shape = (1 + 0.5 * np.exp(-5 * done)) * (1 + 0.002 * random.normal(size=reports))
    if outcome.status == "diverged":
        shape[reports // 2 :] = np.nan
    for at, factor in zip(done, shape, strict=True):
        values = {name: final[name] * factor for name in ("fvu", "loss")}
        values |= {name: final[name] for name in ("l0", "dead_features")}
        yield Row(uid, round(at * 10_000), values)


def rendered(folder: Path) -> Measured:
    """Render the store of a folder, timing each of the report's parts."""
    parts: dict[str, float] = {}
    contents.TOPICS = tuple(
        topic._replace(
            section=_timed(topic.section, topic.section.__name__, parts),
            draw=topic.draw and _timed(topic.draw, f"figures: {topic.section.__name__}", parts),
        )
        for topic in contents.TOPICS
    )
    web.page = _timed(web.page, "report.html", parts)
    data.write = _timed(data.write, "data", parts)
    began, cpu = time.perf_counter(), time.process_time()
    with Reader(_url(folder)) as reader:
        read = time.perf_counter()
        found = reader.sweep()
        parts["records"] = time.perf_counter() - read
        history = _timed(reader.history, "of which reading curves", parts)
        report.render(found, folder / "report", history, html=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(time.perf_counter() - began, time.process_time() - cpu, peak, parts)


def _timed(call: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: object, **named: object) -> Any:
        began = time.perf_counter()
        found = call(*arguments, **named)
        parts[name] = parts.get(name, 0.0) + time.perf_counter() - began
        return found

    return timed


def fingerprint(folder: Path) -> dict[str, str]:
    """A digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'sae_sweep.db'}"


def render(lines: Sequence[tuple[str, int, int, Measured, bool]]) -> str:
    """Write the section."""
    header = ["sweep", "trials", "reports per trial", "wall s", "CPU s", "peak MB", "second equal"]
    table = [
        [
            kind,
            f"{n:,}",
            f"{each:,}",
            f"{one.wall_s:.1f}",
            f"{one.cpu_s:.1f}",
            f"{one.peak_mb:,.0f}",
            "every byte" if equal else "no",
        ]
        for kind, n, each, one, equal in lines
    ]
    longest: Counter[str] = Counter()
    for *_, one, _ in lines:
        longest |= Counter(one.parts)
    parts = [
        [name, *(f"{one.parts.get(name, 0):.2f}" for *_, one, _ in lines)]
        for name, _ in longest.most_common(MOST_PARTS)
    ]
    return "\n\n".join(
        [
            f"`python -m benchmarks.report`, {datetime.now(UTC).date().isoformat()}: report.md, "
            f"report.html, figures and data, {os.cpu_count()} cores; {cpu_name()}. Other work on "
            "the machine lengthens wall time.",
            markdown(header, table),
            "Wall seconds of each part. What several need is counted where it is first asked for.",
            markdown(["part", *(f"{kind}, {n:,}" for kind, n, *_ in lines)], parts),
        ]
    )


if __name__ == "__main__":
    main()
