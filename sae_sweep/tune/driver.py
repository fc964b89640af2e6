"""The driver of a sweep: queue, pruning, retries and the store, independent of the executor."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sae_sweep.activations import Wanted
from sae_sweep.config import RunConfig, Trial
from sae_sweep.errors import CutShort
from sae_sweep.evaluate import Source
from sae_sweep.records import Outcome, Row, Status
from sae_sweep.records.store import ClaimLost, Store
from sae_sweep.remote import remote_of
from sae_sweep.tune.channel import (
    Claimed,
    Item,
    Job,
    NotEvaluated,
    Orders,
    Returned,
    Room,
    Started,
)
from sae_sweep.tune.plan import ShapeKey, cohort_size, fair_share, shape_key, size_in_memory
from sae_sweep.tune.stopping import Stopping, ended
from sae_sweep.tune.trial_folder import in_the_way
from sae_sweep.tune.trials import Trials
from sae_sweep.tune.watching import Supply, Watcher

DEATHS_TOGETHER = 2
"""After this many deaths of the process around it, a trial is retried alone; then it fails."""

TOGETHER = 4
"""Trials of a search that a slot with room for more trains together, where neither search.at_once
nor executor.cohort says: the more at once, the less each can learn from the others."""

POLL_SECONDS = 2.0
"""Seconds between checks of trials held by another driver."""


class Extracted(NamedTuple):
    """Extracted activations by fingerprint, as slots need them."""

    bounded: Mapping[str, Sequence[Wanted]]
    """The sources whose shards a cache bounds, each followed by those that the same pass of the
    model can serve."""
    evaluated: Mapping[str, Source]
    """Those whose SAEs are measured inside the model."""
    probed: Mapping[str, int]
    """Those whose rows have labels, and how many validation documents probes of them take."""


class SlotRecord:
    """A running slot: its trials and pending orders."""

    def __init__(self, key: ShapeKey, capacity: int, *, alone: bool) -> None:
        self.key = key
        self.capacity = capacity
        self.alone = alone
        """Whether it gets no further trial: it isolates the one that kills its process."""
        self.begun = False
        self.residents: dict[str, Trial] = {}
        self.orders = Orders([], [])

    def give(self, trial: Trial, number: int) -> None:
        """Order the slot to take a trial up, under the claim with this number."""
        self.residents[trial.uid] = trial
        self.orders.add.append(Claimed(trial, number))


class Driver:
    """Decides what runs next and records the outcomes."""

    def __init__(
        self,
        store: Store,
        run: int,
        outputs: Path,
        config: RunConfig,
        watchers: Sequence[Watcher],
        extracted: Extracted | None = None,
    ) -> None:
        """Begin with an empty queue.

        Args:
            store: where all is recorded.
            run: number of this start of the sweep.
            outputs: folder of all outputs.
            config: the sweep's settings.
            watchers: who else is to hear of it.
            extracted: what slots are to know of the activations.
        """
        executor = config.executor
        self.slots = executor.slots or 1
        self.threads = executor.threads
        self._limit = executor.cohort
        self._keep_weights = config.store.weights != "none"
        self._store = store
        self._run = run
        self._trials = Trials(outputs)
        self._activations_root = outputs / "activations"
        remote = remote_of(outputs)
        self._remote = None if remote is None else remote.url
        self._watchers = list(watchers)
        extracted = extracted or Extracted({}, {}, {})
        self.bounded, self._evaluated, self._probed = extracted
        self._stopping = Stopping(store, run, config)
        self._ended_before = partial(ended, config=config, states=store.states)
        self._supply: Supply | None = None
        self._together = config.search.at_once
        self._queues: dict[ShapeKey, deque[Trial]] = {}
        self._numbers: dict[str, int] = {}
        """Of the claims under which trials are held, by uid."""
        self._alone: deque[Trial] = deque()
        self._held: dict[str, Trial] = {}
        self._polled = 0.0
        self._deaths: Counter[str] = Counter()
        self._running: dict[int, SlotRecord] = {}
        self._next_slot = 0
        self._interrupt = threading.Event()
        self.trouble: str | None = None
        """Why no trial can continue, if so."""
        self.lost: str | None = None
        """Why another driver has taken over, if so: nothing more is written."""

    # -- what is to be done --------------------------------------------------------------------

    def add(self, trials: Iterable[Trial]) -> None:
        """Queue trials, the longest first; those that another living driver holds are waited for.

        A long one that began last would leave all other slots idle while it trains.
        """
        wanted = {trial.uid: trial for trial in sorted(trials, key=lambda trial: -trial.work)}
        with self._fenced():
            mine = self._claim(wanted)
            for uid, trial in wanted.items():
                if uid in mine:
                    self._enqueue(trial)
                else:
                    self._held[uid] = trial

    def _claim(self, uids: Iterable[str]) -> set[str]:
        """Claim trials; returns those that are this driver's now."""
        mine = self._store.claim(self._run, uids)
        self._numbers |= mine
        return set(mine)

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """Write to the store; stop and remember it if another driver has taken over."""
        try:
            yield
        except ClaimLost as error:
            self.lost = self.lost or str(error)

    def take_from(self, supply: Supply) -> None:
        """Ask the supply for trials whenever fewer are running than may."""
        self._supply = supply
        self._watchers.append(supply)

    def _replenish(self) -> None:
        if not self._more or self._supply is None or self.leaving:
            return
        capacities = [slot.capacity for slot in self._running.values()]
        a_slot = self._limit or min(TOGETHER, max(capacities, default=1))
        waiting = sum(map(len, self._queues.values())) + len(self._alone) + len(self._held)
        under_way = waiting + sum(len(slot.residents) for slot in self._running.values())
        room = (self._together or self.slots * a_slot) - under_way
        if room > 0:
            self.add(self._supply.ask(room))

    @property
    def _more(self) -> bool:
        """Whether the supply may still name trials."""
        return not (self._supply is None or self._supply.exhausted or self._stopping.closed)

    def _enqueue(self, trial: Trial) -> None:
        self._queues.setdefault(shape_key(trial), deque()).append(trial)

    def _withdraw(self) -> None:
        """End queued trials that may not train any more."""
        for queue in (*self._queues.values(), self._alone):
            for trial in list(queue):
                if (refused := self._stopping.refusal(trial.uid)) is not None:
                    queue.remove(trial)
                    self._ended(trial, refused)

    @property
    def finished(self) -> bool:
        """Whether no slot runs and none is to be started."""
        with self._fenced():
            self._poll_held()
        waiting = any(self._queues.values()) or self._alone or self._held
        return not self._running and (self.leaving or not (waiting or self._more))

    @property
    def interrupted(self) -> bool:
        """Whether the sweep was asked to stop."""
        return self._interrupt.is_set()

    @property
    def leaving(self) -> bool:
        """Whether nothing new is to be started."""
        return self.interrupted or self.lost is not None

    @property
    def open_slots(self) -> list[int]:
        """Numbers of the slots that run."""
        return list(self._running)

    def interrupt(self) -> None:
        """Ask every slot to checkpoint and stop; safe to call from a signal handler."""
        self._interrupt.set()

    def _poll_held(self) -> None:
        """Check trials held by other drivers: take them over, or record their end."""
        if self.lost or not self._held or time.monotonic() - self._polled < POLL_SECONDS:
            return
        self._polled = time.monotonic()
        known = self._store.trials(list(self._held))
        over = self._ended_before(known.values())
        for uid in list(self._held):
            if uid not in known:  # somebody has told the store to forget it
                del self._held[uid]
            elif uid in over:
                trial = self._held.pop(uid)
                for watcher in self._watchers:
                    watcher.ended(trial, known[uid].outcome)
        for uid in self._claim(list(self._held)):
            self._enqueue(self._held.pop(uid))

    def next_job(self) -> Job | None:
        """A slot to start now, or None when none is free or nothing waits."""
        if self.leaving or len(self._running) >= self.slots:
            return None
        slot: SlotRecord | None = None
        with self._fenced():
            self._poll_held()
            self._replenish()
            self._withdraw()
            slot = self._next_slot_record()
        if slot is None or self.lost:
            return None
        number = self._next_slot
        self._next_slot += 1
        self._running[number] = slot
        folder = self._activations_root / slot.key.activations
        slot.begun = True
        bounded = self.bounded.get(slot.key.activations, ())
        evaluated = self._evaluated.get(slot.key.activations)
        job = Job(number, folder, self._trials.root, self.threads, bounded, evaluated)
        documents = self._probed.get(slot.key.activations, 0)
        return job._replace(probe_documents=documents, remote=self._remote)

    def _next_slot_record(self) -> SlotRecord | None:
        """A slot with its first trials."""
        if self._alone:
            first = self._alone.popleft()
            self._stopping.begin(first.uid)
            slot = SlotRecord(shape_key(first), 1, alone=True)
            slot.give(first, self._numbers[first.uid])
            return slot
        waiting = {key: queue[0] for key, queue in self._queues.items() if queue}
        if not waiting:
            return None
        key = max(waiting, key=lambda key: waiting[key].work)
        free = self.slots - len(self._running)
        size = cohort_size(len(self._queues[key]), free, self._limit)
        if key.activations in self.bounded:
            size = size_in_memory(self._queues[key], free, self._limit)
        slot = SlotRecord(key, size, alone=False)
        self._fill(slot)
        return slot

    def _fill(self, slot: SlotRecord) -> None:
        """Give a slot as many trials as it has room for, in queue order."""
        if slot.alone or self.leaving:
            return
        if slot.begun and slot.key.activations in self.bounded:
            return  # who joins late would have the first windows computed again
        queue = self._queues.get(slot.key, ())
        alike = [one.residents for one in self._running.values() if one.key == slot.key]
        share = fair_share(len(queue) + sum(map(len, alike)), self.slots)
        while queue and len(slot.residents) < min(slot.capacity, share):
            if self._stopping.refusal(queue[0].uid) is not None:
                return  # it ends when the queue is next looked through
            self._stopping.begin(queue[0].uid)
            trial = queue.popleft()
            slot.give(trial, self._numbers[trial.uid])

    # -- what a slot says ----------------------------------------------------------------------

    def push(self, number: int, items: list[Item]) -> None:
        """Record what a slot reports and prepare its next orders."""
        with self._fenced():
            self._record(self._running[number], items)

    def _record(self, slot: SlotRecord, items: list[Item]) -> None:
        items = self._stopping.read(items, slot.residents)
        self._store.rows(self._run, [item for item in items if isinstance(item, Row)])
        for item in items:
            self._take_note(slot, item)
        for one in self._running.values():
            one.orders.stop.extend(self._stopping.to_stop(one.residents))
        self._replenish()
        self._withdraw()
        self._fill(slot)

    def _give_up(self, reason: str) -> None:
        """End the sweep: no trial can go on."""
        self.trouble = self.trouble or reason
        self.interrupt()

    def _take_note(self, slot: SlotRecord, item: Item) -> None:
        match item:
            case Started():
                self._store.running(self._run, item.uid, item.place)
                for watcher in self._watchers:
                    watcher.started(slot.residents[item.uid], item.step)
            case Row():
                for watcher in self._watchers:
                    watcher.reported(item)
            case Outcome():
                if item.status == "interrupted" and not self.interrupted:
                    # nobody told it to leave: what it lacks, the others lack too
                    words = item.error or ""
                    remote = f"outputs={self._remote} " in words  # which says the way out itself
                    self._give_up(words if remote else f"{words}: make room there")
                self._ended(slot.residents[item.uid], item)
                del slot.residents[item.uid]
            case Room():
                slot.capacity = item.members
            case NotEvaluated():
                self._store.event(self._run, "not_evaluated", f"{item.uid}: {item.reason}")
            case Returned():
                self._store.event(self._run, "no_room", f"{item.uid}: {item.reason}")
                trial = slot.residents.pop(item.uid)
                self._queues.setdefault(shape_key(trial), deque()).appendleft(trial)

    def pull(self, number: int) -> Orders:
        """Hand a slot its orders; one left without trials is finished."""
        slot = self._running[number]
        with self._fenced():
            self._store.confirm(self._run)
        if self.lost:
            slot.residents.clear()
            return Orders([], [], drop=True)
        if self.interrupted:
            never_begun = [one.trial for one in slot.orders.add]
            for trial in never_begun:
                del slot.residents[trial.uid]
                self._enqueue(trial)
            slot.orders = Orders(list(slot.residents), [])
        orders, slot.orders = slot.orders, Orders([], [])
        return orders

    def _ended(self, trial: Trial, outcome: Outcome) -> None:
        number = self._store.outcome(self._run, outcome)
        keep_weights = self._keep_weights
        try:
            self._trials.settle(trial.folder, number, outcome.status, keep_weights=keep_weights)
        except OSError as error:
            self._give_up(in_the_way(self._trials.root / trial.folder, error))
        except CutShort as error:
            self._give_up(str(error))
        for watcher in self._watchers:
            watcher.ended(trial, outcome)

    def left(self, number: int) -> None:
        """A slot has ended normally."""
        for trial in self._running.pop(number).residents.values():
            self._enqueue(trial)

    def died(self, number: int, reason: str, *, out_of_memory: bool = False) -> None:
        """A slot's process has died: retry its trials, the second time alone, then give up.

        It may only be cut off: under new claims nothing that it still writes counts.
        """
        slot = self._running.pop(number)
        with self._fenced():
            self._store.event(self._run, "slot_died", reason)
            self._claim(slot.residents)
            self._retry(slot, reason, out_of_memory=out_of_memory)

    def _retry(self, slot: SlotRecord, reason: str, *, out_of_memory: bool) -> None:
        for trial in slot.residents.values():
            self._deaths[trial.uid] += 1
            if slot.alone:
                status: Status = "oom" if out_of_memory else "failed"
                self._ended(trial, Outcome(trial.uid, status, 0, {}, reason))
            elif self._deaths[trial.uid] < DEATHS_TOGETHER:
                self._enqueue(trial)
            else:
                self._alone.append(trial)
