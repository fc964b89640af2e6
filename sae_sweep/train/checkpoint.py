"""A member's state on disk, from which training goes on bit for bit."""

import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from sae_sweep.activations.disk import replacing
from sae_sweep.errors import BadInput

STATE_FILE = "resume.safetensors"
PREVIOUS_FILE = "resume.previous.safetensors"

logger = logging.getLogger(__name__)


class State(NamedTuple):
    """All that a member knows besides its settings."""

    tensors: dict[str, Shaped[Tensor, "..."]]
    """Parameters, optimiser state, counters; on the CPU."""
    numbers: dict[str, float]
    """Plain numbers, `step` among them."""

    @property
    def step(self) -> int:
        """Steps trained."""
        return int(self.numbers["step"])


def save(folder: Path, uid: str, state: State) -> int:
    """Write the state to the trial's folder; the one before is kept until the next.

    Returns:
        The step that training goes on from.
    """
    path = folder / STATE_FILE
    numbers = json.dumps(state.numbers)
    metadata = {"uid": uid, "numbers": numbers, "checksum": _checksum(state.tensors, numbers)}
    with replacing(path) as temporary:
        temporary.write_bytes(serialise(state.tensors, metadata))
        if path.exists():
            path.replace(folder / PREVIOUS_FILE)
    return state.step


def load(folder: Path, uid: str) -> State | None:
    """Read the newest whole state; None where there is none, and training starts afresh.

    A truncated or damaged file is passed over, with a warning in the log.

    Raises:
        BadInput: where the state belongs to another trial.
    """
    for path in (folder / STATE_FILE, folder / PREVIOUS_FILE):
        if path.exists():
            try:
                found, state = _read(path)
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                logger.warning("%s cannot be resumed from: %s", path, error)
                continue
            if found != uid:
                raise BadInput(
                    f"{path} is the state of trial {found}, not of {uid}: move it away, "
                    f"and {uid} starts afresh"
                )
            return state
    return None


def discard(folder: Path) -> None:
    """Delete the state, the one before, and what a killed process left half-written."""
    if not folder.is_dir():  # nothing was written: the trial failed because something is in the way
        return
    for path in (folder / STATE_FILE, folder / PREVIOUS_FILE, *folder.glob(".*.part")):
        path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[str, State]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["checksum"] != _checksum(tensors, metadata["numbers"]):
        raise ValueError("its checksum does not match")
    return metadata["uid"], State(tensors, json.loads(metadata["numbers"]))


def _checksum(tensors: dict[str, Shaped[Tensor, "..."]], numbers: str) -> str:
    hashed = hashlib.sha256(numbers.encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()
