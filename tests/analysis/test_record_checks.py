"""Doubtful records are labelled and counted, and stay in."""

from dataclasses import replace

import numpy as np
import pytest
from made_sweeps import Load, Ran
from scipy import stats

from analysis.findings import record_checks
from analysis.study.table import Study
from analysis.study.table import load as to_study


def trials(n: int = 9) -> list[Ran]:
    rng = np.random.default_rng(0)
    return [
        Ran(
            {"train.lr": 10.0**-i},
            {
                "fvu": (fvu := float(rng.uniform(0.2, 0.3))),
                "explained_variance": 1 - fvu,
                "l0": 8.0,
                "dead_features": float(rng.uniform(0.1, 0.2)),
            },
        )
        for i in range(n)
    ]


def study(load: Load, made: list[Ran]) -> Study:
    return to_study(load(made)[0])


def test_outliers_keep_their_rank(load: Load) -> None:
    made = trials()
    made[3].final |= {"fvu": 0.9, "explained_variance": 0.1}
    one = study(load, made)
    found = {item.metric.name: item for item in record_checks.outliers(one)}["fvu"]
    y = np.log10([trial.final["fvu"] for trial in made])
    z = 0.6745 * (y - np.median(y)) / stats.median_abs_deviation(y)
    assert found.z is not None
    far = {made[i].record.uid: z[i] for i in np.flatnonzero(np.abs(z) > 3.5)}
    assert made[3].record.uid in far
    assert dict(found.z) == pytest.approx(far)
    assert len(one.ranked) == len(made)


def test_without_spread_outliers_are_not_told(load: Load) -> None:
    made = trials()
    for trial in made[:6]:
        trial.final["dead_features"] = 0.0
    found = {item.metric.name: item for item in record_checks.outliers(study(load, made))}
    assert found["dead_features"].z is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        # the layer report's impossible row: more active than alive, and than k
        ({"l0": 100.0, "dead_features": 0.5}, "l0 <= alive latents"),
        ({"l0": 8.1}, "l0 <= k"),
        ({"explained_variance": 0.99}, "explained_variance = 1 - fvu"),
        ({"dead_features": 1.5}, "0 <= dead_features <= 1"),
    ],
)
def test_a_broken_rule_names_its_trials_and_nothing_is_dropped(
    load: Load, change: dict[str, float], rule: str
) -> None:
    made = trials()
    made[2].final |= change
    one = study(load, made)
    found = {item.rule: item.uids for item in record_checks.violations(one)}
    assert found[rule] == [made[2].record.uid]
    assert len(one.ranked) == len(made)


def test_right_records_break_no_rule(load: Load) -> None:
    one = study(load, trials())
    assert record_checks.violations(one) == []
    assert record_checks.duplicates(one) == []
    assert record_checks.skews(one) == []
    assert record_checks.gaps(one) == []


def test_copies_are_found_but_not_among_seeds(load: Load) -> None:
    made = trials()
    made[5].final = dict(made[1].final)
    assert record_checks.duplicates(study(load, made)) == [[made[1].record.uid, made[5].record.uid]]
    final = made[0].final
    seeds = [
        Ran({"train.lr": 1e-3, "train.seed_init": s, "train.seed_data": s}, final) for s in (0, 1)
    ]
    run = to_study(load(seeds, name="seeds")[0])
    assert record_checks.duplicates(run) == []


def test_a_linear_metric_that_one_trial_decides_is_named(load: Load) -> None:
    made = trials(12)
    made[0].final["dead_features"] = 0.99
    values = [trial.final["dead_features"] for trial in made]
    (found,) = record_checks.skews(study(load, made))
    assert found.metric.name == "dead_features"
    assert found.skewness == pytest.approx(stats.skew(values))
    assert found.max_over_median == pytest.approx(0.99 / np.median(values))


def test_what_is_not_finite_is_counted(load: Load) -> None:
    made = trials()
    made[0].final["dead_features"] = float("nan")
    made[1].final["dead_features"] = float("inf")
    del made[2].final["dead_features"]
    (found,) = record_checks.gaps(study(load, made))
    assert (found.metric.name, found.missing, found.n) == ("dead_features", 3, len(made))


@pytest.mark.parametrize(
    ("steps", "missing"),
    [
        (list(range(10, 610, 10)), 0),
        ([*range(10, 310, 10), *range(410, 610, 10), 605], 10),
        ([30, 40, 50, 60], 2),
        ([10, 20, 30, 40, 45], 0),
        ([10, 20, 30, 50, 100, 150], 0),  # resumed with another report_every
        ([50, 100, 110, 120, 130], 0),
        ([10, 20], 0),
        ([], 0),
    ],
)
def test_reports_that_the_store_has_lost_are_counted(load: Load, steps, missing) -> None:
    one, other = trials(2)
    found = study(load, [one, other])
    curve = np.array(steps), np.zeros(len(steps))
    found = replace(found, history=lambda uids, metric: {one.record.uid: curve})
    lost = record_checks.missing_reports(found)
    assert (lost.missing, lost.reported) == (missing, len(steps))
    assert lost.uids == ([one.record.uid] if missing else [])
