"""The l0 at which decoder rows are least alike."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from made_sweeps import grid, right_l0, write_store

from analysis.context import ReportContext
from analysis.page.blocks import markdown
from analysis.study.table import load
from analysis.topics import right_l0 as topic
from analysis.topics.right_l0 import PointsTo
from sae_sweep.records.store import Reader


def blocks(folder: Path, trials: list) -> list:
    with Reader(write_store(folder, trials)) as reader:
        return topic.right_l0(ReportContext(load(reader.sweep())))


@pytest.mark.parametrize(
    ("cosines", "expected", "words"),
    [
        ((0.09, 0.07, 0.05, 0.06, 0.08), (16, 8, 32, 4, 4), "lies between 8 and 32"),
        ((0.09, 0.08, 0.07, 0.06, 0.05), (64, 32, None, 8, 0), "above 32 and may be above all"),
        ((0.05, 0.06, 0.07, 0.08, 0.09), (4, None, 8, 0, 8), "below 8 and may be below all"),
    ],
)
def test_the_lowest_cosine_is_found_with_its_neighbours(
    tmp_path: Path, cosines: Sequence[float], expected: tuple, words: str
) -> None:
    made = blocks(tmp_path, right_l0(cosines))
    (found,) = [one for one in made if isinstance(one, PointsTo)]
    assert found == PointsTo("topk", 128, 5, *expected, 10)
    assert words in found.words
    side = {16: None, 64: "below", 4: "above"}[expected[0]]
    assert ("most of the sweep lies" in found.words) == (side is not None)
    assert side is None or f"lies {side}**" in found.words
    assert "| topk | 128 | 16 |" in markdown(made)


def test_three_values_of_l0_point_nowhere(tmp_path: Path) -> None:
    assert blocks(tmp_path, right_l0((0.1, 0.05, 0.1))) == []


def test_a_sweep_without_the_metric_has_no_such_topic(tmp_path: Path) -> None:
    assert blocks(tmp_path, grid()) == []
