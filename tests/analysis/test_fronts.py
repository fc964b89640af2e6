"""Fronts, what noise makes of them, and the knee: published figures and brute force."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from made_sweeps import Load, Ran
from scipy import stats

from analysis.findings import noise
from analysis.findings.fronts import chance_on_front, chances, costs, fronts, standings
from analysis.statistics.knee import bounds, knee
from analysis.study.table import load as to_study
from sae_sweep.records import METRICS

GRID = pd.read_csv(Path(__file__).parents[1] / "data" / "topk_grid.csv")
UNEXPLAINED = 1 - GRID["explained_variance"]
points = st.lists(st.tuples(*[st.floats(0, 1.2)] * 2), min_size=1, max_size=12)


def normalised(*columns: pd.Series) -> np.ndarray:
    values = np.column_stack(columns)
    edges = bounds(values)
    assert edges is not None
    return edges.normalised(values)


def brute_front(values: np.ndarray) -> np.ndarray:
    return np.array([not any((a <= b).all() and (a < b).any() for a in values) for b in values])


@pytest.mark.parametrize(
    ("k", "expected"), [(np.log10(GRID["k"]), 0.106), (GRID["k"], 0.311)], ids=["log", "linear"]
)
def test_the_knee_of_the_published_grid_is_at_k_20(k: pd.Series, expected: float) -> None:
    values = normalised(k, UNEXPLAINED)
    front = np.flatnonzero(brute_front(values))
    found = knee(values[front])
    assert found is not None
    assert GRID["k"][front[found.place]] == 20
    assert found.distance == pytest.approx(expected, abs=5e-4)
    turned = knee(values[front][::-1])
    assert turned is not None
    assert turned.distance == pytest.approx(found.distance)


def test_a_straight_front_a_bulge_and_two_points_have_no_knee() -> None:
    assert knee(np.array([[0, 1], [0.5, 0.5], [1, 0]])) is None
    assert knee(np.array([[0, 1], [0.9, 0.9], [1, 0]])) is None
    assert knee(np.array([[0, 1.0], [1, 0]])) is None


def test_the_chances_of_the_published_grid_at_a_noise_of_a_thousandth() -> None:
    values = np.column_stack([UNEXPLAINED, GRID["k"], GRID["d_sae"]])
    share, draws = chance_on_front(values, np.tile([0.001, 0, 0], (12, 1)))
    found = dict(zip(zip(GRID["k"], GRID["d_sae"], strict=True), share, strict=True))
    assert draws == 1000
    # four standard errors of 1,000 draws
    assert found[100, 2048] == pytest.approx(0.24, abs=0.055)
    assert found[10, 1024] == pytest.approx(0.76, abs=0.055)
    assert min(one for key, one in found.items() if key not in {(100, 2048), (10, 1024)}) >= 0.88


def test_the_chance_against_one_rival_is_the_normal_distributions() -> None:
    share, draws = chance_on_front(np.array([[0.0], [0.5]]), np.full((2, 1), 1.0))
    expected = stats.norm.cdf(-0.5 / np.sqrt(2))
    assert share[1] == pytest.approx(expected, abs=4 * np.sqrt(0.25 / draws))
    assert share.sum() == pytest.approx(1)


def test_what_no_noise_can_turn_is_not_drawn_and_never_on_the_front() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2))
    sds = np.full((40, 2), 1e-6)
    share, _ = chance_on_front(values, sds)
    np.testing.assert_array_equal(share, brute_front(values).astype(float))


def seeded(n: int = 8) -> list[Ran]:
    rng = np.random.default_rng(3)
    trials = []
    for i in range(n):
        place, off = rng.uniform(0, 1), rng.choice([0.0, 0.05, 0.5])
        fvu, dead = 0.1 + 0.3 * place, 0.4 - 0.3 * place + off
        for seed in range(3):
            assignment = {"train.lr": 10.0**-i, "train.seed_init": seed, "train.seed_data": seed}
            final = {
                "fvu": fvu * np.exp(0.1 * rng.normal()),
                "dead_features": abs(dead + 0.05 * rng.normal()),
                "l0": 8.0,
            }
            trials.append(Ran(assignment, final))
    return trials


def test_standings_are_those_of_all_pairs_within_the_detectable_difference(load: Load) -> None:
    study = to_study(load(seeded(30))[0])
    (front,) = fronts(study)
    values = costs(study, front)
    floors = [noise.floor(study, METRICS[name]) for name in ("fvu", "dead_features")]
    sds = []
    for floor in floors:
        assert floor is not None
        own = floor.spreads.loc[study.configurations.loc[values.index, "configuration"]]
        sds.append(np.maximum(own.to_numpy(), floor.sd))

    def eps(i: int, j: int) -> np.ndarray:
        """What tells two of the 30 apart in each metric: the larger of their own sd counts."""
        return np.array(
            [
                floor.errors * max(sd[i], sd[j]) * np.sqrt(2 / 3)
                for floor, sd in zip(floors, sds, strict=True)
                if floor is not None
            ]
        )

    matrix, on = values.to_numpy(), brute_front(values.to_numpy())
    expected = [
        "on front"
        if on[i]
        else "clearly beaten"
        if any(
            (a <= b + eps(i, j)).all() and (a < b - eps(i, j)).any()
            for j, a in enumerate(matrix)
            if on[j]
        )
        else "within noise"
        for i, b in enumerate(matrix)
    ]
    assert list(standings(study, front)) == expected
    assert "within noise" in expected


def test_dominance_is_of_the_means_over_seeds(load: Load) -> None:
    trials = seeded(4)
    study = to_study(load(trials)[0])
    frame = pd.DataFrame([{**one.assignment, **one.final} for one in trials])
    mean = frame.groupby("train.lr", sort=False).agg(
        fvu=("fvu", stats.gmean), dead=("dead_features", "mean")
    )
    np.testing.assert_allclose(study.configurations[["fvu", "dead_features"]], mean)
    assert len(fronts(study)[0].uids) == brute_front(mean.to_numpy()).sum()


def test_without_seeds_there_are_no_chances(load: Load) -> None:
    study = to_study(load(seeded()[::3])[0])
    (front,) = fronts(study)
    assert chances(study, front) is None
    assert set(standings(study, front)) == {"on front", "clearly beaten"}
