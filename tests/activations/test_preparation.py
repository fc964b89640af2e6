import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from sae_sweep.activations import (
    Wanted,
    describe,
    open_activations,
    passes,
    plan,
    prepare,
    verify,
)
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.partial import PartialModel
from sae_sweep.activations.shards import read_shard
from sae_sweep.activations.synthetic import SyntheticReader
from sae_sweep.config import ActivationsConfig, SyntheticConfig
from sae_sweep.errors import BadInput

TRAIN, VALIDATION, D = 250, 70, 8
SHARD_ROWS = 100


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_BYTES", SHARD_ROWS * (4 * D + 6))


def config(**changes: Any) -> ActivationsConfig:
    settings = {"synthetic": SyntheticConfig(), "d": D}
    sizes = {"train_tokens": TRAIN, "validation_tokens": VALIDATION}
    return ActivationsConfig(**{**settings, **sizes, **changes})


def prepared(outputs: Path, settings: ActivationsConfig | None = None) -> Path:
    settings = settings or config()
    source = describe(settings, outputs)
    for _ in prepare([Wanted(settings, source)], outputs):
        pass
    return outputs / "activations" / source.fingerprint


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_the_rows_of_the_source(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    names = [f"train-0000{number}.safetensors" for number in range(3)]
    names.append("validation-00000.safetensors")
    assert sorted(content(folder)) == ["manifest.json", *names]
    reader = SyntheticReader(config())
    kept = torch.cat([read_shard(folder / name).activation for name in names[:3]])
    read = [reader.read("train", start, min(start + 100, TRAIN)) for start in (0, 100, 200)]
    assert torch.equal(kept, torch.cat([rows.activation for part in read for [rows] in part]))
    verify(folder, tmp_path)


def test_training_rows_have_mean_zero_and_mean_norm_root_d(tmp_path: Path) -> None:
    activations = open_activations(prepared(tmp_path))
    x = activations.train_rows(torch.arange(activations.n_train)).double()
    assert x.mean(0).abs().max() < 1e-6
    assert x.norm(dim=1).mean() == pytest.approx(D**0.5, rel=1e-6)
    # the validation split is normalised by the training split's figures, not by its own
    assert activations.validation_rows(0, VALIDATION).mean(0).abs().max() > 1e-3


def test_progress_rises_to_the_number_of_rows_and_a_second_run_has_none(tmp_path: Path) -> None:
    source = describe(config(), tmp_path)
    progress = list(prepare([Wanted(config(), source)], tmp_path))
    assert progress[0] == (0, TRAIN + VALIDATION)
    assert progress[-1] == (TRAIN + VALIDATION, TRAIN + VALIDATION)
    assert progress == sorted(progress)
    assert list(prepare([Wanted(config(), source)], tmp_path)) == []


def test_the_manifest_carries_settings_and_identity(tmp_path: Path) -> None:
    source = describe(config(), tmp_path)
    manifest = read_manifest(prepared(tmp_path))
    assert (manifest.fingerprint, manifest.settings) == (source.fingerprint, source.settings)
    assert [shard.rows for shard in manifest.shards] == [100, 100, 50, 70]


def test_an_interrupted_run_goes_on_at_the_missing_shard(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    whole = content(folder)
    (folder / "manifest.json").unlink()
    (folder / "train-00001.safetensors").unlink()
    kept = folder / "train-00000.safetensors"
    before = kept.stat().st_mtime_ns
    source = describe(config(), tmp_path)
    assert next(iter(prepare([Wanted(config(), source)], tmp_path))) == (220, 320)
    assert content(prepared(tmp_path)) == whole
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_killed_process_leaves_a_folder_that_the_next_one_completes(tmp_path: Path) -> None:
    child = f"""
import os, signal, sys
from pathlib import Path
from sae_sweep.activations import Wanted, describe, extraction, plan, prepare
from sae_sweep.config import ActivationsConfig
plan.SHARD_BYTES = {plan.SHARD_BYTES}
config = ActivationsConfig.model_validate_json(sys.argv[1])
outputs = Path(sys.argv[2])
def write_half(path, pieces):
    (path.parent / ".half.part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
whole = extraction.write_shard
for done, _ in prepare([Wanted(config, describe(config, outputs))], outputs):
    extraction.write_shard = write_half if done > 200 else whole
"""
    killed = tmp_path / "killed"
    arguments = [sys.executable, "-c", child, config().model_dump_json(), str(killed)]
    assert subprocess.run(arguments, check=False, timeout=60).returncode == -signal.SIGKILL
    (left,) = (killed / "activations").iterdir()
    assert set(content(left)) == {
        ".half.part",
        "train-00000.safetensors",
        "train-00001.safetensors",
    }
    folder = prepared(killed)
    verify(folder, killed)
    (folder / ".half.part").unlink()
    assert content(folder) == content(prepared(tmp_path / "whole"))


def test_two_processes_may_prepare_one_folder(tmp_path: Path) -> None:
    source = describe(config(), tmp_path)
    runs = [prepare([Wanted(config(), source)], tmp_path) for _ in range(2)]
    ended = [False, False]
    while not all(ended):
        ended = [next(run, None) is None for run in runs]
    folder = tmp_path / "activations" / source.fingerprint
    verify(folder, tmp_path)
    assert content(folder) == content(prepared(tmp_path / "alone"))


def test_a_model_is_read_like_any_source(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    folder = prepared(tmp_path, model_config())
    verify(folder, tmp_path)
    activations = open_activations(folder)
    assert (activations.n_train, activations.n_validation, activations.d) == (300, 100, 16)


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = describe(config(), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100))
    message = r"activations need 0 MB in .*, where 0 MB are free: free some space"
    with pytest.raises(BadInput, match=message):
        next(prepare([Wanted(config(), source)], tmp_path))
    assert not (tmp_path / "activations").exists()


def test_a_hook_of_another_width_than_declared_is_refused(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    hook = "encoder.layer.{layer}.intermediate"
    settings = model_config(hook=hook)
    message = r"activations\.d=16, but activations\.hook=.* gives 32: set activations\.d=32"
    with pytest.raises(BadInput, match=message):
        prepared(tmp_path, settings)
    folder = prepared(tmp_path, model_config(hook=hook, d=32))
    assert open_activations(folder).d == 32


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = torch.randn(TRAIN + VALIDATION, D)
    x[50, 3] = torch.nan
    save_file({"x": x}, tmp_path / "x.safetensors")
    settings = config(synthetic=None, d=None, files=str(tmp_path))
    with pytest.raises(BadInput, match=r"activations\.files: row 50 \(from 0\) of .* holds NaN"):
        prepared(tmp_path, settings)


def test_rows_that_are_all_equal_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.full((TRAIN + VALIDATION, D), 0.1)}, tmp_path / "x.safetensors")
    settings = config(synthetic=None, d=None, files=str(tmp_path))
    with pytest.raises(BadInput, match=r"all 250 training activations are equal: choose another"):
        prepared(tmp_path, settings)


LAYERS = (1, 3, 0)


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The points that each forward pass has read."""
    run, seen = PartialModel.__call__, []

    def counting(self: PartialModel, windows: Any, pad_id: int, wanted: Any) -> Any:
        if isinstance(windows[0], np.ndarray):  # not the trial before any row is read
            seen.append(tuple(sorted(wanted)))
        return run(self, windows, pad_id, wanted)

    monkeypatch.setattr(PartialModel, "__call__", counting)
    return seen


def wanted_layers(make: Callable[..., ActivationsConfig], outputs: Path) -> list[Wanted]:
    configs = [make("gpt2", layer=layer) for layer in LAYERS]
    return [Wanted(one, describe(one, outputs)) for one in configs]


def folders_of(wanted: list[Wanted], outputs: Path) -> list[Path]:
    return [outputs / "activations" / one.source.fingerprint for one in wanted]


def test_layers_share_each_forward_pass_and_have_the_bits_that_they_have_alone(
    model_config: Callable[..., ActivationsConfig],
    tmp_path: Path,
    forward_passes: list[tuple[int, ...]],
) -> None:
    prepared(tmp_path / "alone", model_config("gpt2", layer=1))
    one_layer = len(forward_passes)
    wanted = wanted_layers(model_config, tmp_path)
    (together,) = passes(wanted)
    list(prepare(together, tmp_path))
    assert forward_passes[one_layer:] == [(0, 1, 2)] * one_layer
    for one, folder in zip(wanted, folders_of(wanted, tmp_path), strict=True):
        verify(folder, tmp_path)
        assert content(folder) == content(prepared(tmp_path / "alone", one.config))


def test_a_layer_whose_shards_are_there_is_not_read_again(
    model_config: Callable[..., ActivationsConfig],
    tmp_path: Path,
    forward_passes: list[tuple[int, ...]],
) -> None:
    wanted = wanted_layers(model_config, tmp_path)
    list(prepare(wanted, tmp_path))
    folders = folders_of(wanted, tmp_path)
    whole = [content(folder) for folder in folders]
    for folder in folders:
        (folder / "manifest.json").unlink()
    (folders[2] / "train-00001.safetensors").unlink()
    forward_passes.clear()
    list(prepare(wanted, tmp_path))
    assert set(forward_passes) == {(2,)}
    assert [content(folder) for folder in folders] == whole


def test_sources_of_another_width_text_or_model_have_passes_of_their_own(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    configs = [
        model_config(),
        model_config(layer=1),
        model_config(hook="encoder.layer.{layer}.intermediate", d=32),
        model_config(context=9),
        model_config("gpt2"),
    ]
    wanted = [Wanted(one, describe(one, tmp_path)) for one in configs]
    assert [[wanted.index(one) for one in group] for group in passes(wanted)] == [
        [0, 1],
        [2],
        [3],
        [4],
    ]


def test_rows_say_which_token_of_which_window_they_are(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    activations = open_activations(prepared(tmp_path, model_config("gpt2", layer=0)))
    origins = activations.validation_origins()
    rows = activations.validation_rows(0, 100) / activations.scale + activations.mean
    model = AutoModel.from_pretrained(model_config("gpt2").model)
    embedded = model.wte(origins.token_id) + model.wpe(origins.position)
    torch.testing.assert_close(rows, embedded, atol=1e-5, rtol=0)
    # a window begins where positions start again
    begins = (origins.position == 0).int()
    assert torch.equal(origins.window, begins.cumsum(0).int() - 1)


def test_activations_extracted_without_origins_say_how_to_get_them(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    folder = prepared(tmp_path, model_config())
    for path in folder.glob("*.origins.safetensors"):
        path.unlink()
    verify(folder, tmp_path)
    with pytest.raises(BadInput, match=r"do not say which tokens .* delete the folder and run"):
        open_activations(folder).validation_origins()


def test_a_transcoders_targets_are_the_other_hooks_rows(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    pair = model_config("gpt2", hook="h.{layer}.ln_2", target_hook="h.{layer}.mlp")
    alone = model_config("gpt2", hook="h.{layer}.mlp")
    activations = open_activations(prepared(tmp_path, pair))
    assert activations.has_target
    indices = torch.tensor([5, 0, 7])
    target = open_activations(prepared(tmp_path, alone))
    torch.testing.assert_close(activations.train_targets(indices), target.train_rows(indices))
    torch.testing.assert_close(activations.validation_targets(3, 9), target.validation_rows(3, 9))
    rows = open_activations(prepared(tmp_path, model_config("gpt2", hook="h.{layer}.ln_2")))
    torch.testing.assert_close(activations.train_rows(indices), rows.train_rows(indices))


def test_hooks_of_unequal_widths_are_refused(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    settings = model_config(target_hook="encoder.layer.{layer}.intermediate")
    message = r"target_hook=encoder.* gives 32 dimensions and activations\.hook=None 16: a transc"
    with pytest.raises(BadInput, match=message):
        prepared(tmp_path, settings)


def test_a_target_is_part_of_the_identity(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    prints = [
        describe(model_config(**changes), tmp_path).fingerprint
        for changes in (
            {},
            {"target_layer": 3},
            {"target_hook": "encoder.layer.{layer}"},
            {"target_hook": "encoder.layer.{layer}", "target_layer": 2},
        )
    ]
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]  # layer 2 is where it is read without saying so


def _sinks(folder: Path) -> Path:
    """Rows of which one in 32 is an attention sink of 150 times the norm."""
    torch.manual_seed(0)
    rows = torch.randn(1024, 8)
    rows[::32] = 0
    rows[::32, 3] = 400
    folder.mkdir()
    save_file({"activation": rows, "document": torch.arange(1024) // 32}, folder / "a.safetensors")
    return folder


def test_massive_rows_are_counted_and_dropped_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"train_tokens": 640, "validation_tokens": 320}
    config = ActivationsConfig(files=str(_sinks(tmp_path / "sinks")), **counts)
    found = {}
    for one in (config, config.model_copy(update={"max_norm": 10.0})):
        source = describe(one, tmp_path)
        wanted = Wanted(one, source)
        list(prepare([wanted], tmp_path))
        found[one.max_norm] = open_activations(wanted.folder(tmp_path))
        said = capsys.readouterr().err
        assert "20 of 640 training rows have norms over 10 times the median and carry" in said
    plain, dropped = found.values()
    assert plain.fingerprint != dropped.fingerprint
    assert (plain.n_train, dropped.n_train) == (640, 620)
    assert (plain.n_validation, dropped.n_validation) == (320, 310)
    rows = dropped.train_rows(torch.arange(620))
    assert rows.mean(0).abs().max() < 1e-5
    assert rows.norm(dim=1).mean().item() == pytest.approx(8**0.5)
    assert rows.norm(dim=1).max() < 10
    assert len(dropped.validation_rows(0, 999)) == len(dropped.validation_groups(0, 999)) == 310


def test_the_first_positions_of_a_decoder_that_are_sinks_are_named_and_dropped(
    models: dict[str, Path],
    model_config: Callable[..., ActivationsConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import GPT2Model

    model = GPT2Model.from_pretrained(models["gpt2"])
    with torch.no_grad():
        model.wpe.weight[0, 3] = 500  # stays in the residual stream at every first position
    shutil.copytree(models["gpt2"], tmp_path / "decoder")
    model.save_pretrained(tmp_path / "decoder")
    settings = model_config("gpt2", model=str(tmp_path / "decoder"), layer=1)
    plain = open_activations(prepared(tmp_path, settings))
    origins = plain.validation_origins()
    firsts = origins.position == 0
    norms = (plain.validation_rows(0, 999) / plain.scale + plain.mean).norm(dim=1)
    assert torch.equal(norms > 10 * norms.median(), firsts)
    said = capsys.readouterr().err
    assert re.search(
        r"\d+ of 300 training rows have norms over 10 times the median and carry", said
    )
    assert re.search(r"most often the token ids \d+ \(\d+ times\).*; activations.max_norm=10", said)
    dropped = open_activations(prepared(tmp_path, settings.model_copy(update={"max_norm": 10.0})))
    assert dropped.n_validation == 100 - int(firsts.sum())
    assert (dropped.validation_origins().position > 0).all()


def test_a_damaged_file_beside_the_shards_or_in_the_cache_is_named(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    folder = prepared(tmp_path, model_config("gpt2", max_norm=10.0))
    (folder / "kept.safetensors").write_bytes(b"not whole")
    again = rf"\): delete the folder {folder} and run again"
    with pytest.raises(BadInput, match=rf"kept\.safetensors cannot be read \(.+{again}"):
        open_activations(folder)
    [plan] = (tmp_path / "cache" / "texts").iterdir()
    for path in plan.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match=rf"{plan} is damaged \(.+\): delete this folder and run"):
        prepared(tmp_path, model_config("gpt2", layer=1))


def test_a_bound_of_the_norm_needs_one_window() -> None:
    with pytest.raises(ValueError, match=r"activations\.max_norm=10 needs all rows in one window"):
        ActivationsConfig(files="x", max_norm=10, train_tokens=2000, window_rows=1000)


def test_one_huge_constant_dimension_does_not_make_rows_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(400, 4)
    rows[:, 1] = 1e7
    (tmp_path / "files").mkdir()
    save_file({"x": rows}, tmp_path / "files" / "a.safetensors")
    counts = {"train_tokens": 250, "validation_tokens": 100}
    config = ActivationsConfig(files=str(tmp_path / "files"), **counts)
    list(prepare([Wanted(config, describe(config, tmp_path))], tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shards_keep_the_precision_asked_for_and_statistics_stay_exact(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path, dtype: str
) -> None:
    whole = open_activations(prepared(tmp_path, model_config("gpt2")))
    folder = prepared(tmp_path, model_config("gpt2", dtype=dtype))
    kept = read_shard(folder / "train-00000.safetensors").activation
    assert kept.dtype == getattr(torch, dtype)
    halves = open_activations(folder)
    indices = torch.arange(300)
    assert halves.train_rows(indices).dtype == torch.float32
    torch.testing.assert_close(
        halves.train_rows(indices), whole.train_rows(indices), atol=0.03, rtol=0.02
    )
    x = halves.train_rows(indices).double()
    assert x.mean(0).abs().max() < 1e-6  # of what is stored, not of what was computed
    on_disk = sum(path.stat().st_size for path in folder.glob("train-*"))
    headers = 2 * 400 * len(list(folder.glob("train-*")))
    assert on_disk <= 300 * (2 * 16 + 24) + headers


def test_a_model_runs_in_the_precision_asked_for(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    settings = model_config("gpt2", model_dtype="bfloat16")
    source = describe(settings, tmp_path)
    assert source.settings["model_dtype"] == source.settings["dtype"] == "bfloat16"
    halves = open_activations(prepared(tmp_path, settings))
    whole = open_activations(prepared(tmp_path, model_config("gpt2")))
    indices = torch.arange(300)
    difference = (halves.train_rows(indices) - whole.train_rows(indices)).abs()
    assert 0.001 < difference.mean() < 0.05


def test_precision_acts_on_a_fingerprint_only_where_it_is_another(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    before = describe(model_config(), tmp_path)
    same = describe(model_config(dtype="float32", model_dtype="float32"), tmp_path)
    assert same == before
    for changes in ({"dtype": "bfloat16"}, {"model_dtype": "bfloat16", "dtype": "float32"}):
        assert describe(model_config(**changes), tmp_path).fingerprint != before.fingerprint


def test_values_that_float16_cannot_hold_are_counted_and_refused(tmp_path: Path) -> None:
    x = torch.randn(TRAIN + VALIDATION, D)
    x[7, :3] = 7e4
    save_file({"x": x}, tmp_path / "x.safetensors")
    settings = config(synthetic=None, d=None, files=str(tmp_path), dtype="float16")
    message = (
        r"activations\.dtype=float16: 3 of \d+ values in the \w+ rows of documents \d+ to \d+ "
        r"exceed 65504, the largest that it holds: use activations\.dtype=bfloat16"
    )
    with pytest.raises(BadInput, match=message):
        prepared(tmp_path, settings)


def test_packed_windows_hold_rows_of_several_documents(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    cut, packed = model_config("gpt2"), model_config("gpt2", packing="packed")
    assert describe(cut, tmp_path).fingerprint != describe(packed, tmp_path).fingerprint
    folder = prepared(tmp_path, packed)
    windows = open_activations(folder).validation_origins().window
    documents = torch.cat(
        [read_shard(one).document for one in sorted(folder.glob("validation-?????.safetensors"))]
    )
    per_window = [len(documents[windows == one].unique()) for one in windows.unique()]
    assert max(per_window) > 1
    assert content(folder) == content(prepared(tmp_path / "again", packed))
    with pytest.raises(ValueError, match=r"packing=packed with pooling=mean: a row would be of"):
        model_config("gpt2", packing="packed", pooling="mean")
    kept = AutoTokenizer.from_pretrained(packed.model)
    kept.eos_token = kept.sep_token = None
    nameless = shutil.copytree(packed.model, tmp_path / "nameless")
    kept.save_pretrained(nameless)
    with pytest.raises(BadInput, match=r"packing=packed: the tokeniser of .* use .*packing=cut"):
        prepared(tmp_path / "outputs", model_config(model=str(nameless), packing="packed"))


def test_a_running_shuffle_is_another_order_of_the_same_text(
    model_config: Callable[..., ActivationsConfig], tmp_path: Path
) -> None:
    whole, running = model_config("gpt2"), model_config("gpt2", shuffle_buffer=4)
    folder = prepared(tmp_path, running)
    verify(folder, tmp_path)
    origins = open_activations(folder).validation_origins()
    assert len(origins.token_id) == 100
    assert describe(whole, tmp_path).fingerprint != describe(running, tmp_path).fingerprint
    assert content(folder) == content(prepared(tmp_path / "again", running))
