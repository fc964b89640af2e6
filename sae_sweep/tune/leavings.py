"""What an ended trial leaves in its folder."""

from pathlib import Path

from sae_sweep.records import FINAL, Status
from sae_sweep.sae import WEIGHTS_FILE
from sae_sweep.train import checkpoint


def clear(folder: Path, status: Status, *, keep_weights: bool) -> None:
    """Delete what nobody wants any more: the checkpoint, and weights that are not to be kept.

    May be done again: a driver that is killed after it has recorded an end has not come so far.
    """
    if status in FINAL:
        checkpoint.discard(folder)
    if status == "stopped" or (status == "done" and not keep_weights):
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
