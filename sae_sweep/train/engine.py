"""Many trials on one device, none of which another can change."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sae_sweep.config import Trial
from sae_sweep.records import Outcome, Row, Status
from sae_sweep.train.checkpoint import State
from sae_sweep.train.member import Member
from sae_sweep.train.solo import Solo
from sae_sweep.train.source import ActivationSource

logger = logging.getLogger(__name__)

CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "not enough memory")


class Engine:
    """Advances its members; they join, leave and fail one by one.

    A member that raises becomes an outcome, `failed` or `oom`, and the others go on. An outcome
    ends the membership.
    """

    def __init__(
        self,
        activations: ActivationSource,
        trials: Path,
        device: torch.device | str = "cpu",
        threads: int = 1,
    ) -> None:
        """Set up a device.

        Args:
            activations: what all members train on.
            trials: folder below which every trial has its own.
            device: where they train.
            threads: of the process's arithmetic; bits are equal for equal numbers of threads.
        """
        torch.set_num_threads(threads)
        self._activations = activations
        self._trials = trials
        self._device = torch.device(device)
        self._waiting: dict[str, tuple[Trial, State | None]] = {}
        self._members: dict[str, Member] = {}
        self._solos: dict[str, Solo] = {}
        if self._device.type == "cuda":
            # cuBLAS reads it when it starts, and is not deterministic without
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    @property
    def uids(self) -> tuple[str, ...]:
        """The members, in the order in which they joined."""
        return (*self._members, *self._waiting)

    def add(self, trial: Trial, state: State | None = None) -> None:
        """Let a trial join, from its beginning or from a state.

        It is built at the next `advance`, so that a trial that cannot be built fails there.
        """
        assert trial.uid not in self.uids, f"{trial.uid} is a member already"
        self._waiting[trial.uid] = (trial, state)

    def remove(self, uid: str) -> None:
        """Let a member go, without an outcome."""
        if uid in self._members:
            del self._members[uid], self._solos[uid]
        else:
            del self._waiting[uid]

    def step(self, uid: str) -> int:
        """Steps that a member has trained."""
        if uid in self._members:
            return self._members[uid].step
        _, state = self._waiting[uid]
        return state.step if state else 0

    def seconds(self, uid: str) -> float:
        """Wall time that a member has trained, over all its starts."""
        if uid in self._members:
            return self._members[uid].seconds
        _, state = self._waiting[uid]
        return float(state.numbers["seconds"]) if state else 0.0

    def state(self, uid: str) -> State:
        """Copy all that is needed to go on with a member, here or elsewhere, bit for bit."""
        return self._member(uid).state

    def load(self, uid: str, state: State) -> None:
        """Put a member back into a state."""
        self._member(uid).state = state

    def advance(self, steps: int) -> list[Row | Outcome]:
        """Give every member up to `steps` updates; returns what there is to report, in order."""
        events: list[Row | Outcome] = []
        for uid in self.uids:
            events += self._advance(uid, steps)
            if events and isinstance(events[-1], Outcome) and events[-1].uid == uid:
                self.remove(uid)
        return events

    def _advance(self, uid: str, steps: int) -> Iterator[Row | Outcome]:
        try:
            member = self._member(uid)
            on_cuda = self._device.type == "cuda"
            with _deterministic(on=on_cuda and member.trial.train.reproducible):
                yield from _train(member, self._solos[uid], steps)
        except Exception as error:
            # the trial's boundary: what happened is recorded, and the other members go on
            logger.debug("trial %s failed", uid, exc_info=True)
            status: Status = "oom" if _is_out_of_memory(error) else "failed"
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Outcome(uid, status, self.step(uid), {}, reason, self.seconds(uid))

    def _member(self, uid: str) -> Member:
        """The member, built where it has only been added."""
        if uid not in self._members:
            trial, state = self._waiting[uid]
            solo = Solo(trial, self._activations, self._device)
            member = Member(trial, solo, self._activations, self._trials)
            if state is not None:
                member.state = state
            self._members[uid], self._solos[uid] = member, solo
            del self._waiting[uid]
        return self._members[uid]


def _train(member: Member, solo: Solo, steps: int) -> Iterator[Row | Outcome]:
    """Make up to `steps` updates; a row at every report, an outcome at the end."""
    for _ in range(min(steps, member.trial.steps - member.step)):
        began = time.perf_counter()
        solo.update(member.step + 1)
        member.step += 1
        member.seconds += time.perf_counter() - began
        yield from member.look()


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_OUT_OF_MEMORY)


@contextmanager
def _deterministic(*, on: bool) -> Iterator[None]:
    """Use deterministic algorithms inside, and what was used before afterwards."""
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
