"""`watch --html`: the page of a running sweep, served to this machine alone; the browser follows.

The page asks the server for `/now?after=VERSION`, which answers when there is a newer version, or
after `PATIENCE` with nothing. It brings no scripts along, so a step of a trial costs little.
"""

import dataclasses
import math
import os
import subprocess
import sys
import threading
import time
import webbrowser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from analysis import report, web
from analysis.context import ReportContext
from analysis.page.blocks import Blocks
from analysis.page.markdown import duration, number
from analysis.study.table import Study, load
from analysis.topics import summary
from analysis.web import trials
from sae_sweep.errors import BadInput
from sae_sweep.inputs import reason
from sae_sweep.process import interruptible
from sae_sweep.records import STATUSES
from sae_sweep.records.store import Reader, Sweep

MOST_RUNNING = 8
"""Running trials that are listed and drawn."""
PATIENCE = 20.0
"""Seconds after which a page that waits for news is told that there are none."""
DRIVER_PATIENCE = 60.0
"""Seconds for which a driver that has ended may still write its own report."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""What the page may load: itself."""


class Served:
    """The latest version of the page; whoever waits for a newer one is woken."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._page, self.version = "", 0
        self._closed = False
        self.is_final = False
        self.seen = threading.Event()
        """A page has been opened."""
        self.final_seen = threading.Event()
        """A page has been given the finished report."""

    def publish(self, page: str, *, final: bool = False) -> None:
        """Show a new version."""
        with self._news:
            self._page, self.is_final = page, final
            self.version += 1
            self._news.notify_all()

    def close(self) -> None:
        """Answer every page that waits."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def whole(self) -> tuple[str, int]:
        """The page and its version."""
        with self._news:
            return self._page, self.version

    def newer(self, than: int) -> tuple[str, int] | None:
        """The page without its scripts once it is newer; None where nothing came in time.

        Empty for a finished report: that is loaded as a whole.
        """
        with self._news:
            self._news.wait_for(lambda: self._closed or self.version > than, PATIENCE)
            if self.version <= than:
                return None
            return "" if self.is_final else self._page.partition("<script>")[0], self.version


@contextmanager
def serving(served: Served, port: int = 0) -> Iterator[str]:
    """Serve the page on the loopback interface; yields its address.

    Args:
        served: the page.
        port: 0 for any that is free.

    Raises:
        BadInput: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(served))
    except OSError as error:
        raise BadInput(
            f"--port={port} cannot be used ({reason(error)}): name another, or leave --port away"
        ) from None
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        served.close()
        server.shutdown()
        server.server_close()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # another site's page must not reach this one by a name that leads here
            port = self.connection.getsockname()[1]
            if self.headers.get("Host") not in {f"127.0.0.1:{port}", f"localhost:{port}"}:
                return self._answer(403)
            asked = urlsplit(self.path)
            if asked.path == "/":
                served.seen.set()
                is_final = served.is_final
                self._answer(200, *served.whole())
                if is_final:
                    served.final_seen.set()
                return None
            after = parse_qs(asked.query).get("after", [""])[0]
            if asked.path != "/now" or not after.isdecimal():
                return self._answer(404)
            news = served.newer(int(after))
            return self._answer(204) if news is None else self._answer(200, *news)

        def _answer(self, code: int, text: str = "", version: int = 0) -> None:
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Version", str(version))
            with suppress(ConnectionError):  # the page was closed while it waited
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the terminal is the user's."""

    return Handler


def watch(reader: Reader, name: str | None, folder: Path, every: float, port: int = 0) -> None:
    """Serve the page of a sweep until it ends, then write its report.

    Args:
        reader: the store.
        name: of the sweep; the latest where None.
        folder: where reports go.
        every: seconds between two looks at the store.
        port: of the server, 0 for any.

    Raises:
        BadInput: no such sweep, or the port is taken.
    """
    web.require()
    sweep = reader.sweep(name)
    if not sweep.run.alive:
        return _show(_finish(sweep, reader, folder).as_uri())
    served = Served()
    interruptible()
    with serving(served, port) as address:
        pages = Pages(reader)
        served.publish(pages.render(sweep))
        sys.stdout.write(f"page: {address} (follows the sweep; Ctrl-C ends it)\n")
        sys.stdout.flush()
        _show(address)
        while True:
            time.sleep(every)
            sweep = reader.sweep(sweep.run.name)
            if not sweep.run.alive:
                break
            if pages.has_news(sweep):
                served.publish(pages.render(sweep))
        final = _finish(sweep, reader, folder).read_text(encoding="utf-8")
        served.publish(final, final=True)
        if served.seen.is_set():
            served.final_seen.wait(PATIENCE)
    return None


def _finish(sweep: Sweep, reader: Reader, folder: Path) -> Path:
    """Write the report, after a driver that has just ended has written its own."""
    path = folder / sweep.run.name
    until = time.monotonic() + DRIVER_PATIENCE
    while (
        sweep.run.finished is not None
        and time.time() - sweep.run.finished < DRIVER_PATIENCE
        and time.monotonic() < until
        and not report.is_current(sweep, path)
    ):
        time.sleep(0.2)
    page = report.render(sweep, path, reader.history, html=True).with_suffix(".html")
    sys.stdout.write(f"page: {page}\n")
    return page.absolute()


def _show(address: str) -> None:
    """Open a browser at an address, or say where to open one."""
    if not _open(address):
        port = urlsplit(address).port
        there = f"; from another machine run first ssh -L {port}:127.0.0.1:{port} HOST"
        sys.stderr.write(f"no browser was found here: open {address}{there if port else ''}\n")


def _open(address: str) -> bool:
    # without a display Python would start a browser in this very terminal
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, names)):
        return False
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False


class Pages:
    """Renders a running sweep; results of finished trials are computed once per finished trial."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._digest: str | None = None
        self._study: Study
        self._first: Blocks
        self._news: object = None

    def has_news(self, sweep: Sweep) -> bool:
        """Whether the page's content has changed since it was rendered."""
        return _news(sweep, self._running(sweep), devices()) != self._news

    def render(self, sweep: Sweep) -> str:
        """The page at this moment."""
        if sweep.digest != self._digest:
            self._study = dataclasses.replace(load(sweep), history=self._reader.history)
            self._first = summary.summary(ReportContext(self._study))
            self._digest = sweep.digest
        running, found = self._running(sweep), devices()
        self._news = _news(sweep, running, found)
        live = {**progress(sweep, running), "devices": found}
        return web.page(self._study, self._first, {}, Path(), live)

    def _running(self, sweep: Sweep) -> list[dict[str, Any]]:
        """The running trials with their curves."""
        records = [one for one in sweep.trials if one.status == "running"]
        curves = self._reader.history([one.uid for one in records], "fvu")
        found = []
        for one in records:
            steps, fvu = curves.get(one.uid, (np.zeros(0, dtype=int), np.zeros(0)))
            total = one.config.get("train", {}).get("steps")
            found.append(
                {
                    "uid": one.uid,
                    "label": one.label,
                    "done": int(steps[-1]) if len(steps) else 0,
                    "total": total,
                    "fvu": number(float(fvu[-1])) if len(fvu) else "",
                    "curve": trials.thinned((steps, fvu)) if len(steps) else None,
                }
            )
        return found


def _news(sweep: Sweep, running: list[dict[str, Any]], found: list[dict[str, Any]]) -> object:
    return sweep.digest, [(one["uid"], one["done"]) for one in running], found


def progress(sweep: Sweep, running: list[dict[str, Any]]) -> dict[str, Any]:
    """Progress of a sweep: shares, counts and running trials, as text."""
    counts = Counter(one.status for one in sweep.trials)
    waiting = counts["queued"] + counts["running"] + counts["interrupted"]
    ended = len(sweep.trials) - waiting
    share = sum(one["done"] / one["total"] for one in running if one["total"]) + ended
    share = share / len(sweep.trials) if sweep.trials else 0.0
    parts = [f"{counts[one]} {one}" for one in STATUSES if counts[one]]
    elapsed = time.time() - sweep.run.started
    parts.append(f"{duration(max(elapsed, 0))} so far")
    if share > 0.05:
        parts.append(f"about {duration(max(elapsed, 0) * (1 - share) / share)} left")
    shown = running[:MOST_RUNNING]
    return {
        "state": f"{ended} of {len(sweep.trials)} trials have ended",
        "percent": math.floor(1000 * min(share, 1.0)) / 10,
        "counts": parts,
        "running": [
            {
                "uid": one["uid"],
                "label": one["label"],
                "step": f"{one['done']:,}" + (f" of {one['total']:,}" if one["total"] else ""),
                "fvu": one["fvu"],
            }
            for one in shown
        ],
        "curves": {one["uid"]: one["curve"] for one in shown if one["curve"]},
        "more": len(running) - len(shown),
    }


def devices() -> list[dict[str, Any]]:
    """The memory of this machine's NVIDIA GPUs, as their driver tells it; empty without one."""
    query = "--query-gpu=index,name,memory.used,memory.total"
    try:
        told = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [one for line in told.splitlines() if (one := _device(line)) is not None]


def _device(line: str) -> dict[str, Any] | None:
    """One line of nvidia-smi, in MiB; None where it does not know the memory."""
    index, name, used, total = (part.strip() for part in line.split(","))
    if not (used.isdecimal() and total.isdecimal() and int(total)):
        return None
    return {
        "name": f"GPU {index} of this machine, {name}",
        "text": f"{int(used) / 1024:.1f} of {int(total) / 1024:.0f} GiB in use",
        "percent": round(100 * int(used) / int(total)),
    }
