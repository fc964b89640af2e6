"""Target search: how few trials it needs, what it learns from, and when it refuses."""

from collections.abc import Callable
from typing import Any

import pytest

from sae_sweep.config import SearchConfig, Source, SweepConfig, TrialConfig, resolve, validate
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord
from sae_sweep.search import Point, Search, SearchContext, Told, build_search

BASE = {
    "activations": {"synthetic": {}, "d": 32},
    "sae": {"kind": "l1", "n_latents": 64},
    "train": {},
}
AXIS = {"loguniform": [0.01, 100]}
Curve = Callable[[float], float]


def make_trial(point: Point):
    return resolve(validate(TrialConfig, point.settings), Source("f" * 12, 32, 1000, {"layer": 3}))


def make_search(past: list[TrialRecord] | None = None, **settings: Any) -> Search:
    space = settings.pop("space", {"sae.l1_alpha": AXIS})
    sweep = SweepConfig(space=space, seeds=settings.pop("seeds", 1))
    if "target_count" not in settings:
        settings.setdefault("target", 0.05)
    around = SearchContext(make_trial, lambda: past or [])
    return build_search(BASE, sweep, SearchConfig(kind="target", **settings), around)


def told(l0: float) -> Told:
    return Told("done", {"l0_fraction": l0, "n_latents": 64.0}, {})


def record(l1_alpha: float, l0: float, **sae: Any) -> TrialRecord:
    settings = {**BASE, "sae": {**BASE["sae"], "l1_alpha": l1_alpha, **sae}}
    trial = make_trial(Point({}, settings))
    return TrialRecord(trial.uid, trial.label, "done", trial.record, {"l0_fraction": l0})


def run(search: Search, curve: Curve) -> list[float]:
    """The l1_alpha that are asked for, one after the other."""
    found = []
    while points := search.ask(1):
        [point] = points
        found.append(point.assignment["sae.l1_alpha"])
        search.tell(point.assignment, told(curve(found[-1])))
    assert search.exhausted
    return found


def logistic(knee: float, slope: float = 1.0, top: float = 0.6) -> Curve:
    return lambda alpha: top / (1 + (alpha / knee) ** slope)


def shelf(alpha: float) -> float:
    """Flat, a gentle fall, and a floor: nothing like the fitted shape."""
    return 0.002 + 0.5 / (1 + alpha) ** 1.2 / (1 + (alpha / 8) ** 4)


def cliff(alpha: float) -> float:
    """Falls from 40 % to 1 % around 7 within a few per cent of l1_alpha."""
    return 0.01 + 0.4 / (1 + (alpha / 7) ** 60)


@pytest.mark.parametrize(
    ("curve", "most"),
    [
        (logistic(0.5), 4),
        (logistic(0.05), 4),
        (logistic(5.0, 1.5), 5),
        (logistic(1.0, 2.5, 0.95), 5),
        (shelf, 4),
        (cliff, 11),
    ],
)
def test_the_target_is_met_in_few_trials(curve: Curve, most: int) -> None:
    search = make_search()
    found = run(search, curve)
    assert abs(curve(found[-1]) / 0.05 - 1) <= 0.1
    assert len(found) <= most
    note = search.notes()[-1]
    assert note.startswith("reached: l0_fraction 0.0")
    middle = float(note.split("the target at ")[1].split(",")[0])
    low, high = (float(part) for part in note.split("interval ")[1].split(" to "))
    assert low <= middle <= high
    assert found[-1] == pytest.approx(middle, rel=0.25)


@pytest.mark.parametrize(
    ("sae", "axis", "curve", "expected"),
    [
        ({"kind": "topk"}, {"sae.k": {"int": [1, 60]}}, lambda k: k / 64, [3]),
        ({"kind": "batchtopk"}, {"sae.k": {"int": [1, 60]}}, lambda k: 0.7 * k / 64, [3, 5]),
        (
            {"kind": "jumprelu"},
            {"sae.target_l0": {"loguniform": [1, 60]}},
            lambda target: 1.2 * target / 64,
            [3.2, 2.66667],
        ),
        ({"kind": "matryoshka"}, {"sae.k": {"int": [5, 60]}}, lambda k: k / 64, [5]),
    ],
    ids=["topk", "batchtopk", "jumprelu", "out of reach"],
)
def test_a_count_is_proposed_itself_and_then_corrected(
    monkeypatch, sae: dict[str, Any], axis: dict[str, Any], curve: Curve, expected: list[float]
) -> None:
    monkeypatch.setitem(BASE, "sae", {**sae, "n_latents": 64})
    search, [key], found = make_search(space=axis), axis, []
    while points := search.ask(1):
        found.append(points[0].assignment[key])
        search.tell(points[0].assignment, told(curve(found[-1])))
    assert found == pytest.approx(expected)
    assert search.exhausted
    assert ("reached: " in search.notes()[-1]) == (abs(curve(found[-1]) / 0.05 - 1) <= 0.1)


def test_any_penalty_is_searched_by_its_curve(monkeypatch) -> None:
    monkeypatch.setitem(BASE, "sae", {"kind": "jumprelu", "n_latents": 64})
    search, found = make_search(space={"sae.l0_coeff": AXIS}), []
    while points := search.ask(1):
        found.append(points[0].assignment["sae.l0_coeff"])
        search.tell(points[0].assignment, told(logistic(0.5)(found[-1])))
    assert len(found) <= 4
    assert abs(logistic(0.5)(found[-1]) / 0.05 - 1) <= 0.1


def test_a_count_is_a_share_of_the_latents() -> None:
    by_count = run(make_search(target_count=3.2), logistic(0.5))
    assert by_count == run(make_search(target=0.05), logistic(0.5))


def test_several_at_once_spread_over_where_the_answer_may_be() -> None:
    search = make_search()
    alphas = [point.assignment["sae.l1_alpha"] for point in search.ask(4)]
    assert len(set(alphas)) == 4
    assert max(alphas) / min(alphas) > 3
    first, second, third, _ = alphas
    assert second < first < third


def test_a_restart_goes_on_as_if_nothing_had_happened() -> None:
    curve = logistic(5.0, 1.5)
    whole = run(make_search(), curve)
    again = make_search()
    for alpha in whole[:2]:
        again.resume({"sae.l1_alpha": alpha})
        again.tell({"sae.l1_alpha": alpha}, told(curve(alpha)))
    assert run(again, curve) == whole[2:]


def test_a_trial_that_diverged_is_not_asked_for_again() -> None:
    search = make_search()
    [first] = search.ask(1)
    search.tell(first.assignment, Told("diverged", {}, {}))
    [second] = search.ask(1)
    assert second.assignment != first.assignment


def test_seeds_are_judged_by_their_geometric_mean() -> None:
    search = make_search(seeds=2)
    points = search.ask(1)
    for point, l0 in zip(points, (0.04, 0.0625), strict=True):
        search.tell(point.assignment, told(l0))
    assert search.ask(1) == []
    assert search.notes()[-1].startswith("reached: l0_fraction 0.05 for the target 0.05")


def test_history_of_another_width_saves_trials() -> None:
    curve = logistic(0.05, 1.3)
    cold = run(make_search(), curve)
    past = [record(a, curve(a), n_latents=128) for a in (0.05, 0.2, 0.6, 2.0)]
    search = make_search(past)
    assert len(run(search, curve)) < len(cold)
    assert search.notes()[0] == "history: 4 comparable past trials at n_latents 128"


def test_a_past_trial_that_met_the_target_is_asked_for_itself() -> None:
    past = [record(a, logistic(0.5)(a)) for a in (0.3, 5.3, 30.0)]
    assert run(make_search(past), logistic(0.5)) == [5.3]


def test_history_that_is_not_comparable_is_left_out_and_said() -> None:
    other = record(1.0, 0.5, l1_norm="unit")
    search = make_search([other])
    assert run(search, logistic(0.5)) == run(make_search(), logistic(0.5))
    assert search.notes()[0] == (
        "history: 0 comparable past trials; left out: 1 with another sae.l1_norm"
    )
    without = make_search([other], history=False)
    without.ask(1)
    assert without.notes() == []


def test_its_own_trials_are_not_history() -> None:
    curve = logistic(0.5)
    own: list[TrialRecord] = []
    search = make_search(own)
    [point] = search.ask(1)
    own.append(record(point.assignment["sae.l1_alpha"], 0.9))
    search.tell(point.assignment, told(curve(point.assignment["sae.l1_alpha"])))
    assert run(search, curve)
    assert all("history" not in note for note in search.notes())


def test_every_cell_is_searched_and_fails_alone() -> None:
    space = {"sae.n_latents": {"grid": [64, 128]}, "sae.l1_alpha": AXIS}
    search = make_search(space=space, trials=20)
    while points := search.ask(1):
        [point] = points
        good = point.assignment["sae.n_latents"] == 64
        alpha = point.assignment["sae.l1_alpha"]
        search.tell(point.assignment, told(logistic(0.5)(alpha) if good else 0.3))
    notes = search.notes()
    assert [note for note in notes if note.startswith("sae.n_latents=64: reached")]
    assert [note for note in notes if note.startswith("sae.n_latents=128: l0_fraction 0.05 is out")]


def refusal(curve: Curve, **settings: Any) -> str:
    search = make_search(trials=40, **settings)
    found = run(search, curve)
    assert len(found) < 15
    return search.notes()[-1]


def test_a_target_beyond_the_ends_of_the_axis_is_out_of_reach() -> None:
    assert refusal(lambda alpha: 0.6 / (1 + alpha) ** 0.1) == (
        "l0_fraction 0.05 is out of reach: at the upper end of the axis, sae.l1_alpha=100, it is "
        "0.3782; widen the axis or choose another target"
    )
    assert "at the lower end of the axis, sae.l1_alpha=0.01, it is 0.59" in refusal(
        logistic(1.0), target=0.9
    )


def test_a_response_that_rises_is_refused() -> None:
    assert refusal(lambda alpha: 0.06 * alpha**0.3).startswith(
        "the response is not monotone: l0_fraction"
    )


def test_a_jump_over_the_target_is_refused() -> None:
    assert refusal(lambda alpha: 0.4 if alpha < 7 else 0.01).startswith(
        "L0 jumps over the target 0.05 between sae.l1_alpha="
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"sae.l1_alpha": {"uniform": [1, 2]}},
         r"draws sae\.l1_alpha alone, by loguniform, and the sweep draws "
         r"sae\.l1_alpha=\{uniform: \[1, 2\]\}"),
        ({"sae.l1_alpha": AXIS, "train.lr": AXIS}, r"train\.lr=\{loguniform: \[0\.01, 100\]\}"),
        ({"sae.l1_alpha": AXIS, "sae.kind": {"grid": ["l1", "topk"]}},
         r"search\.kind=target with sae\.kind=topk draws sae\.k alone, by int, and"),
    ],
)  # fmt: skip
def test_axes_that_it_cannot_use_are_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_search(space=space)
