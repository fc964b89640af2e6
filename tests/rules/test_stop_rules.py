"""Stop rules on made reports."""

import json

import numpy as np
import pytest
from scipy import stats

from sae_sweep.rules.stop_rules import (
    Condition,
    Halving,
    Moment,
    Plateau,
    Subject,
    Warning,
    upper_sd,
)
from sae_sweep.rules.stopping import Budget, Policy, Pruner

DEAD = Condition("dead_features", ">", 0.9)
LOUD = Condition("loss", ">", 100.0)
AT_20 = Moment(20, None)


def subject(uid: str = "a", steps: int = 100) -> Subject:
    return Subject(uid, steps, 10, 8)


def course(pruner: Pruner, one: Subject, values: list[dict[str, float]]) -> list[int]:
    """The steps at which a trial that reports these values is stopped."""
    found = []
    for i, each in enumerate(values):
        pruned = pruner.observe(one, (i + 1) * one.report_every, each)
        if pruned is not None:
            found.append(pruned.step)
    return found


def again(pruner: Pruner, policy: Policy) -> Pruner:
    """A pruner who goes on from what another has written down."""
    return Pruner(policy, json.loads(json.dumps(pruner.state)))


@pytest.mark.parametrize(
    ("every", "dead", "loss", "stopped"),
    [
        (False, 0.95, 1.0, True),
        (False, 0.5, 1000.0, True),
        (False, 0.5, 1.0, False),
        (True, 0.95, 1.0, False),
        (True, 0.95, 1000.0, True),
    ],
)
def test_any_needs_one_condition_and_all_needs_every_one(every, dead, loss, stopped) -> None:
    pruner = Pruner(Policy((Warning(AT_20, every, (DEAD, LOUD)),)))
    pruned = pruner.observe(subject(), 20, {"dead_features": dead, "loss": loss})
    assert (pruned is not None) == stopped


def test_a_reason_names_value_and_bound() -> None:
    pruner = Pruner(Policy((Warning(AT_20, True, (DEAD, LOUD)),)))
    pruned = pruner.observe(subject(), 20, {"dead_features": 0.95, "loss": 1234.0})
    assert pruned == (20, "early warning: dead_features 0.95 > 0.9 and loss 1234 > 100")


@pytest.mark.parametrize(
    ("at", "judged"), [(Moment(20, None), 20), (Moment(21, None), 30), (Moment(None, 0.25), 30)]
)
def test_a_warning_looks_once_at_the_first_report_from_its_moment_on(at, judged) -> None:
    policy = Policy((Warning(at, False, (DEAD,)),))
    for bad in range(10, 100, 10):
        values = [{"dead_features": 0.95 if step == bad else 0.1} for step in range(10, 101, 10)]
        assert course(Pruner(policy), subject(), values) == ([judged] if bad == judged else [])


def test_the_last_report_is_not_judged() -> None:
    policy = Policy((Warning(Moment(100, None), False, (DEAD,)),))
    assert course(Pruner(policy), subject(), [{"dead_features": 1.0}] * 10) == []
    assert Moment(100, None).reached(subject()) is None
    assert Moment(81, None).reached(subject()) == 90
    assert Moment(91, None).reached(subject()) is None


def test_a_metric_that_is_missing_or_not_a_number_stops_nothing() -> None:
    low = Condition("dead_features", "<", 0.1)
    pruner = Pruner(Policy((Warning(AT_20, False, (DEAD, low)),)))
    assert pruner.observe(subject("a"), 20, {}) is None
    assert pruner.observe(subject("b"), 20, {"dead_features": float("nan")}) is None


def test_a_judge_that_goes_on_from_its_state_judges_as_if_it_had_never_left() -> None:
    policy = Policy((Warning(AT_20, False, (DEAD,)), Warning(Moment(50, None), False, (LOUD,))))
    first = Pruner(policy)
    first.observe(subject("a"), 20, {"dead_features": 0.95})
    first.observe(subject("b"), 20, {"dead_features": 0.1})
    second = again(first, policy)
    assert second.state == first.state
    assert second.refusal("a") == "early warning: dead_features 0.95 > 0.9"
    # b has passed the first warning: it is not asked again where it goes on from a checkpoint
    assert second.observe(subject("b"), 30, {"dead_features": 0.95}) is None
    assert second.observe(subject("b"), 50, {"loss": 101.0}) is not None


def test_a_budget_of_trials_lets_those_that_have_begun_go_on() -> None:
    pruner = Pruner(Policy(budget=Budget(trials=2)))
    for uid in "ab":
        assert pruner.refusal(uid) is None
        pruner.begin(uid)
    assert pruner.refusal("a") is None
    assert pruner.refusal("c") == pruner.refusal() == "budget: 2 trials have begun"


def test_a_budget_of_tokens_counts_what_was_trained_here_and_once() -> None:
    pruner = Pruner(Policy(budget=Budget(tokens=400)))
    pruner.start(subject("a"), 50)
    for step in (60, 70, 60, 70):  # it was killed at 70, and went on from 50
        pruner.observe(subject("a"), step, {})
    pruner.observe(subject("b"), 20, {})
    assert pruner.used_up() is None
    assert again(pruner, Policy(budget=Budget(tokens=321))).used_up() is None
    assert again(pruner, Policy(budget=Budget(tokens=320))).used_up() is not None
    assert pruner.observe(subject("a"), 80, {}) == (80, "budget: 400 tokens are used up")
    assert pruner.used_up() == pruner.refusal("b") == "budget: 400 tokens are used up"


def test_what_a_forgotten_trial_has_cost_stays_spent() -> None:
    policy = Policy((Warning(AT_20, False, (DEAD,)),), budget=Budget(tokens=320))
    pruner = Pruner(policy)
    assert pruner.observe(subject(), 20, {"dead_features": 1.0}) is not None
    pruner.forget("a")
    assert pruner.refusal("a") is None
    assert pruner.observe(subject(), 10, {"dead_features": 0.0}) is None
    assert pruner.used_up() is None
    assert again(pruner, policy).used_up() is None
    pruned = pruner.observe(subject(), 20, {"dead_features": 0.0})
    assert pruned == (20, "budget: 320 tokens are used up")


def test_a_budget_of_seconds_is_on_the_clock_that_is_handed_in() -> None:
    pruner = Pruner(Policy(budget=Budget(seconds=60.0)))
    pruner.seconds += 59.9
    assert pruner.used_up() is None
    pruner.seconds += 0.1
    assert pruner.used_up() == "budget: 60 seconds are used up"


def test_the_bound_of_a_deviation_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 5, 20):
        covered = [upper_sd(rng.normal(size=n), 0.9) > 1 for _ in range(4000)]
        assert stats.binomtest(sum(covered), 4000, 0.9).pvalue > 0.001


PLATEAU = Plateau("l0", Moment(50, None), 40, 1.0, 0.95)


def l0(values: list[float]) -> list[dict[str, float]]:
    return [{"l0": value} for value in values]


def test_a_trial_whose_l0_has_settled_ends_once_the_moment_has_come() -> None:
    settled = [90, 60, 30.1, 30.0, 30.2, 30.1, 30.0, 30.2, 30.1, 30.0]
    assert course(Pruner(Policy(plateau=PLATEAU)), subject(), l0(settled))[:1] == [60]
    late = PLATEAU._replace(after=Moment(None, 0.75))
    assert course(Pruner(Policy(plateau=late)), subject(), l0(settled)) == [80]


@pytest.mark.parametrize(
    "values", [[30 - 2 * i for i in range(10)], [30 + 2 * (-1) ** i for i in range(10)]]
)
def test_a_trend_and_an_oscillation_are_no_plateau(values) -> None:
    assert course(Pruner(Policy(plateau=PLATEAU)), subject(), l0(values)) == []


def test_few_reports_need_a_smaller_deviation_than_many() -> None:
    values = [30.0, 30.5, 29.5, 30.0]
    assert np.std(values, ddof=1) < 1.0
    assert course(Pruner(Policy(plateau=PLATEAU)), subject(), l0(values * 2)) == []
    unsure = PLATEAU._replace(confidence=0.5)
    assert course(Pruner(Policy(plateau=unsure)), subject(), l0(values * 2)) == [50]


def test_reports_repeated_after_a_checkpoint_count_once_in_a_window() -> None:
    policy = Policy(plateau=PLATEAU)
    pruner = Pruner(policy)
    for step in (10, 20, 30, 40, 20, 30, 40):
        pruner.observe(subject(), step, {"l0": 30.0 + step / 100})
    pruner = again(pruner, policy)
    assert pruner.state["windows"] == {"a": [[10, 30.1], [20, 30.2], [30, 30.3], [40, 30.4]]}


HALVING = Halving("fvu", True, Moment(20, None), 2.0, None)


def at_rung(pruner: Pruner, scores: dict[str, float], step: int = 20, group: str = "k=8") -> str:
    """The trials that end at a rung which they reach in this order."""
    ended = ""
    for uid, fvu in scores.items():
        one = subject(uid)._replace(group=group)
        if pruner.observe(one, step, {"fvu": fvu, "l0": 8.0}) is not None:
            ended += uid
    return ended


def test_a_rung_ends_who_is_not_among_the_best_so_far() -> None:
    pruner = Pruner(Policy(halving=HALVING))
    assert at_rung(pruner, {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.3, "e": 0.45, "f": 0.35}) == "ce"
    assert pruner.refusal("c") == ("halving: fvu 0.6 is not among the best 1 of 3 at step 20 k=8")


def test_only_trials_of_one_group_are_compared() -> None:
    pruner = Pruner(Policy(halving=HALVING))
    assert at_rung(pruner, {"a": 0.1, "b": 0.05}, group="k=32") == ""
    assert at_rung(pruner, {"c": 0.8, "d": 0.7}, group="k=4") == ""
    assert at_rung(pruner, {"e": 0.9}, group="k=4") == "e"


def test_bands_of_l0_are_groups() -> None:
    pruner = Pruner(Policy(halving=HALVING._replace(l0_band=2.0)))
    ended = [
        uid
        for uid, fvu, sparsity in [("a", 0.1, 100.0), ("b", 0.8, 9.0), ("c", 0.7, 15.0),
                                   ("d", 0.9, 8.1), ("e", 0.2, 70.0), ("f", 0.9, 0.0)]
        if pruner.observe(subject(uid), 20, {"fvu": fvu, "l0": sparsity}) is not None
    ]  # fmt: skip
    assert ended == ["d", "e"]


def test_a_trial_is_judged_once_a_rung_and_rungs_lie_a_factor_apart() -> None:
    pruner = Pruner(Policy(halving=HALVING))
    at_rung(pruner, {"a": 0.1, "b": 0.05})
    assert at_rung(pruner, {"a": 0.9}, step=30) == ""
    assert at_rung(pruner, {"b": 0.5}, step=40) == ""
    assert at_rung(pruner, {"a": 0.9}, step=40) == "a"


def test_rungs_outlive_the_judge() -> None:
    policy = Policy(halving=HALVING)
    whole, first = Pruner(policy), Pruner(policy)
    scores = {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.45, "e": 0.3}
    begun = dict(list(scores.items())[:2])
    at_rung(first, begun)
    second = again(first, policy)
    assert at_rung(second, scores) == at_rung(whole, scores)
    assert second.state == whole.state


def test_more_is_better_where_the_metric_says_so() -> None:
    better = HALVING._replace(metric="explained_variance", smaller_is_better=False)
    pruner = Pruner(Policy(halving=better))
    ended = [
        uid
        for uid, value in {"a": 0.5, "b": 0.6, "c": 0.4}.items()
        if pruner.observe(subject(uid), 20, {"explained_variance": value}) is not None
    ]
    assert ended == ["c"]
