"""The copy for Optuna's dashboard: what it shows, and that it cannot harm a sweep."""

import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from sae_sweep.config import SearchConfig, Source, TopKConfig, TrainConfig, Trial
from sae_sweep.records import Outcome, Row, TrialRecord
from sae_sweep.search import read_objective
from sae_sweep.tune.expansion import Member
from sae_sweep.tune.optuna_mirror import OptunaMirror

FVU = read_objective(SearchConfig())


def make_member(name: str, **assignment) -> Member:
    sae = TopKConfig(n_latents=8, k=2)
    source = Source("f" * 12, 4, 1000, {})
    return Member(Trial(name * 12, name, source, sae, TrainConfig(steps=10)), assignment)


def mirrored(members: list[Member], path: Path, records=(), outcomes=(), objective=FVU) -> None:
    known = {record.uid: record for record in records}
    mirror = OptunaMirror("tiny", members, known, path, objective)
    trials = {member.trial.uid: member.trial for member in members}
    for outcome in outcomes:
        mirror.ended(trials[outcome.uid], outcome)
    mirror.close()


@contextmanager
def opened(path: Path) -> Iterator[optuna.Study]:
    creator = {"creator": lambda: sqlite3.connect(path)}
    storage = optuna.storages.RDBStorage("sqlite:///optuna.db", engine_kwargs=creator)
    yield optuna.load_study(study_name="tiny", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


def shown(path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the study, ordered by label."""
    with opened(path) as study:
        return sorted(study.trials, key=lambda trial: trial.user_attrs["label"])


def test_a_trial_is_shown_with_its_settings_course_and_metrics(tmp_path, capsys) -> None:
    member = make_member("a", **{"sae.k": 4})
    mirror = OptunaMirror(
        "tiny", [member, make_member("b", **{"sae.k": 8})], {}, tmp_path / "o.db", FVU
    )
    mirror.started(member.trial, 0)
    for step, fvu in [(5, 0.8), (7, math.nan), (10, 0.5)]:
        mirror.reported(Row(member.trial.uid, step, {"fvu": fvu}))
    mirror.ended(member.trial, Outcome(member.trial.uid, "interrupted", 5, {}))
    mirror.ended(member.trial, Outcome(member.trial.uid, "done", 10, {"fvu": 0.5, "l0": 4.0}))
    mirror.close()
    [trial] = shown(tmp_path / "o.db")
    assert (trial.state.name, trial.value, trial.params) == ("COMPLETE", 0.5, {"sae.k": 4})
    assert trial.intermediate_values == {5: 0.8, 10: 0.5}
    assert trial.distributions == {"sae.k": IntDistribution(4, 8)}
    assert (trial.user_attrs["uid"], trial.user_attrs["l0"]) == ("a" * 12, 4.0)
    assert capsys.readouterr().err == ""


def test_a_target_search_is_shown_by_its_distance_from_the_target(tmp_path) -> None:
    objective = read_objective(SearchConfig(kind="target", target=0.05))
    member = make_member("a", **{"sae.l1_alpha": 2.0})
    mirror = OptunaMirror("tiny", [member], {}, tmp_path / "o.db", objective)
    mirror.reported(Row(member.trial.uid, 5, {"fvu": 0.8, "l0_fraction": 0.2}))
    done = {"fvu": 0.5, "l0_fraction": 0.04}
    mirror.ended(member.trial, Outcome(member.trial.uid, "done", 10, done))
    mirror.close()
    with opened(tmp_path / "o.db") as study:
        assert study.metric_names == ["|ln(l0_fraction / 0.05)|"]
        assert study.direction.name == "MINIMIZE"
        assert study.best_value == pytest.approx(math.log(0.05 / 0.04))
        assert study.best_trial.intermediate_values == {5: pytest.approx(math.log(4))}


def test_several_objectives_are_shown_each_in_its_direction(tmp_path) -> None:
    wanted = ["explained_variance", "l0", "n_latents"]
    objective = read_objective(SearchConfig(kind="optuna", objective=wanted))
    members = [make_member(name) for name in "abc"]
    finals = [{"explained_variance": 0.9, "l0": 3.0}, {"explained_variance": 0.5}]
    outcomes = [
        *(Outcome(name * 12, "done", 10, final) for name, final in zip("ab", finals, strict=True)),
        Outcome("c" * 12, "stopped", 10, {}, "by a policy"),
    ]
    mirrored(members, tmp_path / "o.db", outcomes=outcomes, objective=objective)
    with opened(tmp_path / "o.db") as study:
        assert study.metric_names == wanted
        assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
        assert [trial.values for trial in study.trials] == [[0.9, 3.0, 8.0], None, None]
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "PRUNED"]


def test_what_was_done_before_is_copied_once_at_every_start(tmp_path) -> None:
    members = [make_member(name) for name in "abc"]
    done = TrialRecord("a" * 12, "a", "done", {}, {"fvu": 0.5})
    later = Outcome("b" * 12, "done", 10, {"fvu": 0.4})
    mirrored(members, tmp_path / "o.db", [done], [later])
    mirrored(members, tmp_path / "o.db", [done])
    assert [trial.user_attrs["label"] for trial in shown(tmp_path / "o.db")] == ["a"]
    mirrored(members, tmp_path / "o.db", [done], [later])
    assert [trial.value for trial in shown(tmp_path / "o.db")] == [0.5, 0.4]


def test_a_metric_without_a_value_is_none_and_a_trial_without_fvu_has_failed(tmp_path) -> None:
    members = [make_member(name) for name in "abcde"]
    records = [TrialRecord("a" * 12, "a", "done", {}, {"fvu": None, "l0": 2.0})]
    outcomes = [
        Outcome("b" * 12, "done", 10, {"fvu": math.nan, "l0": math.inf}),
        Outcome("c" * 12, "done", 10, {"fvu": 0.5, "l0": math.nan}),
        Outcome("d" * 12, "failed", 10, {"fvu": 0.5}, "OSError: full"),
        Outcome("e" * 12, "stopped", 10, {}, "by a policy"),
    ]
    mirrored(members, tmp_path / "o.db", records, outcomes)
    trials = shown(tmp_path / "o.db")
    states = ["FAIL", "FAIL", "COMPLETE", "FAIL", "PRUNED"]
    assert [trial.state.name for trial in trials] == states
    assert [trial.value for trial in trials] == [None, None, 0.5, None, None]
    assert [trial.user_attrs.get("l0", "none") for trial in trials] == [
        2,
        None,
        None,
        *["none"] * 2,
    ]
    assert trials[3].user_attrs["error"] == "OSError: full"


def test_words_are_choices_among_all_that_are_allowed(tmp_path) -> None:
    given = {"sae.aux_kind": "auxk", "activations.text": "x.txt", "train.reproducible": True}
    mirrored(
        [make_member("a", **given, **{"sae.aux_target": None}), make_member("b")],
        tmp_path / "o.db",
        outcomes=[Outcome("a" * 12, "done", 10, {"fvu": 0.5})],
    )
    [trial] = shown(tmp_path / "o.db")
    assert trial.distributions == {
        "sae.aux_kind": CategoricalDistribution(["auxk", "usage"]),
        "activations.text": CategoricalDistribution(["x.txt"]),
        "train.reproducible": CategoricalDistribution(["True"]),
    }


@pytest.mark.parametrize("folder", ["who?a=b", "100%41", "{SCHEMA}", "a#b c"])
def test_a_path_may_hold_what_a_url_gives_a_meaning(tmp_path, monkeypatch, capsys, folder) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / folder / "optuna.db"
    path.parent.mkdir()
    mirrored([make_member("a")], path, outcomes=[Outcome("a" * 12, "done", 1, {"fvu": 0.5})])
    assert capsys.readouterr().err == ""
    assert path.is_file()
    assert len(shown(path)) == 1
    assert list(tmp_path.iterdir()) == [path.parent]


def test_a_slow_study_holds_nobody_up_and_close_waits_for_it(tmp_path, monkeypatch) -> None:
    may_write = threading.Event()
    batches = []

    def add_trials(study, trials) -> None:
        may_write.wait(60)
        batches.append("".join(trial.user_attrs["label"] for trial in trials))

    monkeypatch.setattr(optuna.Study, "add_trials", add_trials)
    members = [make_member(name) for name in "abcd"]
    mirror = OptunaMirror("tiny", members, {}, tmp_path / "o.db", FVU)
    for trial, _ in members:
        mirror.ended(trial, Outcome(trial.uid, "done", 10, {"fvu": 0.5}))
    assert batches == []
    may_write.set()
    mirror.close()
    assert "".join(batches) == "abcd"
    assert len(batches) <= 2


def test_what_optuna_raises_is_said_once_by_close(tmp_path, monkeypatch, capsys) -> None:
    def add_trials(study, trials) -> None:
        raise OSError("disk full\nand more")

    monkeypatch.setattr(optuna.Study, "add_trials", add_trials)
    outcomes = [Outcome(name * 12, "done", 10, {"fvu": 0.5}) for name in "ab"]
    mirrored([make_member("a"), make_member("b")], tmp_path / "o.db", outcomes=outcomes)
    assert capsys.readouterr().err == "the Optuna mirror is incomplete: OSError: disk full\n"


def test_a_file_that_is_no_database_ends_only_the_mirror(tmp_path, capsys) -> None:
    (tmp_path / "o.db").write_text("no database " * 99)
    mirrored([make_member("a")], tmp_path / "o.db")
    said = capsys.readouterr().err
    assert said.startswith("the Optuna mirror is incomplete: ")
    assert said.count("\n") == 1


def test_an_axis_that_optuna_has_no_word_for_ends_only_the_mirror(tmp_path, capsys) -> None:
    low, high = make_member("a", **{"sae.k": 1}), make_member("b", **{"sae.k": 10**400})
    mirrored([low, high], tmp_path / "o.db")
    assert "the Optuna mirror is incomplete: OverflowError: " in capsys.readouterr().err
