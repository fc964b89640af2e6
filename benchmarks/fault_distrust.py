"""What a sweep finds is damaged, made up, or another program's: nothing of it may be believed."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

from safetensors import safe_open
from safetensors.torch import save as serialise
from sqlalchemy import create_engine, text

from benchmarks.fault_sweep import LIMIT_SECONDS, Struck, Sweep
from sae_sweep.records.store.locks import ADVISORY_LOCK
from sae_sweep.tune import orphans

PAGE = 4096
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""

CAPABILITIES = "-all,+dac_override,+dac_read_search"
ANOTHER_USER = (
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
)
"""Root has no limit of processes; this user has, and may read and write what root may."""


def lock_held(sweep: Sweep, seconds: float = 6.0) -> Struck:
    """Let another client hold the lock of a PostgreSQL store for a while."""
    engine = create_engine(sweep.url)
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
        process = sweep.start()
        sweep.wait_until(lambda: "waiting for the lock of the store" in sweep.said, process)
        time.sleep(seconds)
    engine.dispose()
    return sweep.finish(f"its lock held for {seconds:.0f} s by another client", process)


def marked_by_others(sweep: Sweep) -> Struck:
    """Run beside processes that have inherited, or made up, the mark of a driver."""
    marks = ("", "x", "1-2-3", f"pid:[1]-{os.getpid()}-1", "é" * 100)
    bystanders = [
        subprocess.Popen(
            ["bash", "-c", "exec -a ray::IDLE sleep 600"],
            env={**os.environ, orphans.MARK: mark},
            start_new_session=True,
        )
        for mark in marks
    ]
    try:
        struck = sweep.finish("5 processes with a mark that is not ours", sweep.start())
        ended = [one.pid for one in bystanders if one.poll() is not None]
    finally:
        for one in bystanders:
            one.kill()
            one.wait()
    wrong = (f"processes {ended} of others were ended",) if ended else ()
    return struck._replace(wrong=wrong)


def checkpoint_of_another_version(sweep: Sweep, reports: int) -> Struck:
    """Kill the driver, and let its checkpoints be another version's."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.reports() >= 0.6 * reports, process)
    process.kill()
    process.wait()
    found = list((sweep.outputs / "trials").glob("*/claim-*/resume*.safetensors"))
    for path in found:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {**file.metadata(), "version": "another"}
        path.write_bytes(serialise(tensors, metadata))
    struck = sweep.finish(f"{len(found)} files, after a kill", process)
    return struck._replace(said=sweep.said)


def damaged(sweep: Sweep, what: str) -> Struck:
    """Run to the end, damage what a rerun reads, and run again."""
    sweep.finish("", sweep.start())
    for path in sweep.outputs.glob(what):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return sweep.finish("cut to half after the end", sweep.start())


def forget_killed(sweep: Sweep) -> Struck:
    """Kill `forget` on its way, let another finish it, and run the sweep again."""
    sweep.finish("", sweep.start())
    words = ["--status", "done", "--outputs", str(sweep.outputs)]
    command = [sys.executable, "-m", "sae_sweep", "forget", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    trials = sweep.outputs / "trials"
    while process.poll() is None and not list(trials.glob(".forgotten-*")):
        time.sleep(0.001)
    process.kill()
    code = process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    left = [path.name for path in trials.iterdir()]
    struck = sweep.finish("while it deletes folders", sweep.start())
    wrong = (f"forget has left {left}",) if left else ()
    return struck._replace(code=code, wrong=wrong)


def led_astray(sweep: Sweep) -> Struck:
    """Let records name folders outside of outputs; forget and rerun; put the names right."""
    sweep.finish("", sweep.start())
    victim = sweep.outputs.parent / "victim"
    [*names] = (path.name for path in (sweep.outputs / "trials").iterdir())
    for name in names:
        (victim / name).mkdir(parents=True)
    engine = create_engine(sweep.url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE sweep_trial SET label = '../../victim/' || label"))
    words = ["forget", "--status", "done", "--outputs", str(sweep.outputs)]
    ran = subprocess.run([sys.executable, "-m", "sae_sweep", *words], check=False)
    code = sweep.start("rerun=all").wait(LIMIT_SECONDS)
    said = sweep.said
    with engine.begin() as connection:
        connection.execute(text("UPDATE sweep_trial SET label = substr(label, 14)"))
    engine.dispose()
    wrong = []
    if (ran.returncode, code) != (2, 2):
        wrong.append(f"forget exits with {ran.returncode}, the sweep with {code}")
    if sorted(path.name for path in victim.iterdir()) != sorted(names):
        wrong.append("folders outside of outputs were deleted")
    struck = sweep.finish("labels ../../victim/...", sweep.start())
    return struck._replace(code=code, said=said, wrong=tuple(wrong))


def _command(sweep: Sweep, *words: str) -> subprocess.CompletedProcess[str]:
    """Another command of ours on the sweep's store."""
    command = [sys.executable, "-m", "sae_sweep", *words, "--outputs", str(sweep.outputs)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _change(sweep: Sweep, *statements: str) -> None:
    """Change the store behind our back."""
    with contextlib.closing(sqlite3.connect(sweep.outputs / "sae_sweep.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def _pages(sweep: Sweep) -> str:
    """The report, details included."""
    return "".join(path.read_text() for path in (sweep.outputs / "faults").glob("*.md"))


def pages_damaged(sweep: Sweep) -> Struck:
    """Damage every other page of the store, use it, and restore it from a copy."""
    sweep.finish("", sweep.start())
    path = sweep.outputs / "sae_sweep.db"
    whole = path.read_bytes()
    pages = range(1, len(whole) // PAGE, 2)
    damaged = bytearray(whole)
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = b"\xa5" * PAGE
    path.write_bytes(damaged)
    ran = [_command(sweep, word) for word in ("status", "export", "report")]
    code = sweep.start().wait(LIMIT_SECONDS)
    said = sweep.said + "".join(one.stderr for one in ran)
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    path.write_bytes(whole)
    wrong = [f"{one.args[3]} exits with {one.returncode}" for one in ran if one.returncode != 2]
    struck = sweep.finish(f"{len(pages)} of {len(whole) // PAGE} pages", sweep.start())
    return struck._replace(code=code, said=said, wrong=tuple(wrong))


def rows_lost(sweep: Sweep) -> Struck:
    """Let the store lose reports in the middle of a curve, as a lost WAL does, and report."""
    sweep.finish("", sweep.start())
    step = "(SELECT step FROM sweep_metric GROUP BY step ORDER BY step LIMIT 1 OFFSET 4)"
    _change(sweep, f"DELETE FROM sweep_metric WHERE step = {step}")
    ran = _command(sweep, "report")
    report = _pages(sweep)
    wrong = () if "the store has lost them" in report else ("the report does not count them",)
    struck = sweep.finish("one report of every trial", sweep.start())
    return struck._replace(said=ran.stderr, code=ran.returncode, wrong=wrong)


def weights(sweep: Sweep, harm: str) -> Struck:
    """Harm the weights of a trial that is done, and have it trained again."""
    sweep.finish("", sweep.start())
    victim = min((sweep.outputs / "trials").glob("*/sae.safetensors"))
    whole = victim.read_bytes()
    match harm:
        case "gone":
            victim.unlink()
        case "damaged":
            victim.write_bytes(whole[: len(whole) // 2])
        case _:
            victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    uid = victim.parent.name.rpartition("-")[2]
    ran = _command(sweep, "export", uid, "--format", "saelens")
    sweep.start().wait(LIMIT_SECONDS)
    said = ran.stderr + sweep.said
    wrong = [] if ran.returncode == 2 else [f"export exits with {ran.returncode}"]
    if harm != "a bit flipped" and "lack their weights" not in said:
        wrong.append("a start does not say it")
    # it is to be done a second time
    _change(
        sweep,
        f"DELETE FROM sweep_event WHERE trial = (SELECT pk FROM sweep_trial WHERE uid = '{uid}')",
    )
    struck = sweep.finish("after the end", sweep.start("rerun=weights"))
    return struck._replace(said=said, wrong=tuple(wrong))


def folder_as_checkpoint(sweep: Sweep) -> Struck:
    """Put a folder where a trial wants its checkpoint; take it away and retry."""
    sweep.finish("", sweep.start())
    first = min((sweep.outputs / "trials").iterdir())
    _command(sweep, "forget", "--status", "done")
    (first / "resume.safetensors").mkdir(parents=True)
    code = sweep.start().wait(LIMIT_SECONDS)
    said = sweep.said
    shutil.rmtree(first / "resume.safetensors", ignore_errors=True)
    wrong = () if "where a checkpoint should be" in said else ("it is not said",)
    struck = sweep.finish("in the way of one trial", sweep.start("rerun=failed"))
    return struck._replace(code=code, said=said, wrong=wrong)


def control_characters(sweep: Sweep) -> Struck:
    """Let texts of the store act on a terminal, and read it."""
    sweep.finish("", sweep.start())
    _change(sweep, "UPDATE sweep_run SET question = char(27) || '[2J' || question")
    ran = [_command(sweep, word) for word in ("status", "export", "report")]
    report = _pages(sweep)
    _change(sweep, "UPDATE sweep_run SET question = substr(question, 5)")
    printed = "".join(one.stdout + one.stderr for one in ran) + report
    wrong = ("they are printed",) if "\x1b" in printed else ()
    struck = sweep.finish("an escape sequence in the question", sweep.start())
    return struck._replace(said=printed, wrong=wrong)


def file_locked(sweep: Sweep) -> Struck:
    """Freeze a process inside a transaction of a SQLite store, at work."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    command = [sys.executable, "-c", HOLD, str(sweep.outputs / "sae_sweep.db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        code = process.wait(LIMIT_SECONDS)
        said = sweep.said
        holder.kill()
    wrong = [] if f"locked by process {holder.pid} (stopped)" in said else ["it is not named"]
    struck = sweep.finish("its lock held until the sweep gave up", process)
    return struck._replace(code=code, said=said, wrong=tuple(wrong))


def processes_limited(sweep: Sweep) -> Struck:
    """Let a user who may start few processes run it, then one who may start more."""
    limit = 60 if "executor=ray" in sweep.words else 4
    sweep.outputs.mkdir(exist_ok=True, mode=0o777)
    sweep.within = (*ANOTHER_USER, "bash", "-c", f'ulimit -u {limit}; exec "$@"', "limited")
    process = sweep.start()
    sweep.within = ()
    return sweep.finish(f"ulimit -u {limit}", process)
