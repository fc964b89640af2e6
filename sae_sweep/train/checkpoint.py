"""A trial's training state on disk, from which training resumes bit for bit."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge

STATE_FILE = "resume.safetensors"
PREVIOUS_FILE = "resume.previous.safetensors"
FILES = (STATE_FILE, PREVIOUS_FILE)

VERSION = "1"
"""Format of the file; one without a version has version 1."""

NUMBERS = {"step", "seconds"}

logger = logging.getLogger(__name__)


class State(NamedTuple):
    """Everything that training needs besides the settings."""

    tensors: dict[str, Shaped[Tensor, "..."]]
    """Parameters, optimiser state, counters; on the CPU."""
    numbers: dict[str, float]
    """Plain numbers, `step` among them."""

    @property
    def step(self) -> int:
        """Steps trained."""
        return int(self.numbers["step"])

    def fits(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> bool:
        """Whether training with these tensors can take it over: it is of this version of ours."""
        kinds = [
            {name: (each.shape, each.dtype) for name, each in one.items()}
            for one in (self.tensors, tensors)
        ]
        return kinds[0] == kinds[1] and self.numbers.keys() == NUMBERS


def save(folder: Path, uid: str, state: State) -> int:
    """Write the state to the trial's folder; the one before is kept until the next.

    Returns:
        The step that training goes on from.
    """
    path = folder / STATE_FILE
    numbers = json.dumps(state.numbers)
    metadata = {
        "uid": uid,
        "version": VERSION,
        "numbers": numbers,
        "checksum": _checksum(state.tensors, numbers),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(serialise(state.tensors, metadata))
        if path.exists():
            path.replace(folder / PREVIOUS_FILE)
    return state.step


def load(folder: Path, uid: str) -> State | None:
    """Read the newest whole state; None where there is none, and training starts afresh.

    A truncated or damaged file, or one of another version, is passed over, with a warning in the
    log.

    Raises:
        BadInput: where the state belongs to another trial, or a folder is in its place.
    """
    for path in (folder / name for name in FILES):
        if path.is_dir():
            raise BadInput(f"{path} is a folder, where a checkpoint should be: move it away")
        if path.exists():
            try:
                with edge(str(path), "passed over", "cannot be resumed from"):
                    found, state = _read(path)
            except BadInput as error:
                logger.warning("%s", error)
                continue
            if found != uid:
                raise BadInput(
                    f"{path} is the state of trial {found}, not of {uid}: move it away, "
                    f"and {uid} starts afresh"
                )
            return state
    return None


def _read(path: Path) -> tuple[str, State]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    version = metadata.get("version", "1")
    if version != VERSION:
        raise ValueError(f"it has version {version}, this version of sae_sweep reads {VERSION}")
    if metadata["checksum"] != _checksum(tensors, metadata["numbers"]):
        raise ValueError("its checksum does not match")
    return metadata["uid"], State(tensors, _numbers(metadata["numbers"]))


def _numbers(text: str) -> dict[str, int | float]:
    found = json.loads(text)
    if not isinstance(found, dict) or not 0 <= found["step"] < 2**53:
        raise ValueError(f"its numbers are {text}")
    return found


def _checksum(tensors: dict[str, Shaped[Tensor, "..."]], numbers: str) -> str:
    hashed = hashlib.sha256(numbers.encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()
