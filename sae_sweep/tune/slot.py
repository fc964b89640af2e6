"""The loop of one slot: advance its trials until the driver has no more."""

import time
from pathlib import Path

import torch

from sae_sweep import evaluate
from sae_sweep.activations import Cache, open_activations
from sae_sweep.config import Trial
from sae_sweep.errors import BadInput, BadRows, CutShort, lacks_room
from sae_sweep.inputs import edge
from sae_sweep.kernels.fused.memory import packed_memory
from sae_sweep.records import Outcome, Status
from sae_sweep.sae import load
from sae_sweep.train import Engine, NoRoom, checkpoint
from sae_sweep.tune.channel import Channel, Item, Job, NotEvaluated, Orders, Returned, Room, Started
from sae_sweep.tune.environment import place
from sae_sweep.tune.sizing import TIMED_SECONDS, TIMED_STEPS, Observed, Sizing
from sae_sweep.tune.trials import Trials

SECONDS_BETWEEN_PULLS = 0.5
"""Seconds between a slot's requests for orders."""

SECONDS_BETWEEN_CHECKPOINTS = 15.0
"""Default where train.checkpoint_every is not set: the training time that a killed process
loses."""

CHECKPOINT_SHARE = 0.05
"""Of a slot's time, at most, unless train.checkpoint_every says: large trials are saved less often
than every `SECONDS_BETWEEN_CHECKPOINTS`."""


def train_slot(job: Job, channel: Channel) -> None:
    """Train the driver's trials, report and checkpoint until it orders to stop."""
    slot = _SlotEngine(job.here())
    try:
        _train(slot, channel)
    finally:
        slot.close()


def _train(slot: "_SlotEngine", channel: Channel) -> None:
    steps = 1
    while True:
        orders = channel.pull()
        if orders.drop:
            return
        items = slot.obey(orders)
        if items:
            channel.push(items)
        if not slot.engine.uids:
            if not items:
                return
            continue  # what was ordered has ended at once: there may be more
        most = _steps_at_hand(slot, channel)
        if not most:
            continue  # look for orders meanwhile
        steps = min(steps, most)
        began, members = time.monotonic(), slot.engine.uids
        results = slot.advance(steps)
        elapsed = max(time.monotonic() - began, 1e-6)
        if members == slot.engine.uids:  # nobody ended on the way
            results += slot.resize(steps)
        steps = max(1, min(4 * steps, round(steps * SECONDS_BETWEEN_PULLS / elapsed)))
        results += slot.save_due()
        if results:
            channel.push(results)


def _steps_at_hand(slot: "_SlotEngine", channel: Channel) -> int:
    """Updates that all trials can make; 0 while rows are on their way, or cannot be trained on."""
    failures: list[Item] = []
    try:
        most = slot.steps_at_hand()
        if not most:
            failures = slot.save_due()
    except BadRows as error:
        most, failures = 0, slot.fail(error)
    if failures:
        channel.push(failures)
    return most


class _SlotEngine:
    """An engine, and when each of its trials was last saved."""

    def __init__(self, job: Job) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        outputs = job.trials.parent
        cache = Cache(job.bounded, outputs) if job.bounded else None
        self._activations = open_activations(job.activations, cache)
        self.engine = Engine(self._activations, job.trials, device, job.threads)
        self._device = device
        self._evaluator = evaluate.Evaluator(job.evaluated) if job.evaluated else None
        self._prober: evaluate.Prober | None = None
        if job.probe_documents:
            self._prober = evaluate.Prober(self._activations, job.probe_documents, device)
        self._places = Trials(outputs)
        self._job = job
        self._sizing: Sizing | None = None
        self._timed_for: tuple[str, ...] = ()
        self._timed_from, self._timed_steps = 0.0, 0
        self._here = place(device, job.threads)
        self._trials: dict[str, Trial] = {}
        self._folders: dict[str, Path] = {}
        self._saved: dict[str, tuple[int, float]] = {}
        self._cost: dict[str, float] = {}
        """Seconds that each trial's last checkpoint took."""

    def obey(self, orders: Orders) -> list[Item]:
        """Release and start trials as ordered; returns the items to report."""
        items: list[Item] = []
        for uid in set(orders.stop) & set(self.engine.uids):
            failure = self._save(uid)
            step, seconds = self.engine.step(uid), self.engine.seconds(uid)
            left = Outcome(uid, "interrupted", step, {}, f"stopped after step {step}", seconds)
            items.append(failure or left)
            if failure is None:
                self.engine.remove(uid)
                self._places.release(self._folders[uid])
        for trial, number in orders.add:
            try:
                folder = self._places.take_over(trial.folder, number)
                state = checkpoint.load(folder, trial.uid)
            except (BadInput, OSError) as error:  # something is in its way: its own misfortune
                items.append(self._not_begun(trial, error))
                continue
            self._folders[trial.uid] = folder
            self.engine.add(trial, state, folder)
            step = self.engine.step(trial.uid)
            self._trials[trial.uid] = trial
            self._saved[trial.uid] = (step, time.monotonic())
            items.append(Started(trial.uid, step, self._here))
        return items

    def advance(self, steps: int) -> list[Item]:
        """Train; a trial without room goes back to the driver with the new limit."""
        items: list[Item] = []
        full = False
        for event in self.engine.advance(steps):
            if isinstance(event, NoRoom):
                full = True
                items.append(self._returned(event))
            elif isinstance(event, Outcome):
                items += self._ended(event)
            else:
                items.append(event)
        if full:
            items.append(Room(self._sizing_of().limit(max(1, len(self.engine.uids)))))
        return items

    def _ended(self, ended: Outcome) -> list[Item]:
        """Evaluate and hand in a finished trial's results; free those of any other."""
        folder = self._folders[ended.uid]
        items: list[Item] = [ended]
        if ended.status == "done":
            items = self._evaluated(ended)
            try:
                self._places.hand_in(folder)
            except (CutShort, OSError) as error:
                items = [ended._replace(status="interrupted", final={}, error=str(error))]
        self._places.release(folder)
        return items

    def _evaluated(self, done: Outcome) -> list[Item]:
        """Run the evaluations beyond reconstruction; the weights are on disk already."""
        if self._evaluator is None and self._prober is None:
            return [done]
        items: list[Item] = []
        began, folder = time.monotonic(), self._folders[done.uid]
        metrics: dict[str, float] = {}
        try:
            if self._evaluator is not None:
                with edge("the model with the SAE in it", "free some memory", "cannot be run"):
                    if self._job.remote is not None and self._job.evaluated is not None:
                        evaluate.prepare(self._job.evaluated)  # the driver did in its own mirror
                    metrics |= self._evaluator.metrics(load(folder))
        except BadInput as error:  # the trial is done all the same
            items.append(NotEvaluated(done.uid, str(error)))
        try:
            if self._prober is not None:
                with edge("probes of the rows' labels", "free some memory", "cannot be made"):
                    metrics |= self._prober.metrics(load(folder), folder)
        except BadInput as error:
            items.append(NotEvaluated(done.uid, str(error)))
        seconds = done.seconds + time.monotonic() - began
        return [*items, done._replace(final=done.final | metrics, seconds=seconds)]

    def _returned(self, left: NoRoom) -> Item:
        """Checkpoint a trial that is returned; one whose folder cannot be written fails alone."""
        if left.state is not None:
            try:
                self._places.save(self._folders[left.uid], left.uid, left.state)
            except (OSError, CutShort) as error:
                step = left.state.step
                return Outcome(left.uid, _status(error), step, {}, f"its checkpoint: {error}")
        self._places.release(self._folders[left.uid])
        return Returned(left.uid, left.reason)

    def steps_at_hand(self) -> int:
        """Updates that every trial can make with rows that are there; 0: some are on their way."""
        spans, batch_size = [], 0
        for uid in self.engine.uids:
            step, batch_size = self.engine.step(uid), self._trials[uid].train.batch_size
            spans.append((step * batch_size, (step + 1) * batch_size))
        return self._activations.reach(spans) // batch_size

    def fail(self, error: BadRows) -> list[Item]:
        """End all trials because of the rows that they come to next."""
        items: list[Item] = []
        for uid in self.engine.uids:
            step, seconds = self.engine.step(uid), self.engine.seconds(uid)
            self.engine.remove(uid)
            items += self._ended(Outcome(uid, "failed", step, {}, str(error), seconds))
        return items

    def close(self) -> None:
        """Release the rows."""
        self._activations.close()

    def _not_begun(self, trial: Trial, error: Exception) -> Outcome:
        if lacks_room(error):
            return Outcome(
                trial.uid, "interrupted", 0, {}, f"no room in {self._job.trials} ({error})"
            )
        words = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        return Outcome(trial.uid, _status(error), 0, {}, words)

    def resize(self, steps: int) -> list[Item]:
        """Tune the number of trials on a GPU; reports a new number to the driver."""
        uids = self.engine.uids
        fused = self._trials[uids[0]].train.kernels == "fused"
        if self._device.type != "cuda" or not fused or self._sizing_of().settled:
            return []
        now = time.monotonic()  # `advance` has waited for the device
        if self._timed_for != uids:  # the first steps with these compile and record
            self._timed_for, self._timed_from, self._timed_steps = uids, now, 0
            torch.cuda.reset_peak_memory_stats(self._device)
            return []
        self._timed_steps += steps
        seconds = now - self._timed_from
        if self._timed_steps < TIMED_STEPS or seconds < TIMED_SECONDS:
            return []
        sizing = self._sizing_of()
        before = sizing.members
        peak = torch.cuda.max_memory_reserved(self._device)
        after = sizing.observe(Observed(len(uids), seconds / self._timed_steps, peak))
        self._timed_for = ()
        return [Room(after)] if after != before else []

    def _sizing_of(self) -> Sizing:
        if self._sizing is None:
            largest = max(map(packed_memory, self._trials.values()), key=lambda each: each.total)
            total = 0
            if self._device.type == "cuda":
                total = torch.cuda.get_device_properties(self._device).total_memory
            self._sizing = Sizing(largest, total)
        return self._sizing

    def save_due(self) -> list[Item]:
        """Write the checkpoints that are due; returns the trials that this ended."""
        failures: list[Item] = []
        for uid in self.engine.uids:
            step, at = self._saved[uid]
            every = self._trials[uid].train.checkpoint_every
            if every is not None:
                due = self.engine.step(uid) - step >= every
            else:
                due = time.monotonic() - at >= self._seconds_between()
            if due and (failure := self._save(uid)) is not None:
                failures.append(failure)
        return failures

    def _seconds_between(self) -> float:
        """How long to train from one checkpoint of a trial to its next."""
        uids = self.engine.uids
        all_of_them = sum(self._cost.get(uid, 0.0) for uid in uids)
        return max(SECONDS_BETWEEN_CHECKPOINTS, all_of_them / CHECKPOINT_SHARE)

    def _save(self, uid: str) -> Outcome | None:
        """Checkpoint a trial; one whose folder cannot be written fails alone."""
        began = time.monotonic()
        folder = self._folders[uid]
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder} is gone")
            self._places.save(folder, uid, self.engine.state(uid))
        except (OSError, CutShort) as error:
            step, seconds = self.engine.step(uid), self.engine.seconds(uid)
            ended = Outcome(uid, _status(error), step, {}, f"its checkpoint: {error}", seconds)
            if lacks_room(error):
                ended = self.engine.without_room(uid, error)
            self.engine.remove(uid)
            return ended
        self._saved[uid] = (self.engine.step(uid), time.monotonic())
        self._cost[uid] = time.monotonic() - began
        return None


def _status(error: Exception) -> Status:
    """Status of a trial that cannot be saved: interrupted where a shared resource ran out."""
    return "interrupted" if lacks_room(error) or isinstance(error, CutShort) else "failed"
