"""Progress of a sweep: a live display in a terminal, plain lines elsewhere."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sae_sweep.config import Trial
from sae_sweep.records import FINAL, Outcome, Row, Status, TrialRecord

WINDOW_SECONDS = 60.0
"""Over how long the speed is averaged."""

QUIET_SECONDS = 30.0
"""Plain mode prints at least this often."""

COUNTED: tuple[Status, ...] = (
    "done",
    "running",
    "queued",
    "stopped",
    "diverged",
    "failed",
    "oom",
    "interrupted",
)


class Rate:
    """Throughput over the last minute, and the ETA that follows."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)])
        self.total = 0.0

    def add(self, amount: float) -> None:
        """Note work."""
        self.total += amount
        now = time.monotonic()
        self._points.append((now, self.total))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW_SECONDS:
            self._points.popleft()

    @property
    def a_second(self) -> float:
        """Work per second."""
        (first, before), (last, after) = self._points[0], self._points[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def eta(self, rest: float) -> str:
        """Time that the rest will take, as h:mm:ss."""
        return clock(rest / self.a_second) if self.a_second > 0 else "-:--"


class SweepDisplay:
    """Shows trials by status, tokens/s, ETA and the best so far."""

    def __init__(
        self, name: str, planned: int, trials: list[Trial], records: Mapping[str, TrialRecord]
    ) -> None:
        """Begin with what is known.

        Args:
            name: of the sweep.
            planned: how many trials it has at most, those that a search is still to name included.
            trials: those that are known.
            records: what the store knows of them.
        """
        self._name = name
        self._planned = planned
        self._trials = {trial.uid: trial for trial in trials}
        self._status: dict[str, Status] = dict.fromkeys(self._trials, "queued")
        self._steps = dict.fromkeys(self._trials, 0)
        self._latest: dict[str, Row] = {}
        self._best: tuple[float, str] | None = None
        self._tokens = Rate()
        self._work = Rate()
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._said = time.monotonic()
        for uid, record in records.items():
            if record.status in FINAL or record.status == "stopped":
                self._status[uid] = record.status
                self._note_best(uid, record.final.get("fvu"))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._picture, console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self._said = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    # -- what the driver tells -----------------------------------------------------------------

    def started(self, trial: Trial, step: int) -> None:
        """A trial was started."""
        self._trials[trial.uid] = trial
        self._status[trial.uid] = "running"
        self._steps[trial.uid] = step
        if step:
            self.say(f"{trial.folder} continues from step {step:,} of {trial.steps:,}")

    def reported(self, row: Row) -> None:
        """A trial reported."""
        trial = self._trials[row.uid]
        steps = row.step - self._steps[row.uid]
        self._tokens.add(steps * trial.train.batch_size)
        self._work.add(steps * trial.step_work)
        self._steps[row.uid] = row.step
        self._latest[row.uid] = row
        if self._live is None and time.monotonic() - self._said > QUIET_SECONDS:
            self.say(self._counts() + self._speed())

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """A trial ended."""
        self._trials[trial.uid] = trial
        self._status[trial.uid] = outcome.status
        self._latest.pop(trial.uid, None)
        self._note_best(trial.uid, outcome.final.get("fvu"))
        count = sum(status not in ("queued", "running") for status in self._status.values())
        line = f"[{count:>{len(str(self._planned))}}/{self._planned}] {outcome.status}"
        line += f" {trial.folder}"
        if outcome.status == "done":
            line += _figures(outcome.final) + f"  {outcome.seconds:.0f} s"
        elif outcome.error:
            line += f": {outcome.error}"
        self.say(line + ("" if self._live else self._speed()))

    def _note_best(self, uid: str, fvu: float | None) -> None:
        if fvu is not None and (self._best is None or fvu < self._best[0]):
            self._best = (fvu, self._trials[uid].folder)

    # -- what is shown -------------------------------------------------------------------------

    def _rest(self) -> float:
        return sum(
            (trial.steps - self._steps[uid]) * trial.step_work
            for uid, trial in self._trials.items()
            if self._status[uid] in ("queued", "running")
        )

    def _counts(self) -> str:
        by = Counter(self._status.values())
        shown = [f"{by[name]} {name}" for name in COUNTED if by[name] or name in COUNTED[:3]]
        return ", ".join(shown)

    def _speed(self) -> str:
        if not self._tokens.a_second:
            return ""
        return f"  ({self._tokens.a_second:,.0f} tokens/s, ETA {self._work.eta(self._rest())})"

    def _picture(self) -> Group:
        whole = sum(trial.work for trial in self._trials.values())
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=whole, completed=whole - self._rest(), width=30)
        head.add_row(Text(self._name, style="bold"), bar, f"{self._counts()}{self._speed()}")
        lines = []
        if self._best is not None:
            lines.append(Text(f"lowest fvu so far {self._best[0]:.4g}  {self._best[1]}"))
        for uid, row in list(self._latest.items())[:8]:
            trial = self._trials[uid]
            text = f"  {trial.folder}  step {row.step:,}/{trial.steps:,}{_figures(row.values)}"
            lines.append(Text(text, style="dim"))
        return Group(head, *lines)


def _figures(values: dict[str, float]) -> str:
    shown = [("fvu", "fvu {:.4f}"), ("l0", "l0 {:.1f}"), ("dead_features", "dead {:.1%}")]
    return "".join("  " + form.format(values[name]) for name, form in shown if name in values)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def follow_extraction(steps: Iterator[tuple[int, int]], what: str) -> None:
    """Run an extraction and show rows, rows/s and ETA."""
    console = Console(stderr=True)
    rate, before, said = Rate(), None, time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
        TextColumn("{task.fields[speed]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=1, speed="", visible=False)
        for done, total in steps:
            rate.add(0 if before is None else done - before)  # what was there is not speed
            before = done
            speed = f"{rate.a_second:,.0f} rows/s, ETA {rate.eta(total - done)}"
            bar.update(task, completed=done, total=total, speed=speed, visible=True)
            finished = done == total
            if not console.is_terminal and (finished or time.monotonic() - said > QUIET_SECONDS):
                said = time.monotonic()
                line = f"{what}: {done:,} of {total:,} rows, {speed}"
                console.print(line, highlight=False, soft_wrap=True)
