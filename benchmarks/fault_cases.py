"""Ways to strike a running sweep.

Every way is a function that starts the sweep in a process of its own, strikes it, and runs the same
command again until it ends well. The tests use the same functions with fewer strikes.
"""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.fault_sweep import LIMIT_SECONDS, Struck, Sweep


def undisturbed(sweep: Sweep) -> float:
    """Run the sweep; returns its wall time in seconds."""
    began = time.monotonic()
    code = sweep.start().wait(LIMIT_SECONDS)
    if code:
        raise RuntimeError(sweep.said[-2000:])
    return time.monotonic() - began


def driver_killed(sweep: Sweep, seconds: float, number: int = signal.SIGKILL) -> Struck:
    """Send the driver a signal some time after its start."""
    process = sweep.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    counts = sweep.status_counts()
    process.send_signal(number)
    return sweep.finish(f"{seconds:.1f} s, {counts['done']} done", process)


def driver_killed_at_work(
    sweep: Sweep, share: float, reports: int, number: int = signal.SIGKILL
) -> Struck:
    """Send the driver a signal when a share of all reports of an undisturbed sweep is there."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.reports() >= share * reports, process)
    counts = sweep.status_counts()
    process.send_signal(number)
    return sweep.finish(f"{share:.0%} of the reports, {counts['done']} done", process)


def worker_killed(sweep: Sweep) -> Struck:
    """Kill one Ray actor while it trains."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["running"] and sweep.slots(), process)
    os.kill(sweep.slots()[0], signal.SIGKILL)
    return sweep.finish(f"one of two workers, {sweep.status_counts()['done']} done", process)


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, with a pretended GPU each."""
    with mock.patch.dict(os.environ, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"):
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for one in (cluster.head_node, cluster.add_node(num_cpus=1, num_gpus=1)):
                for group in one.all_processes.values():
                    processes += [each.process for each in group]
            yield cluster
        finally:
            cluster.shutdown()
            for process in processes:  # Ray kills its own, and leaves them uncollected
                process.wait(LIMIT_SECONDS)


def node_killed(sweep: Sweep, cluster: Any) -> Struck:
    """Take the second node away, without a word, when a slot runs on it."""
    process = sweep.start()
    [second] = cluster.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    sweep.wait_until(lambda: _trains_below(raylet), process)
    cluster.remove_node(second, allow_graceful=False)
    return sweep.finish(f"one of two nodes, {sweep.status_counts()['done']} done", process)


def _trains_below(raylet: int) -> bool:
    """Whether a child of Ray's process for a node is a slot."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == raylet and b"ImplicitFunc" in (folder / "cmdline").read_bytes():
                return True
    return False


class Postgres:
    """A PostgreSQL server of our own, on a free port; as root it runs as the user postgres."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise FileNotFoundError("no PostgreSQL: .ci/packages installs it")
        self._bin = found[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="sae-sweep-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._call("initdb", "-A", "trust", "-U", "postgres", "-D", f"{self._folder}/db")
        self.start()

    def _call(self, program: str, *words: str) -> None:
        command = [str(self._bin / program), *words]
        user = {"user": "postgres"} if os.geteuid() == 0 else {}
        # not a pipe: the server would hold it open for ever
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, **user)

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        log = f"{self._folder}/log"
        self._call("pg_ctl", "-w", "-D", f"{self._folder}/db", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it as a crash would."""
        self._call("pg_ctl", "-w", "-m", "immediate", "-D", f"{self._folder}/db", "stop")

    def close(self) -> None:
        """Stop it and remove its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder)


def database_restarted(sweep: Sweep, server: Postgres, seconds: float = 3.0) -> Struck:
    """Stop the database while trials train, and start it again after a while."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    server.stop()
    time.sleep(seconds)
    server.start()
    return sweep.finish(f"away for {seconds:.0f} s, after 1 done", process)


def database_gone(sweep: Sweep, server: Postgres) -> Struck:
    """Stop the database until the sweep has given up."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    server.stop()
    process.wait(LIMIT_SECONDS)
    server.start()
    return sweep.finish("away until the sweep gave up, after 1 done", process)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[Path]:
    """A disk of its own below a folder.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True)
    options = f"size={megabytes}m"
    command = ["mount", "-t", "tmpfs", "-o", options, "sae-sweep-fault", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_filled(sweep: Sweep, disk: Path) -> Struck:
    """Fill the disk after the first trial; make room when the sweep has given up."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    process.wait(LIMIT_SECONDS)
    filler.unlink()
    return sweep.finish("no byte left, after 1 done", process)


def files_limited(sweep: Sweep) -> Struck:
    """Let no file of the driver grow beyond a few bytes after the first trial."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    written = len(sweep.said.encode())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (written + 4096, resource.RLIM_INFINITY))
    return sweep.finish("files of 4 kB at most, after 1 done", process)


def leaking(sweep: Sweep) -> Struck:
    """Run a sweep whose environment makes a trial leak."""
    return sweep.finish("1 GB more than at its start", sweep.start(), good=(1,))


def leak_environment(uid: str) -> dict[str, str]:
    """What makes a trial leak until its process has no memory left."""
    path = [str(Path(__file__).parent / "leaking"), os.environ.get("PYTHONPATH", "")]
    return {"LEAKING": uid, "PYTHONPATH": os.pathsep.join(filter(None, path))}
