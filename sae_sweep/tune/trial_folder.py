"""A trial's folder: unfinished files belong to one claim, finished ones to all readers.

    outputs/trials/<label>-<uid>/                   weights, settings, tables of a finished trial
    outputs/trials/<label>-<uid>/claim-<number>/    checkpoints and results of the holder of a claim

The holder of a later claim renames the folder of an earlier one to its own. Whoever held that one
finds it gone, and has nowhere to write: only one process can rename it, on shared file systems too.
Results leave the folder of the claim when the store has accepted the outcome.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.records import FINAL, Status
from sae_sweep.sae import WEIGHTS_FILE
from sae_sweep.train import checkpoint

CLAIM = re.compile(r"claim-(\d+)")


def claim_folder(folder: Path, number: int) -> Path:
    """Working folder of the holder of a claim."""
    return folder / f"claim-{number}"


def take_over(folder: Path, number: int) -> Path:
    """Make the folder of a claim, from that of an earlier one where there is one.

    Of the earlier one only checkpoints stay.

    Raises:
        BadInput: a later claim has the trial.
        OSError: the folder cannot be made.
    """
    mine = claim_folder(folder, number)
    folder.mkdir(parents=True, exist_ok=True)
    while (latest := max(_claims(folder), default=None)) != number:
        if latest is None:
            mine.mkdir()
        elif latest > number:
            raise BadInput(f"{claim_folder(folder, latest)} is in use under a later claim")
        else:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                claim_folder(folder, latest).rename(mine)
    for earlier in sorted((one for one in _claims(folder) if one < number), reverse=True):
        # one that was being renamed while the folder was read: it takes the place of an empty one
        with contextlib.suppress(OSError):
            claim_folder(folder, earlier).rename(mine)
        remove(claim_folder(folder, earlier))
    for path in (folder / name for name in checkpoint.FILES):  # where they stood before claims
        if path.exists() and not (mine / path.name).exists():
            path.replace(mine / path.name)
    for path in mine.iterdir():
        if path.name not in checkpoint.FILES:
            remove(path)
    return mine


def settle(folder: Path, number: int, status: Status, *, keep_weights: bool) -> None:
    """Put in place what an ended trial leaves, and delete what nobody wants any more.

    May be repeated: a driver that was killed after it had recorded an end has not come so far.

    Args:
        folder: the trial's.
        number: of the claim under which the store has accepted the outcome.
        status: the outcome's.
        keep_weights: whether the sweep wants them.
    """
    if not folder.is_dir():  # nothing was written: the trial failed because something is in the way
        return
    mine = claim_folder(folder, number)
    if status == "done" and (mine / WEIGHTS_FILE).exists():
        for path in sorted(mine.iterdir()):
            if path.name not in checkpoint.FILES:
                path.replace(folder / path.name)
    if status in FINAL:
        for left in (claim_folder(folder, one) for one in _claims(folder) if one <= number):
            remove(left)
        for name in checkpoint.FILES:
            remove(folder / name)
    if status == "stopped" or (status == "done" and not keep_weights):
        remove(folder / WEIGHTS_FILE)
    with contextlib.suppress(OSError):  # it has something in it
        folder.rmdir()


def in_the_way(folder: Path, error: OSError) -> str:
    """The error that results cannot be put in place."""
    return (
        f"the results of {folder} cannot be put in place ({error}): make room, or move away what "
        "is in the way"
    )


def empty(folder: Path, number: int) -> None:
    """Delete all that earlier claims have left, so that a trial starts afresh."""
    for path in [] if not folder.is_dir() else folder.iterdir():
        found = CLAIM.fullmatch(path.name)
        if found is None or int(found[1]) < number:
            remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _claims(folder: Path) -> set[int]:
    """Numbers of the claims that have a folder; a link is none."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:  # its own word on what is a folder: a stat comes too late
        real = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return {int(match[1]) for name in real if (match := CLAIM.fullmatch(name))}
