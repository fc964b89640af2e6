"""The report's section on searches."""

from pathlib import Path
from typing import Any

from made_sweeps import Ran, write_store

from analysis.context import ReportContext
from analysis.page.blocks import markdown
from analysis.study.table import load
from analysis.topics.searching import search
from sae_sweep.records.store import Reader


def section(folder: Path, trials: list[Ran], **settings: Any) -> str:
    config = {"search": {"trials": 9, "tolerance": 0.1, **settings}}
    with Reader(write_store(folder, trials, config=config)) as reader:
        return markdown(search(ReportContext(load(reader.sweep("study")))))


def ran(alpha: float, l0: float, **fields: Any) -> Ran:
    final = {"l0_fraction": l0, "fvu": 0.3, "l0_fraction_last_half": l0 + 0.01}
    return Ran({"sae.l1_alpha": alpha}, **({"final": final} | fields))


def test_each_trial_of_a_target_search_stands_with_result_diagnosis_and_decision(
    tmp_path: Path,
) -> None:
    lost = ran(3.0, 0, status="diverged", final={}, error="nan")
    worse = ran(8.0, 0.01, final={"l0_fraction": 0.01, "fvu": 1.5})
    found = section(
        tmp_path, [ran(2.0, 0.1), worse, lost, ran(4.0, 0.052)], kind="target", target=0.05
    )
    assert (
        "- Sought by target: l0_fraction 0.05; 4 trials of at most 9; 1 came within 10 %, trial 4 "
        "the first." in found
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()[6:]]
    assert [row[3:5] for row in rows[2:]] == [
        ["0.1", "+100.0 %"],
        ["0.01", "-80.0 %"],
        ["-", "-"],
        ["0.052", "+4.0 %"],
    ]
    assert [row[6:] for row in rows[2:]] == [
        ["too dense", "4 times the l1_alpha"],
        ["too sparse; fvu not below 1", "0.375 times the l1_alpha"],
        ["diverged", "1.33 times the l1_alpha"],
        ["on target", "end"],
    ]


def test_a_target_that_was_not_met_is_said(tmp_path: Path) -> None:
    found = section(tmp_path, [ran(2.0, 0.1)], kind="optuna", target=0.05)
    assert "; none came within 10 %." in found


def test_objectives_and_constraints_are_named_with_the_front(tmp_path: Path) -> None:
    trials = [ran(a, l0, final={"fvu": fvu, "l0": 64 * l0}) for a, l0, fvu in
              [(1.0, 0.5, 0.1), (2.0, 0.3, 0.2), (3.0, 0.4, 0.3)]]  # fmt: skip
    found = section(
        tmp_path,
        trials,
        kind="optuna",
        sampler="nsga2",
        objective=["fvu", "l0"],
        constraints=["fvu <= 0.5"],
    )
    assert "Sought by Optuna's nsga2: fvu down and l0 down" in found
    assert "down, under the constraints fvu &lt;= 0.5; 3 trials of at most 9, 2 und" in found
    assert [line.endswith("| undominated |") for line in found.splitlines()[8:]] == [
        True,
        True,
        False,
    ]


def test_a_grid_has_no_such_section(tmp_path: Path) -> None:
    assert section(tmp_path, [ran(2.0, 0.1)], kind="grid") == ""
