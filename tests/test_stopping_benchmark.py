"""The benchmark of stop policies: its measure of a front, and its table."""

import numpy as np
import pytest

from benchmarks import stopping
from benchmarks.stopping import BOUNDS, hypervolume


def test_the_hypervolume_is_the_share_of_points_that_are_dominated() -> None:
    random = np.random.default_rng(0)
    for _ in range(3):
        fvu, l0 = 10 ** random.uniform(-2.2, 0, 12), 10 ** random.uniform(-1, 3.2, 12)
        low, high = np.log(np.array(list(BOUNDS.values()))).T
        drawn = np.exp(low + (high - low) * random.uniform(size=(40_000, 2)))
        dominated = ((fvu[:, None] <= drawn[:, 0]) & (l0[:, None] <= drawn[:, 1])).any(axis=0)
        volume = hypervolume(list(zip(fvu, l0, strict=True)))
        assert volume == pytest.approx(dominated.mean(), abs=4 * 0.5 / 200)


def test_a_point_at_the_reference_adds_nothing_and_the_ideal_one_is_all() -> None:
    assert hypervolume([(1.0, 0.1), (0.01, 1000.0)]) == 0
    assert hypervolume([(0.01, 0.1), (0.5, 3.0)]) == pytest.approx(1)


def test_a_policy_stands_beside_the_undisturbed_sweep() -> None:
    about = {"date": "2026-01-02", "versions": "torch 9", "cpu_name": "a core", "trials": 4}
    front = {"a": [0.1, 30.0], "b": [0.2, 10.0], "c": [0.4, 3.0]}
    whole = about | {
        "steps": 400,
        "stopped": [],
        "front": front,
        "hypervolume": 0.5,
        "replayed": {"stop=halving": ["a", "d"]},
    }
    ended = whole | {"steps": 300, "stopped": ["a", "d"], "hypervolume": 0.4}
    missed = ended | {"stopped": ["d"]}
    lines = {"none": whole, "stop=halving": ended, "another": missed}
    rows = [line for line in stopping.render(lines).splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| none | 0 | 0.0 % | 3 of 3 | yes | 0.5000 | +0.00 % |  |",
        "| stop=halving | 2 | 25.0 % | 2 of 3 | no | 0.4000 | -20.00 % | yes |",
        "| another | 1 | 25.0 % | 3 of 3 | yes | 0.4000 | -20.00 % |  |",
    ]
