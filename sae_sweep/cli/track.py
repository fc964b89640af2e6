"""`python -m sae_sweep track SWEEP --sink wandb`: a sweep's trials as runs of a tracker."""

import argparse
import contextlib
import sys
import threading

from sae_sweep.errors import CutShort
from sae_sweep.inputs import edge
from sae_sweep.records.store import add_options, chosen_url
from sae_sweep.sinks import PACKAGES, open_sink, require
from sae_sweep.sinks.follow import follow
from sae_sweep.sinks.process import READY


def track(arguments: list[str]) -> int:
    """Send a tracker what it lacks of a sweep; `sinks=[...]` does it while the sweep runs.

    Raises:
        BadInput: no such sweep, or a tracker that cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep track")
    parser.add_argument("sweep")
    parser.add_argument("--sink", choices=sorted(PACKAGES), required=True)
    add_options(parser)
    parser.add_argument("--follow", action="store_true", help="until the standard input ends")
    options = parser.parse_args(arguments)
    outputs = options.outputs = options.outputs.absolute()
    url = chosen_url(options)
    require([options.sink])
    folder = outputs / options.sweep
    (folder / "sinks").mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # trackers print as they like
        sink = open_sink(options.sink, options.sweep, outputs)
    over = threading.Event()
    if options.follow:
        threading.Thread(target=_wait_for_end, args=(over,), daemon=True).start()
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()
    else:
        over.set()
    way_out = "when that is mended, the same command sends the rest"
    with (
        edge(options.sink, way_out, f"does not take {options.sweep}", kind=CutShort),
        contextlib.redirect_stdout(sys.stderr),
        contextlib.closing(sink),
    ):
        follow(sink, url, options.sweep, folder, over.wait)
    if not options.follow:
        sys.stdout.write(f"{options.sweep} is in {options.sink}\n")
    return 0


def _wait_for_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()
