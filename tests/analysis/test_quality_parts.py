"""Thresholds, grids, matched curves and groups against published figures and planted truths."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Load, Ran, write_store
from quality_sweeps import published_grid, two_kinds, write_tables

from analysis import report
from analysis.cli import main
from analysis.findings.thresholds import load as read_thresholds
from analysis.page import style
from analysis.study.table import load as to_study
from analysis.topics import grids
from analysis.topics.equal_l0 import matched
from analysis.topics.groups import specific
from sae_sweep.errors import BadInput
from sae_sweep.records.store import Reader

pytestmark = pytest.mark.figures

ROW = 'metric = "l0"\nunit = "latents/token"\nsource = "mine"\n'


def bands(*ends: str) -> str:
    return "\n".join(f'[[band]]\n{ROW}grade = "g{i}"\n{end}' for i, end in enumerate(ends))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bands("to = 10", "from = 20"), "band 2: l0 g1 begins at 20, but .* ends at 10: a gap"),
        (bands("to = 20", "from = 10"), r"band 2: l0 g1 begins at 10, .* reaches to 20: they over"),
        (bands("to = 10"), "l0 has no band from 10 on: a gap; leave out the `to` of band 1"),
        (bands("from = 10"), "band 1: l0 g0 begins at 10, but nothing stands below: a gap"),
        (bands("from = 5\nto = 5"), "band 1: from=5 is not below to=5"),
        (bands('from = "5"'), "band 1: from=5 and to=inf must be numbers"),
        (bands("above = 5"), "band 1: unknown above"),
        (
            bands("").replace("latents/token", "percent"),
            "l0 is in percent, but measured in latents",
        ),
        (bands("").replace('"l0"', '"absorption"'), "no metric is called absorption: fvu, "),
        (bands("").replace('source = "mine"', ""), "band 1: source=None is no text"),
        (bands("", ""), "band 2: l0 g1 begins at -inf, but .* reaches to inf: they overlap"),
        ("", "has no band"),
        ("band = 3", "band is no list of rows"),
        ("[bands]", "bands is no list of rows"),
        ("band = [3]", r"band 1 is no table: write \[\[band\]\]"),
        ("{", "cannot be read"),
        (bands("") + '\n[[ungraded]]\nmetric = "l0"\nreason = "r"', "l0 has bands too"),
        (bands("") + '\n[[ungraded]]\nmetric = "fvu"', "ungraded 1: give metric"),
    ],
)
def test_a_bad_table_of_thresholds_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=rf"--thresholds=.*mine\.toml.*{message}"):
        read_thresholds(path)


def test_every_number_has_one_band_and_dead_features_none() -> None:
    table = read_thresholds()
    for metric in table.bands:
        for value in (-1.0, 0.0, 0.25, 1.0, 2.0, 5.0, 7.5, 200.0, 1e9):
            assert table.band(metric, value) is not None
    assert table.band("dead_features", 0.1) is None
    assert "contradict" in table.ungraded["dead_features"]


@pytest.mark.slow
def test_the_report_grades_by_a_table_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = write_store(tmp_path, published_grid()[:2])
    mine = tmp_path / "mine.toml"
    mine.write_text(bands("to = 5", "from = 5"))
    arguments = ["report", "--store", url, "--outputs", str(tmp_path / "out"), "--thresholds"]
    assert main([*arguments, str(mine)]) == 0
    text = (tmp_path / "out" / "study" / "details.md").read_text()
    assert "l0 5 g1 (5 or more)" in text
    assert "SAE Training Quality" not in text
    mine.write_text(bands("to = 5"))
    assert main([*arguments, str(mine)]) == 2
    assert "l0 has no band from 5 on" in capsys.readouterr().err


def test_gains_of_the_published_grid(load: Load) -> None:
    study = to_study(load(published_grid())[0])
    found = grids.grid(study, "explained_variance")
    assert found is not None
    ends = [row[-1] for row in grids.gains(found, "n_latents")]
    assert [one.points for one in ends] == pytest.approx([1.7, 0.3, 1.5, 0.1])
    assert [round(one.percent, 2) for one in ends] == [2.42, 0.39, 1.87, 0.11]
    assert [round(one.of_unexplained, 1) for one in ends] == [5.7, 1.3, 7.7, 0.8]
    by_k = grids.gains(found, "k")
    assert [round(row[-1].points, 1) for row in by_k] == [17.6, 17.0, 16.0]
    assert [round(row[0].points, 1) for row in by_k] == [6.3, 5.6, 4.9]
    last = [row[2] for row in by_k]
    assert [round(one.points, 1) for one in last] == [7.4, 6.7, 6.0]
    assert [round(one.percent, 1) for one in last] == [9.2, 8.2, 7.3]


def test_alive_latents_of_the_published_grid(load: Load) -> None:
    study = to_study(load(published_grid())[0])
    alive = {(one.sparsity, one.n_latents): one.medians["alive"] for one in grids.use(study)}
    at_100 = [round(alive[100, m]) for m in (512, 1024, 2048)]
    assert at_100 == [512, 1007, 1888]
    assert [round(alive[5, m], 1) for m in (512, 2048)] == [74.2, 98.3]
    assert round(alive[20, 1024], 1) == 357.4
    assert grids.impossible(study) == []


def test_a_grid_of_many_values_is_no_grid(load: Load) -> None:
    trials = [
        Ran({"sae.k": k, "sae.n_latents": m}, {"fvu": 1 / k, "dead_features": 0.1, "l0": k})
        for k in range(2, 14)
        for m in (64, 128)
    ]
    assert grids.grid(to_study(load(trials)[0]), "fvu") is None


def test_matched_curves_follow_a_power_law_inside_their_ranges_only(load: Load) -> None:
    found = matched(to_study(load(two_kinds())[0]))
    assert found is not None
    assert found.common == [8, 16, 32]
    for one in found.curves:
        factor = (1.3 if one.kind == "l1" else 1.0) * (256 / one.n_latents) ** 0.2
        for l0 in found.common:
            assert one.at(l0) == pytest.approx(0.9 * factor * l0**-0.4, rel=1e-6)
        with pytest.raises(AssertionError, match="is outside"):
            one.at(1.01 * one.l0[-1])


def frequencies(rates: np.ndarray, sizes: np.ndarray, seed: int) -> pd.DataFrame:
    fired = np.random.default_rng(seed).binomial(sizes, rates)
    columns = {f"frequency_g{i}": fired[:, i] / n for i, n in enumerate(sizes)}
    return pd.DataFrame({"id": range(len(rates)), **columns})


def sized(sizes: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"tokens": sizes}, index=[f"g{i}" for i in range(len(sizes))])


def test_planted_latents_are_found_and_no_others() -> None:
    sizes = np.array([4000, 3000, 2000, 30])
    rates = np.repeat(np.random.default_rng(0).uniform(0.001, 0.1, (500, 1)), 4, axis=1)
    rates[:4], rates[4:7] = [0.05, 0.0005, 0, 0], [0, 0, 0.05, 0.9]
    rates[7] = [0.002, 0, 0, 0]  # eight tokens: too few to say
    rates[8] = [0.05, 0.01, 0.01, 0]  # only five times as often
    found = specific.compare(frequencies(rates, sizes, 1), sized(sizes))
    assert found is not None
    told = dict(zip(found.specific["id"], found.specific["group"], strict=True))
    assert told == dict.fromkeys(range(4), "g0") | dict.fromkeys(range(4, 7), "g2")
    assert found.left_out == ["g3"]
    assert found.by_chance < 0.2


def test_what_is_expected_by_chance_is_what_chance_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specific, "SPECIFIC", 1.5)
    monkeypatch.setattr(specific, "LEAST_FIRED", 5)
    sizes = np.array([3000, 1000, 1000])
    rates = np.full((2000, 3), 0.005)
    found = specific.compare(frequencies(rates, sizes, 2), sized(sizes))
    assert found is not None
    fired = np.random.default_rng(3).binomial(sizes, rates) / sizes
    top = np.sort(fired, axis=1)
    passing = (top[:, 2] >= 1.5 * top[:, 1]) & ((fired == top[:, 2:]) @ sizes * top[:, 2] >= 5)
    assert found.by_chance == pytest.approx(passing.sum(), rel=0.15)
    assert passing.sum() > 100
    # the adjusted test lets none of them through
    assert len(found.specific) == 0


def test_groups_of_few_tokens_are_not_compared() -> None:
    sizes = np.array([1000, 50])
    assert specific.compare(frequencies(np.full((9, 2), 0.1), sizes, 0), sized(sizes)) is None


@pytest.mark.slow
def test_the_figures_are_drawn_and_come_out_the_same_twice(tmp_path: Path) -> None:
    trials = two_kinds()
    for trial in trials:
        trial.curve = [1.0, 0.5, 0.4]
    drawn = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        outputs = tmp_path / name / "out"
        write_tables(outputs, trials)
        with Reader(write_store(tmp_path / name, trials)) as reader:
            page = report.render(reader.sweep(), outputs / "study", reader.history)
        names = ("matched", "response", "groups", "comparison")
        drawn.append([(page.parent / "figures" / f"{one}.png").read_bytes() for one in names])
        assert all(
            f"figures/{one}.png)" in page.with_name("details.md").read_text() for one in names
        )
    assert drawn[0] == drawn[1]


def test_a_width_has_one_colour_and_many_widths_have_shades(load: Load) -> None:
    found = style.widths(to_study(load(two_kinds())[0]))
    assert found == {256: style.COLOURS[0], 512: style.COLOURS[1]}
    many = [Ran({"sae.n_latents": m}, {"fvu": 0.1}) for m in range(100, 108)]
    shades = style.widths(to_study(load(many, name="many")[0]))
    assert len(set(shades.values())) == len(many)
