"""Searches through the whole program: budget, kill and rerun, refusals."""

import json
import re

import pytest
import small_sweeps as sweeps

EXECUTORS = ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
OPTUNA = [
    "sae=l1",
    "search=optuna",
    "train.lr={loguniform:[1e-4,1e-2]}",
    "sae.l1_alpha={loguniform:[0.1,10]}",
    "search.objective=[fvu,l0]",
    "search.trials=6",
    "search.at_once=1",
]


@pytest.fixture(autouse=True)
def search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches have axes of their own."""
    kept = [word for word in sweeps.TINY if not word.startswith(("sae.k", "train.lr"))]
    monkeypatch.setattr(sweeps, "TINY", kept)


def words(*changes: str) -> list[str]:
    given = {word.partition("=")[0] for word in changes}
    base = [word for word in OPTUNA if word.partition("=")[0] not in given]
    return [*base, *changes]


def draws(outputs, run: int) -> list[dict[str, float]]:
    query = f"SELECT assignment FROM sweep_member WHERE run = {run} ORDER BY position"
    return [json.loads(one) for (one,) in sweeps.rows(outputs, query)]


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_killed_search_leaves_nothing_running_and_repeats_no_draw(executor, tmp_path) -> None:
    whole = tmp_path / "whole"
    sweeps.run(whole, "inline", *words())
    killed = tmp_path / "killed"
    process = sweeps.start(killed, executor, *words("train.checkpoint_every=20"))
    done = "SELECT 1 FROM sweep_trial WHERE status = 'done'"
    sweeps.wait_until(lambda: len(sweeps.rows(killed, done)) >= 3, process)
    sweeps.kill(process)
    sweeps.run(killed, executor, *words())
    assert draws(killed, 2) == draws(whole, 1)
    assert sweeps.results(killed) == sweeps.results(whole)
    assert set(sweeps.times_done(killed)) == {1}
    assert set(sweeps.statuses(killed).values()) == {"done"}


@pytest.mark.slow
def test_a_rerun_asks_nothing_and_a_larger_budget_asks_for_the_rest(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", *words("search.trials=3"))
    assert "nothing to train" in sweeps.run(tmp_path, "inline", *words("search.trials=3"))
    sweeps.run(tmp_path, "inline", *words("search.trials=5"))
    assert draws(tmp_path, 3)[:3] == draws(tmp_path, 1)
    assert sweeps.times_done(tmp_path) == [1] * 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.objective=[fvu,dead_features]", r"search\.objective=\['fvu', 'dead_features'\], "
         r"and sweep\.name=tiny has searched with \['fvu', 'l0'\]"),
        ("sae.l1_alpha={loguniform:[0.1,20]}", r"sweep\.space=.*has searched with"),
        ("sae.n_latents=32", r"sweep\.name=tiny has searched with other settings than these: its "
         r"trial exp2_"),
    ],
)  # fmt: skip
def test_another_question_under_the_same_name_is_refused(tmp_path, change, message) -> None:
    sweeps.run(tmp_path, "inline", *words("search.trials=1"))
    changed = words("search.trials=1", change)
    text = sweeps.run(tmp_path, "inline", *changed, code=2)
    assert re.search(message + r".*sweep\.name=tiny-2", text), text
    sweeps.run(tmp_path, "inline", *changed, "sweep.name=tiny-2")


@pytest.mark.slow
def test_target_search_ends_when_it_has_found_and_says_so(tmp_path) -> None:
    target = ["sae=l1", "search=target", "sae.l1_alpha={loguniform:[0.01,100]}"]
    target += ["search.target=0.3", "train.lr=3e-3"]
    text = sweeps.run(tmp_path, "inline", *target)
    found = re.search(r"search: reached: l0_fraction 0\.(\d+) for the target 0\.3 at", text)
    assert found is not None, text
    assert 0.27 <= float(f"0.{found[1]}") <= 0.33
    trained = len(sweeps.statuses(tmp_path))
    assert trained < 12
    again = sweeps.run(tmp_path, "inline", *target, "sweep.name=again")
    assert "nothing to train" in again
    assert f"{trained} comparable past trials" in again
    report = (tmp_path / "tiny" / "details.md").read_text()
    assert "## Search" in report


@pytest.mark.slow
def test_a_dry_run_says_that_a_search_chooses(tmp_path) -> None:
    text = sweeps.run(tmp_path, "inline", *words("dry_run=true"))
    assert "sweep tiny: at most 6 trials, which search.kind=optuna chooses" in text


def test_a_degenerate_objective_is_warned_of(tmp_path) -> None:
    text = sweeps.run(tmp_path, "inline", *words("dry_run=true", "search.objective=fvu"))
    assert "warning: search.objective=fvu over sae.l1_alpha is degenerate" in text


@pytest.mark.slow
def test_a_mirrored_search_shows_every_trial(tmp_path) -> None:
    sweeps.run(tmp_path, "inline", *words("search.trials=3"))
    import sqlite3

    [(count,)] = sqlite3.connect(tmp_path / "optuna.db").execute("SELECT count(*) FROM trials")
    assert count == 3
