"""Many trials on one device; none can change another's results."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from sae_sweep.config import Trial
from sae_sweep.errors import lacks_room
from sae_sweep.records import Outcome, Row, Status
from sae_sweep.train.checkpoint import State
from sae_sweep.train.device import (
    is_out_of_memory,
    require_device,
    with_room,
    without_frames,
)
from sae_sweep.train.member import Member
from sae_sweep.train.solo import Solo
from sae_sweep.train.source import ActivationSource

if TYPE_CHECKING:
    from sae_sweep.train.pack import Pack, Packed, PackKey

logger = logging.getLogger(__name__)


class NoRoom(NamedTuple):
    """A trial left because memory ran out; it can resume later or elsewhere."""

    uid: str
    state: State | None
    """State to resume from; None: as before it joined, or from its last checkpoint."""
    reason: str


Event = Row | Outcome | NoRoom


class Engine:
    """Advances its members; they join, leave and fail one by one.

    A member that raises becomes an outcome, `failed` or `oom`, and the others go on. Where memory
    runs out beside others, the member that joined last leaves as `NoRoom`. Both end the membership.
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
        self._folders: dict[str, Path | None] = {}
        self._members: dict[str, Member] = {}
        self._solos: dict[str, Solo] = {}
        self._packed: dict[str, Packed] = {}
        self._packs: dict[PackKey, Pack] = {}

    @property
    def uids(self) -> tuple[str, ...]:
        """The members, in the order in which they joined."""
        return (*self._members, *self._waiting)

    def add(self, trial: Trial, state: State | None = None, folder: Path | None = None) -> None:
        """Let a trial join, from its beginning or from a state.

        It is built at the next `advance`, so that a trial that cannot be built fails there.

        Args:
            trial: resolved settings.
            state: where to go on from.
            folder: where its results are written, and which is there; without it the trial's own
                below `trials`, which is made.
        """
        assert trial.uid not in self.uids, f"{trial.uid} is a member already"
        self._waiting[trial.uid] = (trial, state)
        self._folders[trial.uid] = folder

    def remove(self, uid: str) -> None:
        """Remove a member, without an outcome."""
        if uid not in self._members:
            del self._waiting[uid]
            return
        del self._members[uid]
        if uid in self._solos:
            del self._solos[uid]
        else:
            packed = self._packed.pop(uid)
            packed.pack.leave(packed)

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

    def advance(self, steps: int) -> list[Event]:
        """Give every member up to `steps` updates; returns what there is to report."""
        events: list[Event] = []
        self._make_room()
        for uid in self.uids:
            events += self._guarded(uid, partial(self._begin, uid, steps))
        for pack in list(self._packs.values()):
            events += self._advance_pack(pack, steps)
        return events

    def _begin(self, uid: str, steps: int) -> Iterator[Row | Outcome]:
        """Build a member that has only been added; advance one that trains on its own."""
        if self._members or not self._packs:
            member = self._member(uid)
        else:  # packs hold what trials that have left took
            member = with_room(partial(self._member, uid), self._packs.clear)
        if uid in self._solos:
            yield from _train(member, self._solos[uid], steps)

    def _advance_pack(self, pack: "Pack", steps: int) -> Iterator[Event]:
        """Advance the members of a pack together; each reports on its own."""
        while uids := self._in(pack):
            members = [self._members[uid] for uid in uids]
            count = min(steps, *(member.steps_to_look for member in members))
            if not count:
                return
            made = {self._packed[uid]: self._members[uid].step for uid in uids}
            began = time.perf_counter()
            failures, failure = self._update(pack, made, count)
            steps -= count if failure is None else 0
            share = (time.perf_counter() - began) / len(members)
            if failure is not None and not is_out_of_memory(failure):
                for uid in uids:
                    yield self._failure(uid, failure)
                    self.remove(uid)
                return
            for uid, member in zip(uids, members, strict=True):
                packed = self._packed[uid]
                member.step = packed.step
                member.seconds += share
                if packed in failures or packed.step == made[packed] + count:
                    look = partial(_look, member, pack, failures.get(packed))
                    yield from self._guarded(uid, look)
            if failure is not None and self._in(pack):
                yield self._make_way(pack, failure)

    def _update(
        self, pack: "Pack", made: "dict[Packed, int]", count: int
    ) -> "tuple[dict[Packed, Exception], Exception | None]":
        """Update a pack's members; returns failures of single ones, and one of all of them."""
        try:
            failures = pack.update(made, count)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # updates are launched, not made yet
        except Exception as error:
            shared = ", ".join(packed.trial.uid for packed in made)
            logger.debug("trials %s shared a step that failed", shared, exc_info=True)
            return {}, without_frames(error)
        return failures, None

    def _in(self, pack: "Pack") -> list[str]:
        """Members of a pack, in the order in which they joined."""
        return [
            uid for uid in self._members if uid in self._packed and self._packed[uid].pack is pack
        ]

    def _make_way(self, pack: "Pack", error: Exception) -> Event:
        """Remove the member that joined last, so that the others have room; no step was begun."""
        *others, last = self._in(pack)
        if not others:
            event: Event = self._failure(last, error)
            self.remove(last)
            return event
        pack.steps.release()
        gc.collect()  # as `with_room` does
        member = self._members[last]
        event = self._no_room(last, member.state if member.step else None, error)
        self.remove(last)
        pack.compact()
        return event

    def _no_room(self, uid: str, state: State | None, error: Exception) -> NoRoom:
        others = len(self._members) - (uid in self._members)
        reason = f"no room beside {others} trials on {self._device} ({_words(error)})"
        logger.warning("trial %s waits: %s", uid, reason)
        return NoRoom(uid, state, reason)

    def _guarded(self, uid: str, work: Callable[[], Iterator[Row | Outcome]]) -> Iterator[Event]:
        """Yield what the work for one member yields; an error becomes its outcome."""
        last: Event | None = None
        trial = self._members[uid].trial if uid in self._members else self._waiting[uid][0]
        try:
            on_cuda = self._device.type == "cuda"
            with _deterministic(on=on_cuda and trial.train.reproducible):
                for last in work():
                    yield last
        except Exception as error:
            # the trial's boundary: what happened is recorded, and the other members go on
            logger.debug("trial %s failed", uid, exc_info=True)
            beside = len(self._members) - (uid in self._members)
            asks = uid in self._waiting or uid in self._packed
            if asks and beside and is_out_of_memory(error):
                last = self._no_room(uid, None, error)
            else:
                last = self._failure(uid, error)
            yield last
        if isinstance(last, Outcome | NoRoom):
            self.remove(uid)
        if isinstance(last, NoRoom):
            for pack in self._packs.values():
                pack.compact()

    def without_room(self, uid: str, error: Exception) -> Outcome:
        """Outcome of a member whose files cannot be written because space ran out."""
        reason = f"no room for the files of trials in {self._trials} ({error})"
        return Outcome(uid, "interrupted", self.step(uid), {}, reason, self.seconds(uid))

    def _failure(self, uid: str, error: Exception) -> Outcome:
        if lacks_room(error):  # no fault of the trial's: it goes on where there is room again
            return self.without_room(uid, error)
        status: Status = "oom" if is_out_of_memory(error) else "failed"
        return Outcome(uid, status, self.step(uid), {}, _words(error), self.seconds(uid))

    def _member(self, uid: str) -> Member:
        """The member, built where it has only been added."""
        if uid not in self._members:
            trial, state = self._waiting[uid]
            require_device(trial, self._device)
            training = self._training(trial, resumes=state is not None)
            if state is not None and not state.fits(training.tensors()):
                logger.warning(
                    "the checkpoint of trial %s is of another version: it starts afresh", uid
                )
                self._release(training)
                training, state = self._training(trial, resumes=False), None
            member = Member(trial, training, self._activations, self._trials, self._folders[uid])
            try:
                if state is not None:
                    member.state = state
            except Exception:
                self._release(training)
                raise
            if isinstance(training, Solo):
                self._solos[uid] = training
            else:
                self._packed[uid] = training
            self._members[uid] = member
            del self._waiting[uid]
        return self._members[uid]

    def _training(self, trial: Trial, *, resumes: bool) -> "Solo | Packed":
        """A trial's training, by the kernels it asks for; one that resumes awaits a state."""
        if trial.train.kernels == "fused":
            return self._pack(trial).join(trial, resumes=resumes)
        return Solo(trial, self._activations, self._device, resumes=resumes)

    def _release(self, training: "Solo | Packed") -> None:
        """Free what a training that nobody has holds of others."""
        if not isinstance(training, Solo):
            training.pack.leave(training)

    def _pack(self, trial: Trial) -> "Pack":
        """The pack that a trial can join."""
        # imported here: Triton is there only where a GPU is
        from sae_sweep.train.pack import Pack, pack_key

        key = pack_key(trial)
        if key not in self._packs:
            self._packs[key] = Pack(self._activations, key, self._device)
        return self._packs[key]

    def _make_room(self) -> None:
        """Grow the packs once for all members about to join."""
        joining: dict[Pack, list[Trial]] = {}
        for trial, _ in self._waiting.values():
            if trial.train.kernels == "fused":
                with _room_or_not():
                    joining.setdefault(self._pack(trial), []).append(trial)
        for pack, trials in joining.items():
            with _room_or_not():
                pack.reserve(trials)


def _train(member: Member, solo: Solo, steps: int) -> Iterator[Row | Outcome]:
    """Make up to `steps` updates; a row at every report, an outcome at the end."""
    for _ in range(min(steps, member.trial.steps - member.step)):
        began = time.perf_counter()
        solo.update(member.step + 1)
        member.step += 1
        member.seconds += time.perf_counter() - began
        for event in member.look():
            yield event
            if isinstance(event, Outcome):
                return


def _look(member: Member, pack: "Pack", failure: Exception | None) -> Iterator[Row | Outcome]:
    """Report on a member; where memory is short, in what the pack's next step will take.

    Raises:
        Exception: what its work between two updates failed with.
    """
    if failure is not None:
        raise failure
    try:
        yield from member.look()
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    pack.steps.release()
    gc.collect()  # as `with_room` does, which cannot yield
    yield from member.look()


@contextmanager
def _room_or_not() -> Iterator[None]:
    """Pass over memory that runs out: some trials still may join, each tries again for itself."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise


def _words(error: Exception) -> str:
    lines = str(error).splitlines()[:1]  # a MemoryError has none
    return ": ".join([type(error).__name__, *lines])


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
