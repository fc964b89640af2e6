"""A sweep that is struck while it runs, and what it has come to in the end.

    python -m benchmarks.faults --kills 20

The sweep of `benchmarks/fault_sweep.py` (4 small trials on synthetic activations) runs undisturbed
once with each executor, and once over a causal model whose cache holds a tenth of the rows, then
once for each fault: something is killed, stopped or used up, and the same command is run again
until it ends well. A row passes where no trial is lost or was done twice, draws, final metrics and
weights are those of the undisturbed sweep bit for bit, statuses and reasons are right, and neither
files nor processes are left over. Each strike is one line of the results file; the table stands in
benchmarks/README.md.
"""

import argparse
import atexit
import functools
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import fault_cases as cases
from benchmarks import fault_distrust as distrust
from benchmarks import fault_source as sources
from benchmarks import fault_sweep as sweeps
from benchmarks import fault_takeovers as takeovers
from benchmarks import readme

HERE = Path(__file__).parent
SOURCE_KILLS = 20
"""Kills of a driver that extracts, trains and evicts."""
RAY_SHARE = 6
"""Every so many kills of a driver one is of a driver that trains with Ray."""


NOTHING = sweeps.Course([], {}, {}, Counter(), [], [])


class Whole(NamedTuple):
    """An undisturbed sweep."""

    course: sweeps.Course
    seconds: float
    """Its wall time."""
    reports: int
    """What its trials reported in all."""


class Case(NamedTuple):
    """One strike."""

    fault: str
    executor: str
    strike: Callable[[Path, ExitStack, Whole], "Ending"]
    """Gets an empty folder, where to leave what is to be undone, and the undisturbed sweep."""
    source: Callable[[], tuple[str, ...]] = lambda: sweeps.SYNTHETIC
    """Settings of the activations."""


class Ending(NamedTuple):
    """What came of a strike."""

    struck: sweeps.Struck
    course: sweeps.Course
    ends: dict[str, str]
    """Status by uid of trials that may not end `done`."""


def plain(
    executor: str, strike: Callable[[sweeps.Sweep], sweeps.Struck]
) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A strike that needs nothing but the sweep."""

    def run(folder: Path, undo: ExitStack, _whole: Whole) -> Ending:
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", executor))
        return Ending(strike(sweep), sweep.course(), {})

    return run


def driver(executor: str, share: float, number: int) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A signal after a share of the undisturbed wall time."""

    def run(folder: Path, undo: ExitStack, whole: Whole) -> Ending:
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", executor))
        struck = cases.driver_killed(sweep, share * whole.seconds, number)
        return Ending(struck, sweep.course(), {})

    return run


def over_a_source(share: float) -> Callable[[Path, ExitStack, Whole], Ending]:
    """Kill the driver while it extracts, trains and evicts: the cache holds a tenth of the rows."""

    def run(folder: Path, undo: ExitStack, whole: Whole) -> Ending:
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", "inline", source=bounded()))
        return Ending(cases.driver_killed(sweep, share * whole.seconds), sweep.course(), {})

    return run


def driver_at_work(
    executor: str, share: float, number: int
) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A signal after a share of the work."""

    def run(folder: Path, undo: ExitStack, whole: Whole) -> Ending:
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", executor))
        struck = cases.driver_killed_at_work(sweep, share, whole.reports, number)
        return Ending(struck, sweep.course(), {})

    return run


def node(folder: Path, undo: ExitStack, _whole: Whole) -> Ending:
    """Lose one of two nodes."""
    cluster = undo.enter_context(cases.two_nodes())
    address = f"executor.address={cluster.address}"
    sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", "ray", address))
    return Ending(cases.node_killed(sweep, cluster), sweep.course(), {})


def database(
    executor: str, strike: Callable[[sweeps.Sweep, cases.Postgres], sweeps.Struck]
) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A strike at the database."""

    def run(folder: Path, undo: ExitStack, _whole: Whole) -> Ending:
        server = cases.Postgres()
        undo.callback(server.close)
        url = f"store.url={server.url}"
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", executor, url))
        return Ending(strike(sweep, server), sweep.course(), {})

    return run


def disk(executor: str, *, store_elsewhere: bool) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A full disk, with the store on it or not."""

    def run(folder: Path, undo: ExitStack, _whole: Whole) -> Ending:
        small = undo.enter_context(cases.small_disk(folder / "disk"))
        url = [f"store.url=sqlite:///{folder / 'store.db'}"] if store_elsewhere else []
        sweep = undo.enter_context(sweeps.Sweep(small / "outputs", executor, *url))
        return Ending(cases.disk_filled(sweep, small), sweep.course(), {})

    return run


def leak(executor: str) -> Callable[[Path, ExitStack, Whole], Ending]:
    """A trial that leaks: the third."""

    def run(folder: Path, undo: ExitStack, whole: Whole) -> Ending:
        uid = list(whole.course.statuses)[2]
        leaks = cases.leak_environment(uid)
        sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", executor, **leaks))
        return Ending(cases.leaking(sweep), sweep.course(), {uid: "oom"})

    return run


def rivals(
    executor: str, strike: Callable[[sweeps.Sweep, sweeps.Sweep], sweeps.Struck], **hosts: Any
) -> Callable[[Path, ExitStack, Whole], Ending]:
    """Two drivers that share a PostgreSQL store and a folder of outputs.

    `hosts` are the second one's host (`takeovers.host`), and `within`, a command around it.
    """

    def run(folder: Path, undo: ExitStack, _whole: Whole) -> Ending:
        server = cases.Postgres()
        undo.callback(server.close)
        url = f"store.url={server.url}"
        stale = hosts.get("stale", takeovers.STALE_SECONDS)
        first = takeovers.host(hosts.get("first", "host-a"), stale=stale)
        second = takeovers.host(hosts.get("second", "host-b"), hosts.get("skew", 0.0), stale)
        outputs = folder / "outputs"
        one = undo.enter_context(sweeps.Sweep(outputs, executor, url, **first))
        other = undo.enter_context(sweeps.Sweep(outputs, executor, url, **second))
        other.within = hosts.get("within", ())
        return Ending(strike(one, other), one.course(), {})

    return run


def version(folder: Path, undo: ExitStack, whole: Whole) -> Ending:
    """Checkpoints of another version."""
    sweep = undo.enter_context(sweeps.Sweep(folder / "outputs", "inline"))
    struck = distrust.checkpoint_of_another_version(sweep, whole.reports)
    return Ending(struck, sweep.course(), {})


def takeover_cases() -> Iterator[Case]:
    """Two drivers on one sweep."""
    asleep = partial(takeovers.frozen, until_done=None)
    early = partial(takeovers.frozen, until_done=3)
    for executor in ("inline", "ray"):
        yield Case("driver frozen, taken over", executor, rivals(executor, asleep))
    yield Case("driver frozen, wakes early", "inline", rivals("inline", early))
    patient = takeovers.PATIENT_SECONDS
    for skew in (-7200.0, 7200.0):
        strike = partial(takeovers.not_dead, what=f"the other's clock {skew:+.0f} s")
        yield Case(
            f"clocks differ by {skew:+.0f} s",
            "inline",
            rivals("inline", strike, skew=skew, stale=patient),
        )
    if takeovers.namespaces_allowed():
        here = {"first": socket.gethostname(), "second": socket.gethostname(), "stale": patient}
        strike = partial(takeovers.not_dead, what="the other in a PID namespace")
        within = takeovers.IN_A_NAMESPACE
        yield Case(
            "another PID namespace", "inline", rivals("inline", strike, within=within, **here)
        )


def distrust_cases() -> Iterator[Case]:
    """What is read from the disk or the store, or found among the processes, is not ours."""
    yield Case("marks of others", "inline", plain("inline", distrust.marked_by_others))
    yield Case(
        "lock held", "inline", database("inline", lambda sweep, _: distrust.lock_held(sweep))
    )
    yield Case("checkpoint of another version", "inline", version)
    cache = partial(distrust.damaged, what="cache/checksums.json")
    yield Case("cache damaged", "inline", plain("inline", cache))
    yield Case("store's pages damaged", "inline", plain("inline", distrust.pages_damaged))
    yield Case("rows of curves lost", "inline", plain("inline", distrust.rows_lost))
    for harm in ("gone", "damaged", "a bit flipped"):
        yield Case(
            f"weights {harm}", "inline", plain("inline", partial(distrust.weights, harm=harm))
        )
    yield Case("a folder as checkpoint", "inline", plain("inline", distrust.folder_as_checkpoint))
    yield Case("forget killed", "inline", plain("inline", distrust.forget_killed))
    yield Case("records lead elsewhere", "inline", plain("inline", distrust.led_astray))
    yield Case("control characters", "inline", plain("inline", distrust.control_characters))
    yield Case("lock held by a frozen process", "inline", plain("inline", distrust.file_locked))
    for executor in ("inline", "ray") if os.geteuid() == 0 else ():  # who may change the user
        yield Case("processes limited", executor, plain(executor, distrust.processes_limited))


def all_cases(kills: int) -> Iterator[Case]:
    """Every strike, in the order of the table; the moments are the same every time.

    Half of the kills fall on any moment, start-up and report included, half on the second half of
    the training.
    """
    moments, any_moment = random.Random(0), random.Random(1)
    for number in range(kills):
        executor = "ray" if number % RAY_SHARE == RAY_SHARE - 1 else "inline"
        if number < kills // 2:
            strike = driver(executor, moments.random(), signal.SIGKILL)
        else:
            strike = driver_at_work(executor, moments.uniform(0.5, 1), signal.SIGKILL)
        yield Case(f"driver killed {number + 1}", executor, strike)
    for number in range(SOURCE_KILLS):
        fault = f"driver killed, cache of a tenth {number + 1}"
        yield Case(fault, "inline", over_a_source(any_moment.random()), bounded)
    for executor in ("inline", "ray"):
        strike = driver_at_work(executor, moments.uniform(0.5, 0.9), signal.SIGTERM)
        yield Case("driver told to end (SIGTERM)", executor, strike)
    yield Case("Ray worker killed", "ray", plain("ray", cases.worker_killed))
    yield Case("node lost", "ray", node)
    for executor in ("inline", "ray"):
        restarted = database(executor, cases.database_restarted)
        yield Case("PostgreSQL restarted", executor, restarted)
    yield Case("PostgreSQL gone", "inline", database("inline", cases.database_gone))
    yield Case("disk full", "inline", disk("inline", store_elsewhere=False))
    for executor in ("inline", "ray"):
        strike = disk(executor, store_elsewhere=True)
        yield Case("disk full, store elsewhere", executor, strike)
    yield Case("file size limited", "inline", plain("inline", cases.files_limited))
    for executor in ("inline", "ray"):
        yield Case("a trial leaks", executor, leak(executor))
    yield from takeover_cases()
    yield from distrust_cases()


def measure(case: Case) -> dict[str, Any]:
    """Strike once; returns the line of the results file."""
    began = time.monotonic()
    try:
        whole = undisturbed(case.executor, case.source())
        with tempfile.TemporaryDirectory(prefix="sae-sweep-fault-") as name, ExitStack() as undo:
            struck, course, ends = case.strike(Path(name), undo, whole)
        wrong = sweeps.problems(struck, course, whole.course, ends)
    except Exception as error:  # noqa: BLE001  (whatever it is, this strike has not passed)
        said = f"{type(error).__name__}: {error}"
        struck = sweeps.Struck("", said, 1, 0, 1, [])
        whole = Whole(NOTHING, 0.0, 0)
        course, ends, wrong = NOTHING, {}, [said.strip().splitlines()[-1][:200]]
    last = struck.said.strip().splitlines()[-1:] if struck.code not in (0, 130) else []
    return {
        "fault": case.fault,
        "executor": case.executor,
        "struck": struck.what,
        "code": struck.code,
        "said": "".join(last),
        "reruns": struck.reruns,
        "lost": len(sweeps.lost(course, whole.course)),
        "doubled": len(sweeps.doubled(course)),
        "equal": {**course.results, **dict.fromkeys(ends)}
        == {uid: None if uid in ends else one for uid, one in whole.course.results.items()},
        "problems": wrong,
        "seconds": round(time.monotonic() - began),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).date().isoformat(),
    }


@functools.cache
def bounded() -> tuple[str, ...]:
    """Make the model and the text of the sweep whose cache is bounded."""
    folder = tempfile.mkdtemp(prefix="sae-sweep-fault-model-")
    atexit.register(shutil.rmtree, folder)
    return sources.causal_model(Path(folder))


@functools.cache
def undisturbed(executor: str, source: tuple[str, ...]) -> Whole:
    """Run the sweep as it is meant to run."""
    with tempfile.TemporaryDirectory(prefix="sae-sweep-fault-") as name, ExitStack() as undo:
        sweep = undo.enter_context(sweeps.Sweep(Path(name) / "outputs", executor, source=source))
        seconds = cases.undisturbed(sweep)
        return Whole(sweep.course(), seconds, sweep.reports())


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section."""
    from benchmarks.step_table import markdown

    rows = [
        [
            line["fault"],
            line["executor"],
            line["struck"],
            str(line["code"]),
            str(line["reruns"]),
            str(line["lost"]),
            str(line["doubled"]),
            "yes" if line["equal"] else "no",
            "passed" if not line["problems"] else "; ".join(line["problems"]),
            line["date"],
        ]
        for line in lines
    ]
    passed = sum(not line["problems"] for line in lines)
    head = ["fault", "executor", "struck", "exit code", "reruns", "lost", "doubled", "equal bits"]
    return "\n\n".join(
        [
            f"`python -m benchmarks.faults`, {max(line['date'] for line in lines)}: {passed} of "
            f"{len(lines)} strikes passed, on {lines[-1]['cores']} cores.",
            markdown([*head, "verdict", "date"], rows),
        ]
    )


def main() -> int:
    """Read the command line, strike, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=20, help="random moments to kill the driver")
    parser.add_argument("--only", nargs="+", help="faults to strike again, by the start of a name")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "faults.jsonl", help="a line a strike"
    )
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    arguments = parser.parse_args()
    results = arguments.results
    known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    lines = {(line["fault"], line["executor"]): line for line in map(json.loads, known)}
    every = list(all_cases(arguments.kills))
    chosen = tuple(arguments.only or [""])
    wanted = [one for one in every if f"{one.fault}, {one.executor}".startswith(chosen)]
    for case in wanted:
        line = measure(case)
        lines[line["fault"], line["executor"]] = line
        verdict = "; ".join(line["problems"]) or "passed"
        print(f"{line['fault']:32} {line['executor']:7} {line['struck']:50} {verdict}")
        sys.stdout.flush()
        ordered = [lines[key] for one in every if (key := (one.fault, one.executor)) in lines]
        text = "".join(json.dumps(each) + "\n" for each in ordered)
        results.write_text(text, encoding="utf-8")
    readme.replace(arguments.readme, "faults", render(ordered))
    return int(any(line["problems"] for line in ordered))


if __name__ == "__main__":
    sys.exit(main())
