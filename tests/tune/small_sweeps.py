"""Small real sweeps for tests: run in a process of their own, as a user runs them."""

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from analysis import contents
from sae_sweep import process
from sae_sweep.cli.main import main

FORKS = multiprocessing.get_context("forkserver")
"""Its server loads once what each sweep would load anew, 5 s each: it trains nothing."""
FORKS.set_forkserver_preload(["sae_sweep.cli.compose", "sae_sweep.cli.run", "analysis.report"])

TINY = [
    "activations=synthetic",
    "activations.train_tokens=20480",
    "activations.validation_tokens=2048",
    "sae.n_latents=64",
    "sae.k=[4,8]",
    "train.lr=[1e-3,3e-3]",
    "train.epochs=2",
    "sweep.name=tiny",
]


def command(outputs: Path, executor: str, *overrides: str) -> list[str]:
    words = [f"executor={executor}", f"outputs={outputs}", *overrides]
    given = {word.partition("=")[0] for word in words}
    base = [word for word in TINY if word.partition("=")[0] not in given]
    return [sys.executable, "-m", "sae_sweep", *base, *words]


def run(outputs: Path, executor: str, *overrides: str, code: int = 0) -> str:
    """Run a sweep to its end; returns what it printed."""
    found, text = forked(command(outputs, executor, *overrides)[3:])
    assert found == code, text
    assert "Traceback" not in text, text
    return text


def forked(arguments: list[str]) -> tuple[int | None, str]:
    """Run `python -m sae_sweep` in a fork of a process that has loaded it; exit code and output."""
    with tempfile.NamedTemporaryFile("r") as output:
        given = (arguments, output.name, dict(os.environ), str(Path.cwd()))
        child = FORKS.Process(target=_command, args=given)
        child.start()
        child.join(240)
        if child.exitcode is None:
            child.kill()
        return child.exitcode, output.read()


def _command(arguments: list[str], output: str, environment: dict[str, str], folder: str) -> None:
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["sae_sweep", *arguments]
    contents.draw = lambda *_: {}  # the report's figures take longer than the sweep
    process.run(main)


def start(outputs: Path, executor: str, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(outputs, executor, *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(outputs: Path, query: str) -> list[tuple]:
    path = outputs / "sae_sweep.db"
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # its tables are just being made
        return []
    finally:
        connection.close()


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> int:
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    return process.returncode


def kill_group(node: subprocess.Popen[Any]) -> None:
    """Kill a node of Ray and its own processes; `ray stop` takes everybody's, SIGTERM 35 s."""
    os.killpg(node.pid, signal.SIGKILL)
    node.wait(timeout=60)


def statuses(outputs: Path) -> dict[str, str]:
    return dict(rows(outputs, "SELECT label, status FROM sweep_trial ORDER BY label"))


def results(outputs: Path) -> dict[str, tuple[str, str]]:
    """Final metrics and a hash of the weights, by label, of every trial that is done."""
    found = {}
    done = "SELECT label, uid, final FROM sweep_trial WHERE status = 'done'"
    for label, uid, final in rows(outputs, done):
        weights = (outputs / "trials" / f"{label}-{uid}" / "sae.safetensors").read_bytes()
        found[label] = (final, hashlib.sha256(weights).hexdigest())
    return found


def times_done(outputs: Path) -> list[int]:
    """How often each trial was recorded as done."""
    query = "SELECT count(*) FROM sweep_event WHERE kind = 'done' GROUP BY trial"
    return [count for (count,) in rows(outputs, query)]


def slots_of(process: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the Ray actors that train for a driver."""
    return actors_of(process, "ImplicitFunc")


def actors_of(process: subprocess.Popen[str], name: str) -> list[int]:
    """Process numbers of Ray actors of a driver, by what they call themselves."""
    family, found = {process.pid}, []
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            parents[pid] = (int(rest[1]), (stat.parent / "cmdline").read_bytes().decode())
        except OSError:
            continue
    grown = True
    while grown:
        young = {pid for pid, (parent, _) in parents.items() if parent in family} - family
        family |= young
        grown = bool(young)
    for pid in family:
        if name in parents.get(pid, (0, ""))[1]:
            found.append(pid)
    return found
