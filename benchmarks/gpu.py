"""The fused kernels on a GPU: are they right at full size, and how far from the floor are they?

    python -m benchmarks.gpu --part 1
    python -m benchmarks.gpu --part 2

Each part ends within 350 seconds. It needs a GPU, torch with its Triton, numpy, scipy, safetensors,
pyarrow, jaxtyping, pydantic and this repository. Every line is on disk as soon as it is known: as
JSON in gpu-<device>-<date>-part<N>.jsonl, and as tables in the .md beside it. A section that
raises, hangs or kills its process loses only what it had not measured yet; the next one goes on in
a fresh process.
"""

import argparse
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
import triton

from benchmarks import gpu_checks, gpu_peers, gpu_times
from benchmarks.gpu_cases import Row, synchronise

TARGETS = """Targets: (B 4096, d 2048, n 65,536, k 32) <= 1.4x its floor and >= 2x sparsify's \
kernels; grid of 12: training <= 1.5 s; 100,000 steps of L1 at d 768, n 8,192 <= 60 s, eight \
l1_alpha at once within 1.3x of the dense floor; 16 packed trials of the tutorial's shape >= 10x \
the SAEs per hour of the eager SAELens-like loop and >= 2x our own trials one after another."""


class Section(NamedTuple):
    """A table, and how long it may take."""

    rows: Callable[[], Iterator[Row]]
    seconds: float


SECTIONS: dict[int, dict[str, Section]] = {
    1: {
        "Ceilings": Section(gpu_times.ceilings, 30),
        "Compiling": Section(gpu_times.compile_kernels, 120),
        "Correctness": Section(gpu_checks.correctness, 90),
        "Bits": Section(gpu_checks.bits, 60),
        "Bits of further kinds": Section(gpu_checks.further_bits, 60),
        "A step": Section(gpu_times.steps, 60),
        "The published grid": Section(gpu_times.grid, 60),
        "The tutorial's shape": Section(gpu_peers.tutorial, 40),
        "Time per kernel": Section(gpu_times.kernels, 40),
    },
    2: {
        "Ceilings": Section(gpu_times.ceilings, 30),
        "Compiling": Section(gpu_times.compile_kernels, 120),
        "A step": Section(gpu_times.steps, 60),
        "The tutorial's shape": Section(gpu_peers.tutorial, 40),
        "The encoder's product": Section(gpu_times.products, 40),
        "Others on the same rows": Section(gpu_peers.peers, 150),
        "Sparse and dense": Section(gpu_times.forms, 60),
        "Company": Section(gpu_times.fusion, 60),
        "Time per kernel": Section(gpu_times.kernels, 40),
    },
}
"""In order of worth: what does not fit any more is left out. The profiler comes last, since it may
slow what the same process launches after it."""

STARTING_SECONDS = 60
"""For a process to import torch and begin a section."""


class Report:
    """What is known so far, on disk after every line."""

    def __init__(self, path: Path, heading: str) -> None:
        """Begin `path`.jsonl and `path`.md; both are replaced if they exist."""
        self._lines, self._tables = path.with_suffix(".jsonl"), path.with_suffix(".md")
        self._text, self._columns = f"# {heading}\n\n{TARGETS}\n", list[str]()
        self.wrong = False
        self._lines.write_text("", encoding="utf-8")
        self._write("")

    def _write(self, text: str) -> None:
        self._text += text
        self._tables.write_text(self._text, encoding="utf-8")
        print(text, end="", flush=True)

    def _keep(self, section: str, **found: Any) -> None:
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": section, **found}) + "\n")

    def begin(self, section: str) -> None:
        """Begin a section."""
        self._columns = []
        self._write(f"\n## {section}\n")

    def row(self, section: str, row: Row) -> None:
        """Add a line to the section's table, or begin another table where columns differ."""
        self._keep(section, row=row)
        self.wrong |= str(row.get("verdict", "")).startswith("WRONG")
        if list(row) != self._columns:
            self._columns = list(row)
            self._write(f"\n{_line(self._columns)}\n{_line(['---'] * len(row))}\n")
        self._write(_line([_cell(value) for value in row.values()]) + "\n")

    def end(self, section: str, remark: str) -> None:
        """Say how a section ended."""
        self._keep(section, remark=remark)
        self.wrong |= remark.startswith(("FAILED", "STOPPED"))
        self._write(f"\n{section}: {remark}\n")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "/").replace("\n", " ")


def work(sections: Mapping[str, Section], out: IO[str]) -> bool:
    """Run sections one after another, and tell of each line; False where the device is unusable."""

    def tell(**message: Any) -> None:
        out.write(json.dumps(message, default=str) + "\n")
        out.flush()

    for title, section in sections.items():
        tell(begin=title)
        began = time.perf_counter()
        try:
            for row in section.rows():
                tell(row=row)
            tell(end=f"{time.perf_counter() - began:.0f} s")
        except Exception as error:  # noqa: BLE001 the section's boundary: the others go on
            tell(end=f"FAILED after {time.perf_counter() - began:.0f} s: {_one_line(error)}")
        gc.collect()
        try:
            synchronise()
        except RuntimeError:  # after an illegal access nothing works any more in this process
            return False
    return True


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def supervise(
    command: Callable[[list[str]], list[str]],
    limits: Mapping[str, float],
    seconds: float,
    report: Report,
) -> None:
    """Let processes work off sections; one that hangs or dies costs its section alone.

    Args:
        command: the command line of a process that works off these sections, and tells of it.
        limits: seconds that each section may take.
        seconds: that all of them may take; what is left then is left out.
        report: gets every line as it comes.
    """
    end, left = time.monotonic() + seconds, list(limits)
    while left and time.monotonic() < end:
        progress = Progress(left, limits, end, report)
        with subprocess.Popen(
            command(left), stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                progress.follow(process)
            finally:
                with suppress(ProcessLookupError):  # its own processes, too, hold its output
                    os.killpg(process.pid, signal.SIGKILL)
        if not progress.begun and time.monotonic() < end:
            report.begin(left[0])
            report.end(left[0], "FAILED: no process could begin it")
            progress.left = left[1:]
        left = progress.left
    for title in left:
        report.begin(title)
        report.end(title, f"left out: {seconds:.0f} s were over")


class Progress:
    """How far a process has come with its sections."""

    def __init__(
        self, left: list[str], limits: Mapping[str, float], end: float, report: Report
    ) -> None:
        self.left, self.begun = list(left), False
        """Sections that nobody has begun; whether this process has begun one."""
        self._current, self._limits, self._end, self._report = "", limits, end, report
        self._allow(STARTING_SECONDS)

    def _allow(self, seconds: float) -> None:
        self._deadline = min(self._end, time.monotonic() + seconds)

    def follow(self, process: "subprocess.Popen[str]") -> None:
        """Report what a process tells, until it ends or its section's time is over."""
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
        try:
            while line := lines.get(timeout=max(0.0, self._deadline - time.monotonic())):
                if (message := _message(line)) is not None:
                    self._hear(message)
        except queue.Empty:
            reason = "STOPPED: its time was over"
        else:
            reason = f"FAILED: its process ended with {process.wait()}"
        if self._current:
            self._report.end(self._current, reason)

    def _hear(self, message: dict[str, Any]) -> None:
        if "begin" in message:
            self._current, self.begun = message["begin"], True
            self.left.remove(self._current)
            self._allow(self._limits[self._current])
            self._report.begin(self._current)
        elif "row" in message:
            self._report.row(self._current, message["row"])
        else:
            self._report.end(self._current, message["end"])
            self._current = ""
            self._allow(STARTING_SECONDS)


def _message(line: str) -> dict[str, Any] | None:
    """What `work` tells; None of a line that a library prints."""
    try:
        message = json.loads(line)
    except json.JSONDecodeError:
        return None
    told = isinstance(message, dict) and {"begin", "row", "end"} & set(message)
    return message if told else None


def _pass_on(process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def main() -> int:
    """Measure one part; exit code 1 where something is wrong or failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--part", type=int, choices=SECTIONS, required=True)
    parser.add_argument("--seconds", type=float, default=325, help="of all sections; default 325")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sections", nargs="+", help=argparse.SUPPRESS)  # for its own processes
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU and none is visible here", file=sys.stderr)
        return 2
    sections = SECTIONS[arguments.part]
    if arguments.sections:
        usable = work({title: sections[title] for title in arguments.sections}, sys.stdout)
        sys.stdout.flush()
        os._exit(0 if usable else 1)  # a broken device would hang the interpreter's end
    name, today = torch.cuda.get_device_name(), datetime.now(UTC).date().isoformat()
    stem = f"gpu-{name.replace(' ', '-')}-{today}-part{arguments.part}"
    arguments.results.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    heading = f"{name}, {today}, part {arguments.part}: {versions}"
    report = Report(arguments.results / stem, heading)

    def command(left: list[str]) -> list[str]:
        own = [sys.executable, "-m", "benchmarks.gpu", "--part", str(arguments.part)]
        return [*own, "--sections", *left]

    limits = {title: section.seconds for title, section in sections.items()}
    supervise(command, limits, arguments.seconds, report)
    print(f"\n{arguments.results / stem}.md")
    return int(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
