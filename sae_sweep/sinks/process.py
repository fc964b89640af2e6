"""Sinks beside a running sweep: one process each; only the end waits for them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sae_sweep.errors import BadInput

READY = "ready"
"""Message of a sink's process once its tracker is open."""

START_SECONDS = 60.0
"""How long a tracker may take to open."""

END_SECONDS = 60.0
"""How long the end of a sweep waits for all sinks together."""


class SinkProcesses:
    """The processes that copy one sweep to its sinks while it runs."""

    def __init__(self, names: Sequence[str], sweep: str, outputs: Path, url: str) -> None:
        """Say what is to be copied.

        Args:
            names: the sinks.
            sweep: its name.
            outputs: folder of all outputs.
            url: of the store; handed on by environment, since it may hold a password.
        """
        self._sweep = sweep
        self._folder = outputs / sweep / "sinks"
        self._command = [sys.executable, "-m", "sae_sweep", "track", sweep]
        self._command += ["--outputs", str(outputs), "--follow", "--sink"]
        self._environment = {**os.environ, "SAE_SWEEP_STORE": url}
        self._environment.pop("SAE_SWEEP_DRIVER", None)
        self._names = list(dict.fromkeys(names))
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._said: set[str] = set()
        self._ending = False

    def __enter__(self) -> Self:
        """Start them.

        Raises:
            BadInput: a tracker cannot be used here.
        """
        for name in self._names:
            self._processes[name] = self._start(name)
        try:
            for name, process in self._processes.items():
                self._await_ready(name, process)
        except BadInput:
            self._kill()
            raise
        for name in self._names:
            threading.Thread(target=self._watch, args=(name,), daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        """Let them send the rest, for a while."""
        self._ending = True
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + END_SECONDS
        for name, process in self._processes.items():
            try:
                code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(name, f"still sending after {END_SECONDS:.0f} s")
            else:
                if code:
                    self._say(name, self._reason(name, code))
        self._kill()

    def _start(self, name: str) -> subprocess.Popen[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                [*self._command, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
                start_new_session=True,  # Ctrl-C is for the sweep: this process ends after it
            )

    def _await_ready(self, name: str, process: subprocess.Popen[str]) -> None:
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        timer.cancel()
        if line == READY:
            return
        reason = self._reason(name, process.wait())
        raise BadInput(reason if reason.startswith("sinks=") else f"sinks=[{name}]: {reason}")

    def _watch(self, name: str) -> None:
        """Log once when a sink ends before the sweep."""
        code = self._processes[name].wait()
        if not self._ending:
            self._say(name, self._reason(name, code))

    def _say(self, name: str, reason: str) -> None:
        if name in self._said:
            return
        self._said.add(name)
        sys.stderr.write(
            f"sink {name}: {reason}; the sweep goes on, and "
            f"`python -m sae_sweep track {self._sweep} --sink {name}` sends what is missing\n"
        )

    def _reason(self, name: str, code: int) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("sae_sweep: ") if lines else f"ended with {code}"
        return f"{last} (see {self._log(name)})" if code not in (0, 2) else last

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
