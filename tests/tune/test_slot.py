"""A slot: what it tells the driver, and when it saves its trials."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_sweep.config import Source, TopKConfig, TrainConfig, Trial
from sae_sweep.errors import BadRows
from sae_sweep.kernels.fused.memory import Memory
from sae_sweep.records import Outcome
from sae_sweep.train import NoRoom, State, checkpoint
from sae_sweep.tune import slot
from sae_sweep.tune.channel import Claimed, Item, Job, Orders, Returned, Room
from sae_sweep.tune.sizing import TIMED_SECONDS, TIMED_STEPS, Sizing


def make_trial(name: str) -> Trial:
    sae, train = TopKConfig(n_latents=8, k=2), TrainConfig(steps=10, batch_size=8)
    return Trial(name * 12, name, Source("f" * 12, 4, 1000, {}), sae, train)


class Engine:
    """Holds one trial; the others leave at the first step, the last after it has trained."""

    def __init__(self, *_: object) -> None:
        self.uids: tuple[str, ...] = ()

    def add(self, trial: Trial, state: State | None, folder: Path) -> None:
        self.uids += (trial.uid,)

    def step(self, uid: str) -> int:
        return 5

    def seconds(self, uid: str) -> float:
        return 1.0

    def state(self, uid: str) -> State:
        return State({"x": torch.zeros(3)}, {"step": 5, "seconds": 1.0})

    def remove(self, uid: str) -> None:
        self.uids = tuple(other for other in self.uids if other != uid)

    def advance(self, steps: int) -> list[NoRoom]:
        left, self.uids = self.uids[1:], self.uids[:1]
        return [NoRoom(uid, self.state(uid) if uid == left[-1] else None, "full") for uid in left]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> slot._SlotEngine:
    monkeypatch.setattr(slot, "Engine", Engine)
    monkeypatch.setattr(slot, "open_activations", lambda *_: None)
    made = slot._SlotEngine(Job(0, tmp_path, tmp_path, 1))
    made.obey(Orders([], [Claimed(make_trial(name), 1) for name in "abc"]))
    return made


def test_trials_without_room_go_back_and_the_room_is_what_is_left(train) -> None:
    items = train.advance(1)
    assert items == [Returned("b" * 12, "full"), Returned("c" * 12, "full"), Room(1)]
    saved = checkpoint.load(train._folders["c" * 12], "c" * 12)
    assert saved is not None
    assert saved.step == 5
    assert checkpoint.load(train._folders["b" * 12], "b" * 12) is None


def test_one_whose_state_cannot_be_written_fails_alone(train, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(checkpoint, "save", broken)
    returned, failed, room = train.advance(1)
    assert (returned, room) == (Returned("b" * 12, "full"), Room(1))
    assert failed == Outcome("c" * 12, "failed", 5, {}, "its checkpoint: read-only")


def test_checkpoints_take_a_twentieth_of_the_time_however_large(train, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(slot.time, "monotonic", lambda: clock[0])
    saved = []

    def slowly(folder: Path, uid: str, state: State) -> None:
        clock[0] += 2.0
        saved.append(uid[0])

    monkeypatch.setattr(checkpoint, "save", slowly)
    for uid in train.engine.uids:
        train._saved[uid] = (0, 0.0)
    while clock[0] < 1000:
        clock[0] += 1.0
        train.save_due()
    assert saved[:6] == list("abcabc")
    # each takes 2 s, so together they take a twentieth of 1000 s, beside the first three
    assert 20 <= len(saved) <= 28


class Device:
    """Stands for a GPU with memory enough, and tells the time."""

    type = "cuda"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 0.0
        monkeypatch.setattr(slot.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 10)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> slot._SlotEngine:
    monkeypatch.setattr(slot, "Engine", Engine)
    monkeypatch.setattr(slot, "open_activations", lambda *_: None)
    made = slot._SlotEngine(Job(0, tmp_path, tmp_path, 1))
    made._device = Device(monkeypatch)  # type: ignore[assignment]
    made._sizing = Sizing(Memory(table=1, module=1, step=1, joining=1), 10**6)
    join(made, "a")
    return made


def join(made: slot._SlotEngine, *names: str) -> None:
    fused = TrainConfig(steps=10, batch_size=8, kernels="fused")
    trials = [replace(make_trial(name), train=fused) for name in names]
    made.obey(Orders([], [Claimed(trial, 1) for trial in trials]))


def timed(made: slot._SlotEngine, seconds: float) -> list[Item]:
    """What a slot says of its room after steps that compile, and steps that are timed."""
    assert made.resize(TIMED_STEPS) == []
    made._device.clock += seconds * (TIMED_STEPS - 1)  # type: ignore[attr-defined]
    assert made.resize(TIMED_STEPS - 1) == []  # too few of them yet
    made._device.clock += seconds  # type: ignore[attr-defined]
    return made.resize(1)


def test_a_slot_on_a_gpu_doubles_its_trials_while_their_steps_take_less(on_gpu) -> None:
    assert timed(on_gpu, 1.0) == [Room(2)]
    join(on_gpu, "b")
    assert timed(on_gpu, 1.2) == [Room(4)]
    join(on_gpu, "c", "d")
    assert timed(on_gpu, 2.5) == [Room(2)]
    assert on_gpu.resize(TIMED_STEPS) == []  # the number is final


def test_a_slot_does_not_time_steps_across_a_change_of_company(on_gpu) -> None:
    on_gpu.resize(TIMED_STEPS)
    on_gpu._device.clock += 100.0
    join(on_gpu, "b")
    assert on_gpu.resize(TIMED_STEPS) == []
    on_gpu._device.clock += 0.5 * TIMED_SECONDS
    assert on_gpu.resize(TIMED_STEPS) == []  # too short a time to go by


def test_rows_that_cannot_be_trained_on_end_all_trials_of_the_slot(train) -> None:
    items = train.fail(BadRows("row 7 holds NaN"))
    assert items == [
        Outcome(name * 12, "failed", 5, {}, "row 7 holds NaN", seconds=1.0) for name in "abc"
    ]
    assert not train.engine.uids
