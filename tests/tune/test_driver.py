"""The driver: queue, retries, pruning and records, without any executor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_sweep.config import RunConfig, Source, TopKConfig, TrainConfig, Trial
from sae_sweep.records import Outcome, Place, Row, TrialRecord
from sae_sweep.records.store import Reader, Store
from sae_sweep.tune.channel import Orders, Returned, Room, Started
from sae_sweep.tune.driver import Driver

HERE = Place("host", "cpu (x)", 1, None, {})


class Silent:
    def started(self, trial, step) -> None: ...
    def reported(self, row) -> None: ...
    def ended(self, trial, outcome) -> None: ...


def settings(**executor) -> RunConfig:
    activations = {"synthetic": {}, "d": 4}
    return RunConfig(activations=activations, executor=executor)


def make_trial(name: str, batch_size: int = 8, n_latents: int = 8) -> Trial:
    source = Source("f" * 12, 4, 1000, {})
    sae = TopKConfig(n_latents=n_latents, k=2)
    return Trial(name * 12, name, source, sae, TrainConfig(steps=10, batch_size=batch_size))


class Case:
    """A driver with trials a, b, c, ... in its queue."""

    def __init__(self, folder: Path, names: str, **executor) -> None:
        self.trials = {name: make_trial(name) for name in names}
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        fields = {"question": "", "config": {}, "command": "", "git": None, "versions": {}}
        run = self.store.start_run("s", **fields)
        members = [TrialRecord(t.uid, t.label, "queued", t.record) for t in self.trials.values()]
        self.store.enlist(run, [(member, {}) for member in members])
        self.driver = Driver(self.store, run, folder, settings(**executor), [Silent()])
        self.driver.add(self.trials.values())

    def status(self) -> dict[str, str]:
        found = self.store.trials([trial.uid for trial in self.trials.values()])
        return {record.label: record.status for record in found.values()}

    def added(self, slot: int) -> str:
        return "".join(one.trial.label for one in self.driver.pull(slot).add)

    def done(self, slot: int, name: str) -> None:
        self.driver.push(slot, [Outcome(name * 12, "done", 10, {"fvu": 0.5})])


@pytest.fixture
def case(tmp_path) -> Iterator[type]:
    cases = []

    def make(names: str, **executor) -> Case:
        cases.append(Case(tmp_path, names, **executor))
        return cases[-1]

    yield make
    for one in cases:
        one.store.close()


def test_a_freed_place_is_refilled_at_once(case) -> None:
    one = case("abc", slots=1)
    slot = one.driver.next_job().slot
    assert one.driver.next_job() is None
    assert one.added(slot) == "a"
    one.done(slot, "a")
    assert one.added(slot) == "b"
    one.done(slot, "b")
    assert one.added(slot) == "c"
    one.done(slot, "c")
    assert one.driver.pull(slot) == Orders([], [])
    one.driver.left(slot)
    assert one.driver.finished
    assert one.status() == {"a": "done", "b": "done", "c": "done"}


def test_the_longest_trials_begin_first_whatever_they_share(case) -> None:
    one = case("", slots=1)
    sizes = {"a": (8, 8), "b": (16, 8), "c": (8, 64), "d": (16, 16), "e": (8, 64)}
    trials = [make_trial(name, *size) for name, size in sizes.items()]
    records = [TrialRecord(t.uid, t.label, "queued", t.record) for t in trials]
    one.store.enlist(1, [(record, {}) for record in records])
    one.driver.add(trials)
    begun = ""
    while (job := one.driver.next_job()) is not None:
        while added := one.added(job.slot):
            begun += added
            one.done(job.slot, added)
        one.driver.left(job.slot)
    # a slot goes on with trials like its own: all with batches of 8, then all of 16
    assert begun == "ceadb"


def test_trials_are_spread_over_the_slots_first(case) -> None:
    one = case("abcd", slots=2, cohort=8)
    slots = [one.driver.next_job().slot for _ in range(2)]
    assert [one.added(slot) for slot in slots] == ["ab", "cd"]


def test_a_cohort_holds_only_trials_that_can_share_a_program(case, tmp_path) -> None:
    one = case("a", slots=2, cohort=8)
    other = make_trial("b", batch_size=16)
    one.store.enlist(1, [(TrialRecord(other.uid, "b", "queued", other.record), {})])
    one.driver.add([other])
    slots = [one.driver.next_job().slot for _ in range(2)]
    assert [one.added(slot) for slot in slots] == ["b", "a"]  # the longer one first


def test_after_two_deaths_trials_run_alone_and_only_the_culprit_fails(case) -> None:
    one = case("ab", slots=1, cohort=2)
    for _ in range(2):
        slot = one.driver.next_job().slot
        assert one.added(slot) == "ab"
        one.driver.died(slot, "killed")
    slot = one.driver.next_job().slot
    assert one.added(slot) == "a"
    one.driver.died(slot, "killed")
    slot = one.driver.next_job().slot
    assert one.added(slot) == "b"
    one.done(slot, "b")
    assert one.added(slot) == ""
    one.driver.left(slot)
    assert one.driver.finished
    assert one.status() == {"a": "failed", "b": "done"}


def test_a_death_for_want_of_memory_is_called_so(case) -> None:
    one = case("a", slots=1)
    for _ in range(3):
        slot = one.driver.next_job().slot
        one.driver.died(slot, "OutOfMemoryError: the node is low on memory", out_of_memory=True)
    assert one.status() == {"a": "oom"}


def test_an_interrupt_stops_what_runs_and_starts_nothing(case) -> None:
    one = case("abc", slots=2)
    first, second = (one.driver.next_job().slot for _ in range(2))
    assert one.added(first) == "a"
    one.driver.interrupt()
    assert one.driver.pull(first).stop == ["a" * 12]
    assert one.driver.pull(second) == Orders([], [])
    assert one.driver.next_job() is None
    one.driver.push(first, [Outcome("a" * 12, "interrupted", 5, {})])
    assert one.driver.pull(first) == Orders([], [])
    one.driver.left(first)
    one.driver.left(second)
    assert one.driver.finished
    assert one.status()["a"] == "interrupted"


def test_a_trial_that_leaves_unasked_ends_the_sweep_with_its_reason(case) -> None:
    one = case("abc", slots=2)
    first, second = (one.driver.next_job().slot for _ in range(2))
    assert (one.added(first), one.added(second)) == ("a", "b")
    one.driver.push(first, [Outcome("a" * 12, "interrupted", 5, {}, "no room")])
    assert one.driver.trouble == "no room: make room there"
    assert one.driver.pull(second).stop == ["b" * 12]
    assert one.driver.next_job() is None
    one.driver.push(second, [Outcome("b" * 12, "interrupted", 5, {}, "no room either")])
    assert one.driver.trouble == "no room: make room there"
    assert one.status() == {"a": "interrupted", "b": "interrupted", "c": "queued"}


def test_what_a_slot_reports_is_recorded(case) -> None:
    one = case("a", slots=1)
    slot = one.driver.next_job().slot
    one.added(slot)
    one.driver.push(slot, [Started("a" * 12, 0, HERE), Row("a" * 12, 5, {"fvu": 0.7})])
    record = one.store.trials(["a" * 12])["a" * 12]
    assert (record.status, record.host) == ("running", "host")


class Endless(Silent):
    """A supply that always has another trial."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.exhausted = False
        self.told: list[str] = []

    def ask(self, n: int) -> list[Trial]:
        found = [make_trial("bcdefgh"[len(self.case.trials) - 1 + i]) for i in range(n)]
        self.case.trials |= {trial.label: trial for trial in found}
        members = [TrialRecord(t.uid, t.label, "queued", t.record) for t in found]
        self.case.store.enlist(1, [(member, {}) for member in members], 10)
        return found

    def ended(self, trial, outcome) -> None:
        self.told.append(trial.label)


def test_a_supply_is_told_before_it_is_asked_and_ends_the_sweep(case) -> None:
    one = case("a", slots=1)
    supply = Endless(one)
    one.driver.take_from(supply)
    slot = one.driver.next_job().slot
    assert one.added(slot) == "a"
    one.done(slot, "a")
    assert supply.told == ["a"]
    assert one.added(slot) == "b"
    supply.exhausted = True
    one.done(slot, "b")
    assert one.driver.pull(slot) == Orders([], [])
    one.driver.left(slot)
    assert one.driver.finished


def test_as_many_are_asked_for_as_there_are_slots_and_more_where_there_is_room(case) -> None:
    one = case("a", slots=2)
    one.driver.take_from(Endless(one))
    slots = [one.driver.next_job().slot for _ in range(2)]
    assert [one.added(slot) for slot in slots] == ["a", "b"]
    one.driver.push(slots[0], [Room(3)])
    assert set(one.trials) == set("abcdef")


def test_a_trial_of_another_living_driver_is_waited_for(case, monkeypatch) -> None:
    monkeypatch.setattr("sae_sweep.tune.driver.POLL_SECONDS", 0.0)
    one = case("a", slots=1)
    fields = {"question": "", "config": {}, "command": "", "git": None, "versions": {}}
    run = one.store.start_run("other", **fields)
    second = Driver(one.store, run, Path("unused"), settings(), [Silent()])
    second.add(one.trials.values())
    assert second.next_job() is None
    assert not second.finished
    slot = one.driver.next_job().slot
    one.added(slot)
    one.done(slot, "a")
    assert second.finished


def test_pruning_ends_a_trial_however_it_has_gone_on(tmp_path) -> None:
    warning = {"at_step": 1, "any": ["fvu > 0.9"]}
    stop = {"warnings": [warning]}
    config = RunConfig(activations={"synthetic": {}, "d": 4}, stop=stop)
    with Store(f"sqlite:///{tmp_path / 'sae_sweep.db'}") as store:
        fields = {"question": "", "config": {}, "command": "", "git": None, "versions": {}}
        run, trial = store.start_run("untitled", **fields), make_trial("a")
        store.enlist(run, [(TrialRecord(trial.uid, "a", "queued", trial.record), {})])
        driver = Driver(store, run, tmp_path, config, [Silent()])
        driver.add([trial])
        slot = driver.next_job().slot
        driver.pull(slot)
        driver.push(slot, [Started(trial.uid, 0, HERE), Row(trial.uid, 2, {"fvu": 0.95})])
        assert driver.pull(slot).stop == [trial.uid]
        late = [Row(trial.uid, 4, {"fvu": 0.1}), Outcome(trial.uid, "done", 10, {"fvu": 0.1})]
        driver.push(slot, late)
        record = store.trials([trial.uid])[trial.uid]
        assert (record.status, record.final) == ("stopped", {})
        assert record.error == "early warning: fvu 0.95 > 0.9"
        with Reader(f"sqlite:///{tmp_path / 'sae_sweep.db'}") as reader:
            assert reader.history([trial.uid], "fvu")[trial.uid][0].tolist() == [2]


def test_a_trial_without_room_waits_first_in_the_queue(case) -> None:
    one = case("abcd", slots=1, cohort=3)
    slot = one.driver.next_job().slot
    assert one.added(slot) == "abc"
    reason = "no room beside 2 trials on cuda:0 (OutOfMemoryError: CUDA out of memory)"
    one.driver.push(slot, [Returned("c" * 12, reason), Room(2)])
    assert one.added(slot) == ""
    one.done(slot, "a")
    assert one.added(slot) == "c"
    one.done(slot, "b")
    assert one.added(slot) == "d"
    one.done(slot, "c")
    one.done(slot, "d")
    assert one.added(slot) == ""
    assert set(one.status().values()) == {"done"}
