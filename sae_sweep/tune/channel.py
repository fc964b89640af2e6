"""Messages between a slot and the driver, the same inline and through Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from sae_sweep.activations import Wanted
from sae_sweep.config import Trial
from sae_sweep.evaluate import Source
from sae_sweep.records import Outcome, Place, Row
from sae_sweep.remote import fetch, local_folder


class Job(NamedTuple):
    """What a slot needs to start."""

    slot: int
    """Number of the slot, unique in a run."""
    activations: Path
    """Folder of the shards that all its trials read."""
    trials: Path
    """Folder below which every trial has its own."""
    threads: int
    """Threads of its arithmetic."""
    bounded: Sequence[Wanted] = ()
    """Where a cache bounds the training shards: how they are computed, for this source and for
    those that the same pass of the model can serve."""
    evaluated: Source | None = None
    """Where SAEs are measured inside the model, for this source."""
    probe_documents: int = 0
    """Validation documents for probes of the rows' labels; 0 where there are none."""
    remote: str | None = None
    """URL of remote outputs; the folders above are then those of the driver's mirror."""

    def here(self) -> "Job":
        """The same job on this machine: with remote outputs, in its own mirror.

        Raises:
            CutShort: the shards cannot be brought here.
        """
        if self.remote is None:
            return self
        outputs = local_folder(self.remote)
        evaluated = self.evaluated and self.evaluated._replace(outputs=outputs)
        return self._replace(
            activations=fetch(outputs, f"activations/{self.activations.name}"),
            trials=outputs / "trials",
            evaluated=evaluated,
        )


class Started(NamedTuple):
    """A trial was started, at step 0 or from a checkpoint."""

    uid: str
    step: int
    place: Place


class Claimed(NamedTuple):
    """A trial, and under which claim the driver holds it."""

    trial: Trial
    number: int
    """Greater than that of every claim before; all that is written goes to a folder of its own."""


class Orders(NamedTuple):
    """The driver's orders since the slot last asked."""

    stop: list[str]
    """Trials to checkpoint and release."""
    add: list[Claimed]
    """Trials to take up, from their checkpoint where they have one."""
    drop: bool = False
    """Whether to stop at once and write nothing: another driver has the trials."""


class Room(NamedTuple):
    """How many trials the slot takes at once from now on."""

    members: int


class Returned(NamedTuple):
    """A trial that does not fit into the slot's memory and goes back to the queue."""

    uid: str
    reason: str


class NotEvaluated(NamedTuple):
    """A trial is done, but an evaluation beyond reconstruction failed."""

    uid: str
    reason: str


Item = Started | Row | Outcome | Room | Returned | NotEvaluated


class Channel(Protocol):
    """Both directions between a slot and the driver."""

    def push(self, items: list[Item]) -> None:
        """Send rows and outcomes to the driver; returns when it has acted on them."""

    def pull(self) -> Orders:
        """Fetch orders. A slot without trials that gets none is finished."""
