"""`python -m sae_sweep forget --status failed`: remove records and folders of trials."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records import STATUSES
from sae_sweep.records.store import Reader, Store, default_url

FORGETTABLE = [status for status in STATUSES if status not in ("queued", "running")]


def forget(arguments: list[str]) -> int:
    """Remove trials by status; refused while a running sweep holds one of them.

    Raises:
        BadInput: no such status, sweep or store.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep forget")
    parser.add_argument(
        "--status",
        action="append",
        required=True,
        metavar="STATUS",
        help=f"one of {', '.join(FORGETTABLE)}; may be repeated",
    )
    parser.add_argument("--sweep", metavar="NAME", help="only trials of this sweep")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument(
        "--store", metavar="URL", help="default: SAE_SWEEP_STORE, else outputs/sae_sweep.db"
    )
    options = parser.parse_args(arguments)
    for status in options.status:
        if status not in FORGETTABLE:
            raise BadInput(f"--status {status}: choose {', '.join(FORGETTABLE)}")
    url = options.store or os.environ.get("SAE_SWEEP_STORE") or default_url(options.outputs)
    with Reader(url) as reader:  # says so where there is no store or no such sweep
        if options.sweep is not None:
            reader.sweep(options.sweep)
    with Store(url) as store:
        forgotten = store.forget(options.status, options.sweep)
    for trial in forgotten:
        shutil.rmtree(options.outputs / "trials" / trial.folder, ignore_errors=True)
        sys.stdout.write(f"forgot {trial.folder} ({trial.status})\n")
    sys.stdout.write(f"{len(forgotten)} trials forgotten\n")
    return 0
