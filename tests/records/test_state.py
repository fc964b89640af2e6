"""What a run keeps by name, and the members that a search adds while it runs."""

from sae_sweep.records import Outcome, TrialRecord
from sae_sweep.records.store import Reader, Store

RUN = {"question": "?", "config": {}, "command": "c", "git": None, "versions": {}}


CONFIG = {"activations": {}, "sae": {"k": 4}, "train": {}}


def make_trial(uid: str) -> TrialRecord:
    return TrialRecord(uid, "exp2_k4", "queued", CONFIG)


def test_the_latest_run_that_kept_a_value_answers_for_its_sweep(store_url) -> None:
    with Store(store_url) as store:
        first, second, other = (store.start_run(name, **RUN) for name in ("s", "t", "u"))
        assert store.kept("s", "search") is None
        store.keep(first, "search", {"target": 0.05})
        store.finish_run(first)
        third = store.start_run("s", **RUN)
        store.keep(second, "search", {"target": 0.5})
        assert store.kept("s", "search") == (first, {"target": 0.05})
        store.keep(third, "search", {"target": 0.1})
        store.keep(third, "search", {"target": 0.2})
        store.keep(third, "rungs", [1, 2])
        assert store.kept("s", "search") == (third, {"target": 0.2})
        assert store.kept("u", "search") is None
    with Reader(store_url) as reader:
        assert reader.state(third, "rungs") == [1, 2]
        assert reader.state(other, "rungs") is None


def test_members_that_come_later_stand_behind_the_others(store_url) -> None:
    with Store(store_url) as store:
        run = store.start_run("s", **RUN)
        store.enlist(run, [(make_trial("b" * 12), {"sae.k": 1})])
        store.enlist(run, [(make_trial("a" * 12), {"sae.k": 0})], first=1)
        assert [one.assignment["sae.k"] for one in store.members(run)] == [1, 0]
    with Reader(store_url) as reader:
        assert [member.trial.uid[0] for member in reader.sweep("s").members] == ["b", "a"]
        assert [record.uid[0] for record in reader.all_trials()] == ["b", "a"]


def test_a_record_says_how_its_trial_ended(store_url) -> None:
    with Store(store_url) as store:
        run = store.start_run("s", **RUN)
        store.enlist(run, [(make_trial("a" * 12), {})])
        store.claim(run, ["a" * 12])
        ended = Outcome("a" * 12, "done", 0, {"fvu": 0.5}, None, 2.0)
        store.outcome(run, ended)
        assert store.trials(["a" * 12])["a" * 12].outcome == ended
