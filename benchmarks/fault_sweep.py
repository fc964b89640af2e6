"""A small sweep that is to be struck, and what must be true of it in the end."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from sae_sweep.errors import BadInput
from sae_sweep.records.store import Reader, default_url

MARK = "SAE_SWEEP_FAULT"
"""In the environment of every process of a sweep, those that Ray detaches too."""

SYNTHETIC = (
    "activations=synthetic",
    "activations.train_tokens=20480",
    "activations.validation_tokens=2048",
)
WORDS = (
    *("sae.n_latents=64", "sae.k=4"),
    *("train.lr={loguniform: [1e-4, 1e-2]}", "train.epochs=3", "train.checkpoint_every=20"),
    *("sweep.name=faults", "executor.threads=1"),
)
SEARCHES = {
    # one after another, each draw after the outcomes of those before: a lost one would show
    "inline": ("search=optuna", "search.objective=fvu", "search.trials=4"),
    # two at a time: draws that depend on no outcome
    "ray": ("search=random", "search.samples=4", "executor.slots=2"),
}
RERUNS = 3
LOOK_SECONDS = 0.1
"""How often a sweep is looked at: more would take its core."""
LIMIT_SECONDS = 900.0
"""How long a start may take before it counts as hanging; alone on two cores it takes 10 s."""

GRACE_SECONDS = 10.0
"""How long processes may take to leave after their sweep has ended."""


class Course(NamedTuple):
    """What a sweep has come to."""

    draws: list[str]
    """What was asked for, in order."""
    results: dict[str, tuple[str, str]]
    """Final metrics and a hash of the weights, by uid, of every trial that is done."""
    statuses: dict[str, tuple[str, str | None]]
    """Status and reason by uid."""
    times_done: Counter[str]
    """How often the events say that a trial was done, by uid."""
    folders: list[str]
    """Folders of trials."""
    leftovers: list[str]
    """Checkpoints and half-written files."""


class Struck(NamedTuple):
    """How a disturbed sweep went."""

    what: str
    """What was struck, and when."""
    said: str
    """What the command that was struck wrote."""
    code: int
    """Its exit code; negative: the signal that ended it."""
    reruns: int
    """Further starts until the sweep was over."""
    last_code: int
    """Exit code of the last start."""
    still_running: list[str]
    """Processes that outlived the last start."""
    wrong: tuple[str, ...] = ()
    """What else is not as it must be."""


class Sweep:
    """The sweep in one folder; what still runs of it at the end of a `with` is killed."""

    def __init__(
        self,
        outputs: Path,
        executor: str,
        *words: str,
        source: tuple[str, ...] = SYNTHETIC,
        **environment: str,
    ) -> None:
        self.outputs = outputs
        self.within: tuple[str, ...] = ()
        """A command that starts the sweep in another namespace."""
        self.url = default_url(outputs)
        search = () if any(word.startswith("search=") for word in words) else SEARCHES[executor]
        self.words = [f"executor={executor}", *source, *WORDS, *search]
        self.words += [f"outputs={outputs}", *words]
        for word in words:
            if word.startswith("store.url="):
                self.url = word.partition("=")[2]
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        fonts = Path(tempfile.gettempdir()) / "sae-sweep-fault-fonts"  # listing them takes a second
        shared = {"MPLCONFIGDIR": str(fonts)}
        self._environment = {**os.environ, **shared, **environment, MARK: self._mark}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(prefix="sae-sweep-fault-")
        os.close(descriptor)
        self._log = Path(name)
        return self

    def __exit__(self, *_: object) -> None:
        for number in processes_with(f"{MARK}={self._mark}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self._started:
            process.wait()
        self._log.unlink()

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the command, with further words, in a session of its own."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "sae_sweep", *self.words, *more],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    @property
    def said(self) -> str:
        """What the latest command has written."""
        return self._log.read_text(encoding="utf-8")

    def wait_until(self, ready: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
        """Look again and again.

        Raises:
            RuntimeError: the command has ended before, or it takes too long.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"there was nothing to strike: {self.said[-2000:]}")
            time.sleep(LOOK_SECONDS)

    def status_counts(self) -> Counter[str]:
        """Trials by status at this moment."""
        with contextlib.suppress(BadInput), Reader(self.url) as reader:
            return Counter(member.trial.status for member in reader.sweep("faults").members)
        return Counter()

    def reports(self) -> int:
        """How many reports of trials the store has at this moment: the work that is done."""
        with contextlib.suppress(BadInput), Reader(self.url) as reader:
            uids = [member.trial.uid for member in reader.sweep("faults").members]
            return sum(len(steps) for steps, _ in reader.history(uids, "fvu").values())
        return 0

    def finish(
        self, what: str, process: subprocess.Popen[bytes], good: tuple[int, ...] = (0,)
    ) -> Struck:
        """Wait for a command that was struck, and repeat it until its exit code is a good one."""
        code = last_code = process.wait(LIMIT_SECONDS)
        said, reruns = self.said, 0
        while last_code not in good and reruns < RERUNS:
            reruns += 1
            last_code = self.start().wait(LIMIT_SECONDS)
        return Struck(what, said, code, reruns, last_code, self.still_running())

    def still_running(self) -> list[str]:
        """What is left of all starts, after a while."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (found := processes_with(f"{MARK}={self._mark}")) and time.monotonic() < deadline:
            time.sleep(0.2)
        return list(found.values())

    def slots(self) -> list[int]:
        """The Ray actors that train."""
        found = processes_with(f"{MARK}={self._mark}")
        return [pid for pid, name in found.items() if "ImplicitFunc" in name]

    def course(self) -> Course:
        """Read store and folders."""
        with Reader(self.url) as reader:
            found = reader.sweep("faults")
            events = [one for run in range(1, found.run.id + 1) for one in reader.events(run)]
        trials = {member.trial.uid: member.trial for member in found.members}
        root = self.outputs / "trials"
        results = {}
        for uid, trial in trials.items():
            if trial.status == "done":
                weights = (root / trial.folder / "sae.safetensors").read_bytes()
                final = json.dumps(trial.final, sort_keys=True)
                results[uid] = (final, hashlib.sha256(weights).hexdigest())
        left = [*root.glob("*/claim-*"), *root.glob("*/resume*"), *root.glob("**/.*.part")]
        return Course(
            [json.dumps(member.assignment) for member in found.members],
            results,
            {uid: (trial.status, trial.error) for uid, trial in trials.items()},
            Counter(one.uid for one in events if one.kind == "done" and one.uid is not None),
            sorted(path.name for path in root.iterdir()),
            [path.name for path in left],
        )


def processes_with(mark: str) -> dict[int, str]:
    """Names of the processes with NAME=VALUE in their environment, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command:  # a dead process that nobody has collected has none
                    found[int(folder.name)] = command
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
    return found


def problems(
    struck: Struck, course: Course, whole: Course, ends: Mapping[str, str] | None = None
) -> list[str]:
    """What is not as it must be.

    Args:
        struck: how the disturbed sweep went.
        course: what it came to.
        whole: what an undisturbed one came to.
        ends: status by uid of trials that do not end `done`.
    """
    ends = ends or {}
    wanted = {uid: one for uid, one in whole.results.items() if uid not in ends}
    statuses = {uid: status for uid, (status, _) in course.statuses.items()}
    unexplained = [
        u for u, (status, why) in course.statuses.items() if status != "done" and not why
    ]
    checks = {
        f"exit code {struck.last_code} in the end": struck.last_code == (1 if ends else 0),
        f"lost {lost(course, whole)}": not lost(course, whole),
        f"doubled {doubled(course)}": not doubled(course),
        "other draws": course.draws == whole.draws,
        "other results": course.results == wanted,
        f"statuses {statuses}": statuses == dict.fromkeys(whole.statuses, "done") | dict(ends),
        f"no reason for {unexplained}": not unexplained,
        f"left behind {course.leftovers}": not course.leftovers,
        f"still running {struck.still_running}": not struck.still_running,
        "a traceback": "Traceback" not in struck.said,
    }
    return [*struck.wrong, *(words for words, well in checks.items() if not well)]


def lost(course: Course, whole: Course) -> list[str]:
    """Trials that the undisturbed sweep has and this one has not."""
    return sorted(set(whole.statuses) - set(course.statuses))


def doubled(course: Course) -> list[str]:
    """Trials that were done twice by the events, or have two folders."""
    folders = Counter(name.rpartition("-")[2] for name in course.folders)
    return sorted({uid for n in (course.times_done, folders) for uid in n if n[uid] > 1})
