"""Tables as other tools write them: no guess becomes a fact."""

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cli import main
from analysis.foreign import Request, cells, import_sweep, literals
from analysis.foreign.imported import Imported
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord

pytestmark = pytest.mark.figures

DATA = Path(__file__).parents[1] / "data" / "inputs"


def read(path: Path, **said: str) -> tuple[list[TrialRecord], Imported]:
    sweep, imported = import_sweep(Request(path, "elsewhere", overrides=said))
    return [member.trial for member in sweep.members], imported


def words(imported: Imported) -> str:
    return " ".join(note.words for note in imported.notes)


def rules(imported: Imported) -> dict[str, str]:
    return {one.theirs: one.rule for one in imported.columns}


def table(tmp_path: Path, text: str, name: str = "runs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["runs_bom.jsonl", "dollar_names.csv", "wandb_api_nan.csv"])
def test_every_run_is_read_with_its_settings(name: str) -> None:
    trials, _ = read(DATA / name)
    assert len(trials) == 18
    assert {tuple(sorted(one.config["sae"])) for one in trials} == {("k", "n_latents")}
    assert len({json.dumps(one.config) for one in trials}) == 18


def test_an_infinity_in_one_config_costs_no_settings() -> None:
    trials, imported = read(DATA / "wandb_api_inf_config.csv")
    assert len({(one.config["sae"]["k"], one.config["train"]["lr"]) for one in trials}) == 9
    assert "1 column that varies is not read: `config.clip`" in words(imported)


def test_a_diverged_run_is_not_done() -> None:
    trials, imported = read(DATA / "wandb_api_nan.csv")
    assert [one.status for one in trials].count("diverged") == 1
    assert "17 rows taken as done, 1 whose reconstruction is not finite" in words(imported)


def test_a_cell_that_is_no_dict_among_dicts_is_refused_by_its_place(tmp_path: Path) -> None:
    text = """name,config,fvu
a,"{'k': 4, 'lr': inf, 'w': np.float64(0.5), 'x': None}",0.5
b,"{'k': 8, 'model': <class 'm.Model'>}",0.4
"""
    path = table(tmp_path, text)
    with pytest.raises(BadInput, match=r"row 2: column config holds dicts, .* --map 'config=ig"):
        read(path)
    trials, _ = read(path, config="ignore")
    assert len(trials) == 2
    (tmp_path / "one.csv").write_text("\n".join(text.splitlines()[:2]))
    trials, _ = read(tmp_path / "one.csv")
    assert trials[0].config == {"sae": {"k": 4}, "train": {"lr": "inf"}}


def test_separators_of_thousands_are_refused(tmp_path: Path) -> None:
    message = r"column d_sae, row 1: '1,024' is no number that can only be read in one way"
    with pytest.raises(BadInput, match=message):
        read(DATA / "csv_thousands.csv")
    for cell in ('"0,0001"', "16k", "1'024", "1 024", "1_024"):
        with pytest.raises(BadInput, match=r"column lr, row 1: .* is no number that can only"):
            read(table(tmp_path, f"lr,fvu\n{cell},0.5\n"))


def test_an_optuna_frame_keeps_its_states_and_durations() -> None:
    trials, imported = read(DATA / "optuna_frame.csv", value="fvu")
    assert sorted({one.status for one in trials}) == ["done", "failed", "stopped"]
    assert trials[0].seconds == pytest.approx(60.123)
    assert rules(imported)["(column 1)"] == "numbers the rows"
    assert "column 1" not in words(imported)
    assert {"lr", *trials[0].config["train"]} == {"lr"}


def test_of_several_run_times_the_first_is_taken() -> None:
    trials, imported = read(DATA / "wandb_runtime.csv")
    assert {one.seconds for one in trials} == {120.0}
    assert rules(imported)["_wandb.runtime"] == "Runtime says it"


def test_run_folders_are_runs_and_nothing_else_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for i in range(9):
        folder = runs / f"run-{i}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"k": 4 * (i + 1)}))
        (folder / "metrics.json").write_text(json.dumps({"fvu": 0.5 - i / 99}))
        (folder / "._config.json").write_bytes(b"\x00\x05\x16\x07")
    (runs / "latest-run").symlink_to("run-8")
    for name in (".ipynb_checkpoints", "__MACOSX", "wandb-crashed"):
        (runs / name).mkdir()
    trials, imported = read(runs)
    assert [one.label for one in trials if one.status == "done"] == [f"run-{i}" for i in range(9)]
    (crashed,) = (one for one in trials if one.status != "done")
    assert (crashed.label, crashed.status) == ("wandb-crashed", "failed")
    said = words(imported)
    assert "3 names in the folder are hidden or a link to another one and no run" in said
    assert "9 rows taken as done, 1 without any metric as failed" in said


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.csv"
    shutil.copy(DATA / "dollar_names.csv", path)

    def deny(path: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(BadInput, match=r"import .*runs\.csv cannot be read \(Permission denied\)"):
        read(path)


def test_missing_numbers_of_pandas_are_named(tmp_path: Path) -> None:
    lines = '{"k": 4, "lr": 1e-3, "fvu": 0.5}\n{"k": 8, "lr": NaN, "fvu": 0.4}\n'
    trials, imported = read(table(tmp_path, lines, "runs.jsonl"))
    assert "lr" not in trials[1].config.get("train", {})
    assert "1 cell of `lr` is NaN: taken as not set" in words(imported)


def test_the_row_number_of_a_table_is_that_of_the_row(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="column fvu, row 2: 'x' is no number"):
        read(table(tmp_path, "k,fvu\n\n4,0.5\n8,x\n"))
    with pytest.raises(BadInput, match="column fvu, line 3: 'x' is no number"):
        read(table(tmp_path, '{"k": 4, "fvu": 0.5}\n\n{"k": 8, "fvu": "x"}\n', "runs.jsonl"))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
nested = st.recursive(plain, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@pytest.mark.slow
@given(nested)
def test_what_python_prints_is_read_back(value: Any) -> None:
    assert repr(literals.parse(repr(value))) == repr(value)


@given(st.text(max_size=30) | st.text("{}[]'\":,()-+.einfa0 ", max_size=30))
def test_any_text_is_a_literal_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        literals.parse(text)


@given(nested | st.binary() | st.datetimes() | st.decimals() | st.timedeltas())
def test_any_cell_becomes_a_setting_and_a_number_or_none(cell: Any) -> None:
    found = cells.setting(cell)
    assert found is None or isinstance(found, bool | int | float | str)
    assert not (isinstance(found, float) and not math.isfinite(found))
    assert isinstance(cells.number(cell), float | None)
    assert isinstance(cells.seconds(cell), float | None)
    assert math.isfinite(cells.half_digit(cell))


@given(st.floats(allow_nan=False) | st.integers(1 - 10**18, 10**18 - 1))
def test_numbers_keep_their_value_as_text_or_not(value: float) -> None:
    for cell in (value, repr(value), f" {value!r} "):
        found = cells.setting(cell)
        expected = value if math.isfinite(value) else repr(value)
        assert found == expected
        assert cells.number(cell) == float(value)


@given(st.text("0123456789_,.' eE+-", min_size=1, max_size=9))
def test_no_text_becomes_a_number_that_its_digits_do_not_spell(text: str) -> None:
    value = cells.number(text)
    if value is not None:
        assert not set("_,' ") & set(text.strip())


@pytest.mark.slow
def test_names_with_dollars_are_drawn_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(DATA / "dollar_names.csv"), "--name", "x"]) == 0
    assert list((tmp_path / "outputs" / "x" / "figures").glob("*.png"))
