"""`python -m sae_sweep forget --status failed`: remove records and folders of trials."""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records import STATUSES
from sae_sweep.records.store import Reader, Store, add_options, chosen_url
from sae_sweep.remote import remote_of

DOOMED = ".forgotten-"
"""Prefix of folders to be deleted; no trial's folder starts with a dot."""

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
    add_options(parser)
    options = parser.parse_args(arguments)
    for status in options.status:
        if status not in FORGETTABLE:
            raise BadInput(f"--status {status}: choose {', '.join(FORGETTABLE)}")
    url = chosen_url(options)
    with Reader(url) as reader:  # says so where there is no store or no such sweep
        if options.sweep is not None:
            reader.sweep(options.sweep)
    trials, remote = options.outputs / "trials", remote_of(options.outputs)
    # renamed first, deleted last: where this is killed on its way, the next forget finishes it
    with Store(url) as store, store.forgetting(options.status, options.sweep) as forgotten:
        for trial in forgotten:
            with contextlib.suppress(FileNotFoundError):
                (trials / trial.folder).rename(trials / f"{DOOMED}{trial.folder}")
    for left in trials.glob(f"{DOOMED}*"):
        _delete(left)
    if remote is not None:  # only now: a database waits for nobody inside a transaction
        for trial in forgotten:
            remote.remove(f"trials/{trial.folder}")
    told = [f"forgot {trial.folder} ({trial.status})\n" for trial in forgotten]
    sys.stdout.write("".join([*told, f"{len(forgotten)} trials forgotten\n"]))
    return 0


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
