import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_sweeps import Build, Ran, grid

from analysis.cli import main
from analysis.status import status, watch
from sae_sweep.records.store import Reader


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAE_SWEEP_STORE", raising=False)


def test_report_prints_where_it_is(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    url = build(grid()[:4])
    assert main(["report", "--store", url, "--outputs", "out"]) == 0
    assert capsys.readouterr().out == "report: out/study/report.md\n"
    assert Path("out/study/report.md").is_file()


@pytest.mark.slow
def test_the_module_loads_nothing_of_the_training_half(build: Build) -> None:
    script = f"""
import sys
from analysis.cli import main
code = main(["report", "--store", {build(grid()[:2])!r}])
loaded = sorted({{"torch", "ray", "hydra", "optuna"}} & set(sys.modules))
sys.exit(code or " ".join(loaded) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_names_the_store(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAE_SWEEP_STORE", build(grid()[:2]))
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("study: 2 trials")


def test_status_counts_and_names_what_runs_and_what_stands_first(build: Build) -> None:
    trials = grid()
    with Reader(build(trials, ended=False)) as reader:
        text = status(reader.sweep(), reader)
    assert "study: 12 trials, running\n  1 running, 9 done, 1 diverged, 1 failed\n" in text
    assert f"running {trials[9].record.label}: step 50 of 100" in text
    assert f"High reconstruction (lowest fvu): {trials[10].record.label}" in text
    assert "cohort: a cohort of 2 ended" in text


def test_watch_ends_with_the_sweep(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    with Reader(build(grid()[:2])) as reader:
        watch(reader, None, every=60)
    assert capsys.readouterr().out.count("study: 2 trials, not running") == 1


def test_watch_shows_a_running_sweep_again_when_it_changed(
    build: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reader(build(grid()[:2], ended=False)) as reader:
        live = reader.sweep()
        ended = live._replace(run=live.run._replace(alive=False))
        answers = iter([live, live, ended])
        monkeypatch.setattr(reader, "sweep", lambda _: next(answers))
        watch(reader, None, every=0.001)
    out = capsys.readouterr().out
    assert (out.count("2 trials, running"), out.count("2 trials, not running")) == (1, 1)


def test_compare_shows_what_differs_and_nothing_else(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = grid()
    first, second = trials[0].record, trials[4].record
    url = build(trials)
    assert main(["compare", first.uid[:8], second.label, "--store", url, "--outputs", "out"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sae.k", "4", "8"] in lines
    assert ["l0", "4", "8"] in lines
    assert ["status", "done", "done"] in lines
    assert "train.lr" not in {line[0] for line in lines if line}
    assert Path("out/comparison.png").is_file()


def test_compare_says_how_far_apart_and_whether_noise_explains_it(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [
        Ran({"sae.k": k, "train.seed_init": s}, {"fvu": 1 / k + s / 1000, "dead_features": s / 10})
        for k in (4, 8)
        for s in (0, 1)
    ]
    first, seed, other = (trials[i].record.uid for i in (0, 1, 2))
    assert main(["compare", first, other, seed, "--store", build(trials)]) == 0
    out = capsys.readouterr().out
    assert (
        f"fvu: k8_seed_init0 {other} lies 50 % below k4_seed_init0 {first}, which is better, "
        "0.125 against 0.25; further apart than the noise floor\n"
    ) in out
    assert "lies 0.4 % above" in out
    assert "0.251 against 0.25; within the noise floor, so not told apart" in out
    assert "lies 10 pp above" in out
    assert f"dead_features: k8_seed_init0 {other} equals k4_seed_init0 {first}, 0" in out


def test_export_writes_a_row_a_trial(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    trials = grid()
    url = build(trials)
    assert main(["export", "--store", url]) == 0
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == len(trials)
    assert main(["export", "--store", url, "--format", "parquet", "--to", "runs.parquet"]) == 0
    table = pd.read_parquet("runs.parquet")
    assert table["uid"].tolist() == [trial.record.uid for trial in trials]
    assert table["fvu"].notna().sum() == 9


def test_export_holds_axes_of_mixed_types(build: Build) -> None:
    url = build([Ran({"train.x": value}, {"fvu": 0.1}) for value in (1, "auto", None)])
    assert main(["export", "--store", url, "--format", "parquet", "--to", "runs.parquet"]) == 0
    assert pd.read_parquet("runs.parquet")["train.x"].tolist()[:2] == ["1", "auto"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nosuch"], "no sweep is called nosuch: there are study"),
        (["status", "nosuch"], "no sweep is called nosuch: there are study"),
        (["watch", "--every", "0"], "--every=0 is no pause: give seconds above 0"),
        (["watch", "--every", "nan"], "--every=nan is no pause: give seconds above 0"),
        (["compare", "zzz", "yyy"], "no trial is called zzz: give a label"),
        (["compare", "sae", "sae"], "no trial is called sae: give a label"),
        (["export", "--format", "parquet"], "--format=parquet is not text: name a file with --to"),
        (
            ["export", "--to", "no/runs.csv"],
            "--to=no/runs.csv lies in a folder that does not exist",
        ),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    url = build(grid()[:2])
    assert main([*arguments, "--store", url]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_one_trial_cannot_be_compared(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    trials = grid()[:2]
    uid = trials[0].record.uid
    assert main(["compare", uid, uid, "--store", build(trials)]) == 2
    assert "names one trial: give two different ones or more" in capsys.readouterr().err


def test_without_a_store_the_message_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["status"]) == 2
    assert "no store at outputs/sae_sweep.db: run a sweep first" in capsys.readouterr().err
