"""Optuna behind ask and tell: what is drawn, what is told, and that a restart changes nothing."""

import itertools
import math
from typing import Any

import pytest
from optuna.trial import TrialState

from sae_sweep.config import SearchConfig, SweepConfig
from sae_sweep.errors import BadInput
from sae_sweep.search import Search, SearchContext, Told, build_search, optuna
from sae_sweep.search.cells import read_space
from sae_sweep.search.objective import read_objective
from sae_sweep.search.optuna import OptunaProposer
from sae_sweep.search.sampled import Draw, SampledSearch

SAMPLERS = ["tpe", "gp", "nsga2", "qmc", "random"]
BASE = {"activations": {"d": 32}, "sae": {"kind": "l1", "n_latents": 64}, "train": {}}
ALPHA = {"sae.l1_alpha": {"loguniform": [0.01, 100]}}
TWO = {**ALPHA, "train.lr": {"loguniform": [1e-4, 1e-2]}}
AROUND = SearchContext(lambda point: pytest.fail("not asked"), list)


def make_search(space: dict[str, Any] = ALPHA, **settings: Any) -> Search:
    sweep = {name: settings.pop(name) for name in ("when", "exclude", "seeds", "zip")
             if name in settings}  # fmt: skip
    if "objective" not in settings:
        settings.setdefault("target", 0.05)
    config = SearchConfig(kind="optuna", **settings)
    return build_search(BASE, SweepConfig(space=space, **sweep), config, AROUND)


def response(assignment: dict[str, Any]) -> Told:
    l0 = 0.5 / (1 + assignment.get("sae.l1_alpha", 1.0) ** 2)
    rate = abs(math.log(assignment.get("train.lr", 1e-3) / 1e-3))
    return Told("done", {"l0_fraction": l0, "l0": 64 * l0, "fvu": 0.1 + rate}, {})


def run(search: Search, at_once: int = 1, most: int = 1000) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < most and (points := search.ask(at_once)):
        for point in points:
            found.append(point.assignment)
            search.tell(point.assignment, response(point.assignment))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_restart_goes_on_as_if_nothing_had_happened(sampler: str) -> None:
    trials = {"trials": 14, "sampler": sampler}
    whole = run(make_search(TWO, **trials))
    again = make_search(TWO, **trials)
    for assignment in whole[:11]:
        assert again.resume(assignment).assignment == assignment
        again.tell(assignment, response(assignment))
    assert run(again) == whole[11:]
    assert again.exhausted


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_under_way_are_neither_repeated_nor_counted_again(sampler: str) -> None:
    search = make_search(trials=12, sampler=sampler)
    first = [point.assignment for point in search.ask(6)]
    again = make_search(trials=12, sampler=sampler)
    for assignment in first:
        again.resume(assignment)
        again.resume(assignment)
    rest = [point.assignment for point in again.ask(100)]
    drawn = [one["sae.l1_alpha"] for one in [*first, *rest]]
    assert len(set(drawn)) == 12
    assert again.exhausted


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_model_finds_the_target_nearer_than_chance(sampler: str) -> None:
    found = run(make_search(trials=30, sampler=sampler, seed=1))
    errors = [abs(math.log(response(one).metrics["l0_fraction"] / 0.05)) for one in found]
    assert sum(errors[10:]) / 20 < sum(errors[:10]) / 10
    assert min(errors) < 0.1


def test_pending_draws_push_a_batch_apart() -> None:
    search = make_search(trials=40, seed=3)
    run(search, most=20)
    batch = sorted(math.log(point.assignment["sae.l1_alpha"]) for point in search.ask(8))
    assert len(batch) == 8
    assert batch[-1] - batch[0] > 0.5


def test_the_second_generation_of_nsga2_descends_from_the_first() -> None:
    settings: dict[str, Any] = {"objective": ["fvu", "l0"], "trials": 16, "sampler": "nsga2"}
    search = make_search(TWO, **settings)
    found = run(search)
    first = {one[key] for one in found[:4] for key in TWO}
    inherited = [one for one in found[4:] if first & {one[key] for key in TWO}]
    assert len(inherited) > 2


def test_grid_axes_make_a_study_a_cell_and_share_the_budget() -> None:
    space = {"sae.n_latents": {"grid": [64, 128]}, **ALPHA}
    found = run(make_search(space, trials=10))
    assert [one["sae.n_latents"] for one in found] == [64, 128] * 5
    other = run(make_search({"sae.n_latents": {"grid": [128]}, **ALPHA}, trials=5))
    assert [one for one in found if one["sae.n_latents"] == 128] == other


def test_axes_out_of_per_are_drawn_tied_ones_together() -> None:
    tied = [{"keys": ["train.beta1", "train.beta2"], "values": [[0.9, 0.99], [0.8, 0.9]]}]
    space = {"sae.n_latents": {"grid": [64, 128]}, "sae.l1_norm": {"grid": ["unit", "decoder"]}}
    search = make_search({**space, **ALPHA}, zip=tied, per=["sae.l1_norm"], trials=24)
    found = run(search)
    assert [one["sae.l1_norm"] for one in found[:4]] == ["unit", "decoder"] * 2
    assert {one["sae.n_latents"] for one in found} == {64, 128}
    pairs = {(one["train.beta1"], one["train.beta2"]) for one in found}
    assert pairs == {(0.9, 0.99), (0.8, 0.9)}
    for one in found:
        assert make_search({**space, **ALPHA}, zip=tied, per=["sae.l1_norm"], trials=24).resume(one)


def test_an_axis_under_a_drawn_condition_is_drawn_only_there() -> None:
    space = {"sae.kind": {"choice": ["l1", "topk"]}}
    when = [
        {"if": {"sae.kind": "l1"}, "space": ALPHA},
        {"if": {"sae.kind": "topk"}, "space": {"sae.k": {"int": [1, 8]}}},
    ]
    found = run(make_search(space, when=when, trials=20, objective="fvu"))
    assert {tuple(one) for one in found} == {
        ("sae.kind", "sae.l1_alpha"),
        ("sae.kind", "sae.k"),
    }
    assert all((one["sae.kind"] == "l1") == ("sae.l1_alpha" in one) for one in found)


def test_excluded_points_are_not_asked_for() -> None:
    space = {"sae.n_latents": {"choice": [64, 128]}, **ALPHA}
    found = run(make_search(space, exclude=[{"sae.n_latents": 64}], trials=8))
    assert {one["sae.n_latents"] for one in found} == {128}


def test_seeds_are_asked_for_together_and_judged_by_their_mean() -> None:
    search = make_search(trials=7, seeds=2)
    points = search.ask(1)
    assert [one.assignment["train.seed_init"] for one in points] == [0, 1]
    assert len(run(search)) == 4
    assert search.planned == 6


def test_a_small_space_that_is_used_up_ends_the_search_and_says_so() -> None:
    search = make_search({"sae.n_latents": {"choice": [64, 128, 256]}}, trials=9)
    assert len(run(search)) == 3
    assert search.exhausted
    assert search.notes() == ["the search: 100 draws in a row brought nothing new"]


def outcome(*told: Told, pending: bool = False, **settings: Any) -> tuple[Any, ...]:
    config = SearchConfig(kind="optuna", **settings)
    space = read_space(BASE, SweepConfig(space=ALPHA), config)
    proposer = OptunaProposer(space, config, read_objective(config))
    draw = Draw({"sae.l1_alpha": 1.0}, {"x"} if pending else set(), list(told))
    [trial] = proposer._trials([draw], space.cells[0])
    values = None if trial.state in (TrialState.FAIL, TrialState.RUNNING) else trial.values
    return trial.state, values, trial.constraints, trial.intermediate_values


def done(**metrics: float) -> Told:
    return Told("done", metrics, {})


def test_the_distance_from_a_target_is_on_a_log_scale() -> None:
    state, [value], *_ = outcome(done(l0_fraction=0.1), target=0.05)
    assert (state, value) == (TrialState.COMPLETE, pytest.approx(math.log(2)))
    _, [value], *_ = outcome(done(l0=25.0), target_count=50)
    assert value == pytest.approx(math.log(2))


def test_seeds_are_averaged_on_the_metrics_scale() -> None:
    _, values, *_ = outcome(done(l0=10.0), done(l0=40.0), objective="l0")
    assert values == [pytest.approx(20)]
    _, values, *_ = outcome(done(similarity=0.1), done(similarity=0.4), objective="similarity")
    assert values == [pytest.approx(0.25)]


def test_constraints_are_satisfied_at_zero_or_below() -> None:
    constraints = ["dead_features <= 0.2", "always_on == 0", "diversity >= 5"]
    told = done(fvu=0.5, dead_features=0.3, always_on=2.0, diversity=7.0)
    _, _, violations, _ = outcome(told, objective="fvu", constraints=constraints)
    assert violations == {
        "dead_features <= 0.2": pytest.approx(0.1),
        "always_on == 0": 2.0,
        "diversity >= 5": -2.0,
    }


def test_infeasible_draws_are_avoided() -> None:
    feasible = []
    for constraints in (["l0_fraction <= 0.1"], []):
        found = run(make_search(objective="fvu", constraints=constraints, trials=40))
        late = [response(one).metrics["l0_fraction"] for one in found[10:]]
        feasible.append(sum(l0 <= 0.1 for l0 in late))
    assert feasible[0] > 1.3 * feasible[1]


@pytest.mark.parametrize("status", ["failed", "diverged", "oom"])
def test_what_did_not_end_well_is_told_as_failed(status: Any) -> None:
    assert outcome(Told(status, {}, {}), target=0.05)[0] is TrialState.FAIL
    assert outcome(done(l0_fraction=0.1), Told(status, {}, {}), target=0.05)[0] is TrialState.FAIL
    assert outcome(done(fvu=0.1), target=0.05)[0] is TrialState.FAIL


def test_what_was_stopped_is_told_as_pruned_with_its_course() -> None:
    stopped = Told("stopped", {}, {"l0_fraction": {10: 0.1, 20: 0.05, 30: math.nan}})
    state, _, _, course = outcome(stopped, target=0.05)
    assert state is TrialState.PRUNED
    assert course == {10: pytest.approx(math.log(2)), 20: 0.0}


def test_what_is_under_way_runs() -> None:
    assert outcome(pending=True, target=0.05)[0] is TrialState.RUNNING


def test_gp_without_its_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"search\.sampler=gp needs torch and scipy: install"):
        make_search(sampler="gp")


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        ({}, {}, r"search\.kind=optuna has nothing to search: give an axis that is drawn"),
        (
            {"sae.n_latents": {"grid": [1, 2]}, **ALPHA},
            {"per": ["sae.l1_alpha"]},
            r"search\.per=sae\.l1_alpha is not a grid axis of this sweep: .*\(the grid axes are "
            r"sae\.n_latents\)",
        ),
        (
            {"sae.n_latents": {"grid": [1, 2, 3]}, **ALPHA},
            {"trials": 2},
            r"search\.trials=2 does not reach the 3 cells of the grid axes with sweep\.seeds=1: "
            r"raise it to 3",
        ),
        (
            {"sae.kind": {"choice": ["l1", "topk"]}, **ALPHA},
            {"when": [{"if": {"sae.kind": "l1"}, "space": {"sae.l1_norm": {"grid": ["unit"]}}}]},
            r"sae\.l1_norm are grid axes that exist only for some draws of sae\.kind",
        ),
        (
            {"sae.n_latents": {"grid": [64]}, **ALPHA},
            {"exclude": [{"sae.n_latents": 64}]},
            r"sweep\.exclude=.* leaves none of 1 cells",
        ),
    ],
)
def test_axes_that_a_search_cannot_use_are_refused(
    space: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        make_search(space, **settings)


def test_an_assignment_of_another_space_is_refused() -> None:
    search = make_search({"sae.n_latents": {"grid": [64]}, **ALPHA})
    assert isinstance(search, SampledSearch)
    with pytest.raises(ValueError, match="in no cell of the search"):
        search.resume({"sae.n_latents": 128, "sae.l1_alpha": 1.0})
    with pytest.raises(ValueError, match=r"sae\.l1_alpha is missing"):
        search.resume({"sae.n_latents": 64})


def test_the_budget_is_spread_over_uneven_cells() -> None:
    counts = [len(list(group)) for _, group in itertools.groupby(
        sorted(one["sae.n_latents"] for one in run(
            make_search({"sae.n_latents": {"grid": [1, 2, 3]}, **ALPHA}, trials=11))))]  # fmt: skip
    assert counts == [4, 4, 3]
