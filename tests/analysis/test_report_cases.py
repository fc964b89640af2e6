"""Small sweeps on which a report can go wrong: what its claims must say, read from their fields."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis import contents
from analysis.context import ReportContext
from analysis.findings.ranking import picks
from analysis.foreign.sweep import Request, import_sweep
from analysis.page.blocks import record
from analysis.study.table import Study, load
from analysis.topics.summary import summary

DATA = Path(__file__).parents[1] / "data" / "report"

Found = list[dict[str, Any]]
EFFECTS = {"Goes", "Flat", "Bent", "Differs", "Interacts", "BestLevel", "Switched", "TradeOff"}


def read(name: str, **overrides: str) -> tuple[Study, Found]:
    """A case's study and every claim of its report, as plain values."""
    sweep, imported = import_sweep(Request(DATA / f"{name}.csv", name, overrides=overrides))
    study = dataclasses.replace(load(sweep), imported=imported)
    context = ReportContext(study)
    topics = [block for topic in contents.TOPICS for block in topic.section(context)]
    blocks = [*summary(context), *topics]
    return study, [record(block) for block in blocks if not isinstance(block, str)]


def of(found: Found, *kinds: str, **fields: Any) -> Found:
    """Claims of some kinds with these fields."""
    return [
        one
        for one in found
        if one["kind"] in kinds and all(one.get(key) == value for key, value in fields.items())
    ]


def test_an_optimum_that_moves_is_told_with_the_best_level_of_each() -> None:
    _, found = read("d01_interaction")
    first = next(one for one in found if one["kind"] in EFFECTS)
    assert (first["kind"], first["first"], first["second"]) == ("Interacts", "lr", "k")
    assert first["moves"]
    best = {at: level for at, level, _ in first["best"]}
    assert best == {"16": "0.0008", "32": "0.0004", "64": "0.0002", "128": "0.0001"}


def test_failures_are_an_outcome_and_no_pick_has_a_failed_seed() -> None:
    study, found = read("d02_failures")
    (cause,) = {one["hyperparameter"] for one in of(found, "FailuresBySetting")}
    assert cause == "lr"
    levels = of(found, "FailuresBySetting")[0]["levels"]
    assert [(name, lost, n) for name, lost, n, *_ in levels] == [
        ("0.0001", 0, 8),
        ("0.0004", 0, 8),
        ("0.0016", 5, 8),
    ]
    assert int(study.where("diverged").sum()) == 5
    picked = picks(study)
    assert picked
    assert all(study.configurations["lost"][one.uid] == 0 for one in picked)


def test_flat_then_worse_is_told_with_its_size() -> None:
    _, found = read("d03_hockey")
    (one,) = {str(x): x for x in of(found, "Flat", hyperparameter="lr", metric="fvu")}.values()
    assert (one["starts_flat"], one["turn"], one["end"]) == (True, "0.0004", "0.0016")
    assert 10 ** one["change"] == pytest.approx(1.82, abs=0.01)


@pytest.mark.parametrize("name", ["d04_heteroscedastic", "d05_once", "d11_noise_beaten"])
def test_noise_is_no_effect(name: str) -> None:
    _, found = read(name)
    assert not of(found, *EFFECTS)


def test_identical_rows_are_one_observation() -> None:
    _, once = read("d05_once")
    study, thrice = read("d05_three_times")
    assert not of(thrice, *EFFECTS)
    assert len(study.ranked) == 12
    assert of(thrice, "Repeated", identical=24)
    for kind in ("NotDetected", "OnFront", "First"):
        assert of(thrice, kind) == of(once, kind)


def test_checkpoints_of_one_run_count_once() -> None:
    study, found = read("d06_checkpoints")
    assert of(found, "Folded", rows=48, runs=12, step="steps", id="run_id")
    assert len(study.trials) == 12
    assert not of(found, *EFFECTS)


def test_too_few_draws_are_not_called_confounded() -> None:
    _, found = read("d07_random12")
    assert of(found, "TooFew", configurations=12)
    assert not of(found, "Aliased")


def test_a_ruinous_setting_is_told_and_what_is_left_is_called_survivors() -> None:
    _, found = read("d08_collapse")
    causes = {one["hyperparameter"] for one in of(found, "FailuresBySetting")}
    assert causes == {"aux_coeff"}
    lost = [(lost, n) for _, lost, n, *_ in of(found, "FailuresBySetting")[0]["levels"]]
    assert lost == [(0, 18), (0, 18), (7, 18), (13, 18)]


def test_the_adjusted_effect_is_the_claim_and_the_raw_one_a_warning() -> None:
    _, found = read("d09_simpson")
    one = of(found, "Goes", hyperparameter="lr", metric="fvu")[0]
    assert 10 ** one["change"] == pytest.approx(0.737, abs=0.01)
    assert one["sign"] == -1
    assert one["raw_disagrees"]
    assert one["raw"] == pytest.approx(0.09, abs=0.01)


def test_shared_seeds_are_blocks_of_one_noise_floor() -> None:
    _, found = read("d10_paired")
    assert of(found, "Goes", hyperparameter="aux_coeff", metric="fvu", sign=1)
    (step,) = {one["distance"] for one in of(found, "Detectable", metric="fvu")}
    assert 10**step < 1.06
    lowest = of(found, "First", metric="fvu")[0]
    assert lowest["tied"] < 11
    assert "aux_coeff0_" in lowest["label"]


def test_noise_beats_nobody_and_all_are_tied() -> None:
    _, found = read("d11_noise_beaten")
    for one in of(found, "OnFront"):
        assert one["on_front"] + one["within_noise"] == one["n"]
    assert of(found, "First", metric="fvu")[0]["tied"] == 29


def test_k_stands_in_for_l0() -> None:
    study, found = read("d12_topk_without_l0")
    chosen = {one.title: one for one in picks(study)}
    assert "k down" in of(found, "OnFront")[0]["objectives"]
    assert study.value(chosen["Extreme sparsity"].uid, "k") == 5
    assert chosen["Balanced"].criterion == "lowest mean rank of fvu, dead_features and k"
    assert "k down" in chosen["Balanced"].undominated_in


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("d13_seed_layer_quality", {"always_on", "dead_features", "l0"}),
        ("d16_no_fvu", {"l0", "dead_features", "loss"}),
    ],
)
def test_a_missing_fvu_is_named_with_what_there_is(name: str, measured: set[str]) -> None:
    _, found = read(name)
    (one,) = of(found, "NothingRanked")
    assert one["without_fvu"]
    assert set(one["measured"]) >= measured


def test_trajectories_are_five_runs() -> None:
    study, found = read("d14_seed_trajectories")
    assert len(study.trials) == 5
    assert of(found, "Folded", rows=29, runs=5, step="step", id="run_id")


def test_widths_within_a_tenth_are_one_size() -> None:
    study, _ = read("d15_small_model")
    (small,) = [one for one in picks(study) if one.title == "Small model"]
    assert study.value(small.uid, "n_latents") == 1552


def test_draws_that_follow_the_results_are_no_design() -> None:
    _, found = read("d17_adaptive_sign")
    assert not of(found, *EFFECTS)
    (said,) = of(found, "Established")
    assert said["settings"] == ("lr", "aux_coeff")
    assert said["tied"] is None
