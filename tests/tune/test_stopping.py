"""Stop policies through the whole program: reasons, kept checkpoints, other policies, searches."""

import json
import re
import sqlite3

import pytest
import small_sweeps as sweeps

EXECUTORS = ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
SPARSER = 'stop.warnings=[{at_share: 0.25, any: ["l0 < 6"]}]'
REASON = "SELECT label, error FROM sweep_trial WHERE status = 'stopped' ORDER BY label"


def last_steps(outputs) -> dict[str, int]:
    query = (
        "SELECT t.label, max(m.step) FROM sweep_metric m JOIN sweep_trial t ON t.pk = m.trial "
        "GROUP BY t.pk"
    )
    return dict(sweeps.rows(outputs, query))


def counts(outputs) -> dict[str, int]:
    query = "SELECT status, count(*) FROM sweep_trial GROUP BY status"
    return dict(sweeps.rows(outputs, query))


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_warned_trial_ends_with_its_reason_at_the_step_where_it_was_pruned(
    executor, tmp_path
) -> None:
    sweeps.run(tmp_path, executor, SPARSER)
    found = sweeps.statuses(tmp_path)
    assert {label for label, status in found.items() if status == "stopped"} == {
        label for label in found if "_k4_" in label
    }
    for label, reason in sweeps.rows(tmp_path, REASON):
        assert re.fullmatch(r"early warning: l0 \S+ < 6", reason)
        assert last_steps(tmp_path)[label] == 40  # 160 steps, a report every 8
    assert len(list(tmp_path.glob("trials/*/sae.safetensors"))) == 2
    assert "nothing to train" in sweeps.run(tmp_path, executor, SPARSER)


@pytest.mark.slow
def test_another_policy_continues_a_stopped_trial_from_its_checkpoint_to_the_same_bits(
    tmp_path,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    sweeps.run(whole, "inline")
    # every report is a checkpoint: a trial may be far beyond that step when the order reaches it,
    # even at its end where it begins in a slot that has found its pace; so all begin together
    sweeps.run(stopped, "inline", SPARSER, "train.checkpoint_every=8", "executor.cohort=4")
    ended = {label for label, status in sweeps.statuses(stopped).items() if status == "stopped"}
    assert len(ended) == 2
    assert len(list(stopped.glob("trials/*_k4_*/claim-*/resume.safetensors"))) == 2
    with sqlite3.connect(stopped / "sae_sweep.db") as connection:  # what is trained again returns
        connection.execute("DELETE FROM sweep_metric")
    sweeps.run(stopped, "inline", "sweep.name=other")
    assert sweeps.results(stopped) == sweeps.results(whole)
    first = (
        "SELECT t.label, min(m.step) FROM sweep_metric m JOIN sweep_trial t ON t.pk = m.trial "
        "GROUP BY t.pk"
    )
    anew = dict(sweeps.rows(stopped, first))
    assert set(anew) <= ended
    assert all(step > 40 for step in anew.values())  # where they were pruned


@pytest.mark.slow
def test_another_sweep_with_the_same_policy_takes_the_decision_over(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", SPARSER)
    text = sweeps.run(tmp_path, "inline", SPARSER, "sweep.name=other")
    assert "2 done, 2 stopped; nothing to train" in text


@pytest.mark.slow
def test_a_rerun_of_all_trains_stopped_trials_anew_and_judges_them_again(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", SPARSER)
    sweeps.run(tmp_path, "inline", SPARSER, "rerun=all")
    assert counts(tmp_path) == {"done": 2, "stopped": 2}
    started = "SELECT count(*) FROM sweep_event WHERE kind = 'stopped' GROUP BY trial"
    assert sweeps.rows(tmp_path, started) == [(2,), (2,)]


@pytest.mark.slow
def test_a_budget_of_trials_ends_the_rest_untrained(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", "stop.budget.trials=3")
    assert counts(tmp_path) == {"done": 3, "stopped": 1}
    [(_, reason)] = sweeps.rows(tmp_path, REASON)
    assert reason == "budget: 3 trials have begun"
    sweeps.run(tmp_path, "inline")
    assert counts(tmp_path) == {"done": 4}


@pytest.mark.slow
def test_a_budget_of_tokens_stops_what_trains_and_keeps_its_checkpoint(tmp_path) -> None:
    whole, spent = tmp_path / "whole", tmp_path / "spent"
    sweeps.run(whole, "inline")
    budget = f"stop.budget.tokens={20480 * 3}"  # one trial and a half
    sweeps.run(spent, "inline", budget)
    assert counts(spent) == {"done": 1, "stopped": 3}
    assert {reason for _, reason in sweeps.rows(spent, REASON)} == {
        "budget: 61,440 tokens are used up"
    }
    assert sorted(last_steps(spent).values()) == [80, 160]
    assert "nothing to train" in sweeps.run(spent, "inline", budget)
    sweeps.run(spent, "inline")
    assert sweeps.results(spent) == sweeps.results(whole)


@pytest.mark.slow
def test_a_search_is_told_of_stopped_trials_and_ends_with_its_budget(tmp_path, monkeypatch) -> None:
    kept = [word for word in sweeps.TINY if not word.startswith(("sae.k", "train.lr"))]
    monkeypatch.setattr(sweeps, "TINY", kept)
    search = [
        "sae=l1",
        "search=optuna",
        "sae.l1_alpha={loguniform:[0.1,10]}",
        "search.objective=[fvu]",
        "search.trials=6",
        "search.at_once=1",
    ]
    rules = ['stop.warnings=[{at_step: 20, any: ["fvu < 100"]}]', "stop.budget.trials=3"]
    sweeps.run(tmp_path, "inline", *search, *rules)
    assert counts(tmp_path) == {"stopped": 3}
    assert "nothing to train" in sweeps.run(tmp_path, "inline", *search, *rules)
    assert counts(tmp_path) == {"stopped": 3}


@pytest.mark.slow
def test_halving_compares_trials_of_one_k_only(tmp_path) -> None:
    rule = "stop.halving={first_share: 0.25, group_by: [sae.k], factor: 2}"
    sweeps.run(tmp_path, "inline", rule, "train.lr=[1e-3,3e-3,1e-5]")
    found = sweeps.statuses(tmp_path)
    stopped = {label for label, status in found.items() if status == "stopped"}
    assert stopped == {label for label in found if "lr1e-05" in label}
    for _, reason in sweeps.rows(tmp_path, REASON):
        assert re.fullmatch(
            r"halving: fvu \S+ is not among the best 1 of 3 at step 40 sae\.k=.", reason
        )


@pytest.mark.slow
def test_a_killed_sweep_judges_as_one_that_was_not(tmp_path) -> None:
    rules = [
        'stop.warnings=[{at_share: 0.25, any: ["l0 < 6"]}, {at_share: 0.5, any: ["l0 < 4.5"]}]'
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sweeps.run(whole, "inline", *rules)
    process = sweeps.start(killed, "inline", *rules, "train.checkpoint_every=10")
    some = "SELECT 1 FROM sweep_trial WHERE status IN ('done', 'stopped')"
    sweeps.wait_until(lambda: len(sweeps.rows(killed, some)) >= 1, process)
    sweeps.kill(process)
    sweeps.run(killed, "inline", *rules)
    assert sweeps.statuses(killed) == sweeps.statuses(whole)
    assert sweeps.rows(killed, REASON) == sweeps.rows(whole, REASON)
    assert last_steps(killed) == last_steps(whole)
    assert sweeps.results(killed) == sweeps.results(whole)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            'stop.warnings=[{at_step: 160, any: ["l0 < 6"]}]',
            r"stop\.warnings: at_step=160 can never apply: no trial reports between there and "
            r"its end \(at most 160 steps\); choose an earlier one, or a smaller",
        ),
        (
            "stop.plateau={after_step: 9, window_steps: 16, sd_below: 1}",
            r"stop\.plateau\.window_steps=16 holds 2 reports, and a deviation needs 3: widen it",
        ),
        (
            "stop.halving={first_share: 0.99, group_by: [sae.k]}",
            r"stop\.halving\.first_share=0\.99 can never apply",
        ),
        (
            "stop.halving={first_share: 0.1, group_by: [sae.k]}",
            r"stop\.halving\.factor=3 can never end a trial: the largest group has 2; lower it",
        ),
        (
            "stop.halving={first_share: 0.1, group_by: [sae.kk]}",
            r"stop\.halving\.group_by=sae\.kk: no such setting; did you mean sae\.k",
        ),
        (
            "stop.budget.trials=4",
            r"stop\.budget\.trials=4 can never be used up: the sweep has 4 in all; lower it",
        ),
        (
            "stop.budget.tokens=1000000",
            r"stop\.budget\.tokens=1000000 can never be used up: the sweep has 163,840 in all",
        ),
    ],
)
def test_a_rule_that_can_never_fire_is_refused(tmp_path, rule, message) -> None:
    assert re.search(message, sweeps.run(tmp_path, "inline", rule, code=2))
    assert re.search(message, sweeps.run(tmp_path, "inline", rule, "dry_run=true", code=2))


@pytest.mark.slow
def test_without_rules_nothing_is_kept_of_them(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", "sae.k=4", "train.lr=1e-3")
    assert sweeps.rows(tmp_path, "SELECT value FROM sweep_state WHERE name = 'stop'") == []
    sweeps.run(tmp_path, "inline", "sae.k=4", "train.lr=1e-3", "rerun=all", SPARSER)
    [(value,)] = sweeps.rows(tmp_path, "SELECT value FROM sweep_state WHERE name = 'stop'")
    assert len(json.loads(value)["judge"]["verdicts"]) == 1
