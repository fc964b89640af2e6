"""Nothing that is read from a store, a cache or a sweep file is trusted."""

import json
import shutil
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cli import main as analyse
from sae_sweep import process
from sae_sweep.cli.compose import compose
from sae_sweep.cli.main import main
from sae_sweep.errors import BadInput, printable
from sae_sweep.records.names import checked_component, checked_name
from sae_sweep.records.store import Reader

TINY = [
    *("activations=synthetic", "activations.train_tokens=2048"),
    *("activations.validation_tokens=1024", "sae.n_latents=16", "sae.k=[2,4]", "train.epochs=1"),
    *("sweep.name=tiny", "executor=inline"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A sweep that has ended."""
    outputs = tmp_path_factory.mktemp("whole")
    assert main([*TINY, f"outputs={outputs}"]) == 0
    return outputs


@pytest.fixture
def finished(whole, tmp_path, capsys, monkeypatch) -> Path:
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "outputs")
    capsys.readouterr()
    return tmp_path / "outputs"


def change(outputs: Path, *statements: str) -> None:
    connection = sqlite3.connect(outputs / "sae_sweep.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name", ["../../victim", "/etc", "..", ".", "", "a/b", "a\0b", "\x1b]0;x\x07", "x" * 300, ".x"]
)
def test_a_name_that_leads_elsewhere_is_refused(name) -> None:
    with pytest.raises(BadInput, match="one plain path component"):
        checked_component(name)


@given(st.text())
def test_a_name_is_one_component_or_refused(name) -> None:
    try:
        checked_component(name)
    except BadInput:
        return
    assert Path("trials", name).parent == Path("trials")
    assert Path("trials", name).resolve().parent == Path("trials").resolve()
    assert printable(name) == name


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_names_of_the_stores_own_files_are_reserved(end) -> None:
    with pytest.raises(BadInput, match=rf"sweep.name=sae_sweep.db{end} cannot name a folder"):
        checked_name(f"sae_sweep.db{end}")


@pytest.mark.parametrize("label", ["../../victim/x", "/victim/x", "a/../../../victim/x"])
@pytest.mark.parametrize("command", ["forget", "export", "rerun", "status"])
def test_a_record_that_leads_out_of_the_outputs_is_refused(
    finished, tmp_path, capsys, label, command
) -> None:
    uid = next((finished / "trials").iterdir()).name.rpartition("-")[2]
    victim = tmp_path / "victim" / f"x-{uid}"
    victim.mkdir(parents=True)
    (victim / "sae.safetensors").touch()
    change(finished, f"UPDATE sweep_trial SET label = '{label}' WHERE uid = '{uid}'")
    words = ["--outputs", str(finished)]
    code = {
        "forget": lambda: main(["forget", "--status", "done", *words]),
        "export": lambda: main(["export", uid, "--format", "saelens", *words]),
        "rerun": lambda: main([*TINY, f"outputs={finished}", "rerun=all"]),
        "status": lambda: analyse(["status", *words]),
    }[command]()
    assert code == 2
    said = capsys.readouterr().err
    assert "is damaged or was written by something else" in said
    assert "restore it from a copy" in said
    assert (victim / "sae.safetensors").exists()
    assert len(list((finished / "trials").iterdir())) == 2


@pytest.mark.parametrize(
    "change_to",
    [
        "UPDATE sweep_trial SET uid = '../../../../x' WHERE pk = 1",
        "UPDATE sweep_trial SET status = 'well'",
        "UPDATE sweep_trial SET config = '{'",
        "UPDATE sweep_trial SET config = '[]'",
        'UPDATE sweep_trial SET final = \'{"fvu": "low"}\'',
        "UPDATE sweep_trial SET always_on_ids = '{}'",
        "UPDATE sweep_trial SET started = 'noon'",
        "UPDATE sweep_run SET name = '../x'",
        "UPDATE sweep_run SET config = 'x'",
        "UPDATE sweep_run SET finished = NULL, heartbeat = 'now'",
        "UPDATE sweep_run SET finished = NULL, owner = '[]'",
        "UPDATE sweep_metric SET value = 'low'",
        "UPDATE sweep_meta SET value = 'x' WHERE key = 'schema'",
        "DROP TABLE sweep_member",
    ],
)
def test_a_store_that_nobody_wrote_is_said_in_one_message(finished, capsys, change_to) -> None:
    change(finished, change_to)
    for command in ("status", "export"):
        code = analyse([command, "--outputs", str(finished)])
        said = capsys.readouterr().err
        assert (code, said.count("\n")) in {(0, 0), (2, 1)}, said
    assert main([*TINY, f"outputs={finished}"]) in {0, 1, 2}


@pytest.mark.parametrize("page", range(1, 12, 2))
def test_damaged_pages_of_the_database_are_said_in_one_message(finished, capsys, page) -> None:
    path = finished / "sae_sweep.db"
    data = bytearray(path.read_bytes())
    start = page * 4096
    data[start : start + 4096] = b"\xa5" * len(data[start : start + 4096])
    path.write_bytes(data)
    for command in (["status"], ["export"], ["compare", "exp", "x"]):
        code = analyse([*command, "--outputs", str(finished)])
        said = capsys.readouterr().err
        assert code in {0, 2}
        assert (code == 2) == bool(said)
        assert "mode" not in said  # the path as the user knows it
    assert main([*TINY, f"outputs={finished}"]) in {0, 1, 2}
    assert "Traceback" not in capsys.readouterr().err


def test_control_characters_are_shown_and_formulas_are_quoted(finished, capsys) -> None:
    evil = "\x1b]0;owned\x07=cmd|' /C calc'!A0"
    change(
        finished,
        "UPDATE sweep_trial SET status = 'failed', final = '{}', error = "
        f"'{evil.replace(chr(39), chr(39) * 2)}' WHERE pk = 1",
        "UPDATE sweep_trial SET device = '=1+1'",
        "UPDATE sweep_run SET question = char(27) || '[2J why'",
    )
    for command in (["status"], ["report"], ["export"]):
        assert analyse([*command, "--outputs", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "'=1+1" in out
    report = (finished / "tiny" / "report.md").read_text()
    assert "\x1b" not in report
    assert "\\x1b" in report
    assert "'=1+1" in (finished / "tiny" / "data" / "runs.csv").read_text()
    assert str(BadInput("a\x1b[2Jb\x07\u202e")) == "a\\x1b[2Jb\\x07\\u202e"


@pytest.mark.parametrize("content", ["", "{", "[]", "[[[", "\x00", '{"a": 1, "b": []}', "null"])
def test_a_damaged_cache_is_empty(finished, capsys, content) -> None:
    (finished / "cache" / "checksums.json").write_text(content)
    assert main([*TINY, f"outputs={finished}"]) == 0
    assert "nothing to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ("sweep: {name: a, question: '${oc.env:SECRET}'}", "sweep.question"),
        ("sweep: {name: a, question: '${store.url}'}\nstore: {url: '${oc.env:SECRET}'}", "sweep."),
        ("sweep: {name: a, space: {sae.k: {grid: ['${oc.env:SECRET}']}}}", "sweep.space.sae.k"),
        ("sweep: {name: a, question: '${oc.decode:${oc.env:SECRET}}'}", "sweep.question"),
        ("sweep: {name: a, question: '${store}'}\nstore: {url: '${oc.env:SECRET}'}", "sweep."),
        ("activations: {text_column: '${oc.env:SECRET}'}", "activations.text_column"),
    ],
)
def test_a_sweep_file_cannot_read_the_environment(tmp_path, monkeypatch, body, key) -> None:
    monkeypatch.setenv("SECRET", "hush")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "x.yaml").write_text(f"# @package _global_\n{body}\n")
    with pytest.raises(
        BadInput, match=rf"^{key}.* takes the environment variable SECRET"
    ) as caught:
        compose(["+sweep=x"], tmp_path)
    assert "hush" not in str(caught.value)


def test_paths_and_what_belongs_to_a_machine_may_come_from_the_environment(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("PLACE", "here")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "x.yaml").write_text(
        "# @package _global_\noutputs: '${oc.env:PLACE}/out'\n"
        "executor: {address: '${oc.env:PLACE}:1'}\nsweep: {name: a}\n"
    )
    found = compose(["+sweep=x"], tmp_path).settings
    assert (found["outputs"], found["executor"]["address"]) == ("here/out", "here:1")


@pytest.mark.parametrize("harm", ["gone", "damaged", "a bit"])
def test_done_trials_without_whole_weights_are_said_and_trained_again(
    finished, capsys, harm
) -> None:
    one, other = sorted((finished / "trials").glob("*/sae.safetensors"))
    before = one.read_bytes()
    flipped = before[:-1] + bytes([before[-1] ^ 1])
    one.unlink() if harm == "gone" else one.write_bytes(flipped if harm == "a bit" else before[:-4])
    stamp = other.stat().st_mtime_ns
    words = [*TINY, f"outputs={finished}"]
    if harm == "a bit":  # a start looks at headers and sizes only: who reads the weights is told
        uid = one.parent.name.rpartition("-")[2]
        export = ["export", uid, "--format", "saelens", "--outputs", str(finished)]
        assert main(export) == 2
        assert "is damaged (its checksum" in capsys.readouterr().err
    else:
        assert main(words) == 0
        said = capsys.readouterr().err
        assert f"1 done trials lack their weights: {one.parent.name} ({harm})" in said
        assert "rerun=weights" in said
    assert main([*words, "rerun=weights"]) == 0
    assert "lack their weights" not in capsys.readouterr().err
    assert one.read_bytes() == before
    assert other.stat().st_mtime_ns == stamp


def test_a_forget_that_was_killed_is_finished_by_the_next(finished, capsys, monkeypatch) -> None:
    words = ["forget", "--status", "done", "--outputs", str(finished)]
    monkeypatch.setattr("sae_sweep.cli.forget._delete", lambda path: interrupt())
    assert main(words) == 130  # after the records were removed
    monkeypatch.undo()
    with Reader(f"sqlite:///{finished / 'sae_sweep.db'}") as reader:
        assert reader.all_trials() == []
    assert list((finished / "trials").iterdir())
    assert main(words) == 0
    assert list((finished / "trials").iterdir()) == []


def test_a_forget_that_was_killed_before_the_records_went_is_finished_by_the_next(
    finished, capsys, monkeypatch
) -> None:
    from sae_sweep.records.store import claims

    words = ["forget", "--status", "done", "--outputs", str(finished)]
    monkeypatch.setattr(claims, "remove", lambda *_: interrupt())
    assert main(words) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert main(words) == 0
    assert "2 trials forgotten" in capsys.readouterr().out
    assert list((finished / "trials").iterdir()) == []


@pytest.mark.slow
def test_a_folder_in_the_place_of_a_checkpoint_fails_its_own_trial(finished, capsys) -> None:
    first = min((finished / "trials").iterdir())
    words = ["--outputs", str(finished)]
    assert main(["forget", "--status", "done", *words]) == 0
    (first / "resume.safetensors").mkdir(parents=True)
    capsys.readouterr()
    assert main([*TINY, f"outputs={finished}"]) == 1
    said = capsys.readouterr().err
    assert "2 trials: 1 done, 1 failed" in said
    assert "is a folder, where a checkpoint should be" in json.dumps(said)


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(11, "no more processes")]
)
def test_a_limit_of_processes_is_said_in_one_line(finished, monkeypatch, capsys, error) -> None:
    def refuse(_self) -> None:
        raise error

    monkeypatch.setattr(process, "startable_threads", lambda most: most)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert main([*TINY, f"outputs={finished}"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("(ulimit -u), or end others; the same command continues")


def test_a_low_limit_of_processes_is_said_before_anything_is_imported(monkeypatch, capsys) -> None:
    def refuse(_self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setitem(sys.modules, "sae_sweep.cli.compose", None)
    assert main(TINY) == 2
    said = capsys.readouterr().err
    assert "no more than 0 can be started here: raise the limit of processes (ulimit -u" in said
