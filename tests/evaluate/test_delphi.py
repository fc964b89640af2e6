"""The layout that delphi reads, by a reader written from delphi's own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_contexts import of_model, trained

from sae_sweep.activations import open_activations
from sae_sweep.cli.main import main
from sae_sweep.evaluate.delphi import hookpoint, sequences
from sae_sweep.sae import load


def read(place: Path) -> tuple[np.ndarray, dict[int, dict[tuple[int, int], float]]]:
    """All tokens, and by latent where it fires: delphi's TensorBuffer.load and its edges."""
    tokens, fired = [], {}
    edges = sorted(tuple(map(int, one.stem.split("_"))) for one in place.glob("*.safetensors"))
    for first, last in edges:
        split = load_file(place / f"{first}_{last}.safetensors")
        locations = split["locations"].astype(np.int64)
        assert (locations[:, 2] <= last - first).all()
        assert (np.diff(locations[:, 2]) >= 0).all()
        for (row, column, latent), value in zip(locations, split["activations"], strict=True):
            fired.setdefault(int(latent + first), {})[int(row), int(column)] = float(value)
        tokens.append(split["tokens"])
    assert [first for first, _ in edges] == [0, *(last + 1 for _, last in edges[:-1])]
    assert all((one == tokens[0]).all() for one in tokens)
    return tokens[0], fired


def test_delphi_finds_every_activation_at_its_token(
    model: Callable[[str], Path], story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *of_model(model("gpt2"), story))
    capsys.readouterr()
    words = ["latents", folder.name, "--outputs", str(tmp_path), "--format", "delphi"]
    assert main(words) == 0
    place = folder / "delphi" / "latents"
    assert capsys.readouterr().out == f"delphi: {place}\n"
    (hook,) = place.iterdir()
    assert hook.name == "layers.1"
    tokens, fired = read(hook)
    activations = open_activations(next((tmp_path / "activations").iterdir()))
    origins = activations.validation_origins()
    dense = load(folder).read(activations.validation_rows(0, activations.n_validation)).latents
    expected: dict[int, dict[tuple[int, int], float]] = {}
    windows = list(dict.fromkeys(origins.window.tolist()))
    for row, latents in enumerate(dense.numpy()):
        at = windows.index(int(origins.window[row])), int(origins.position[row])
        at = at[0], at[1] - int(origins.position[origins.window == origins.window[row]][0])
        assert tokens[at] == origins.token_id[row]
        for latent in np.flatnonzero(latents):
            expected.setdefault(int(latent), {})[at] = float(latents[latent])
    assert fired == expected
    assert tokens.shape == (len(windows), 32)
    config = json.loads((hook / "config.json").read_text())
    assert config["ctx_len"] == 32
    assert config["model_name"] == str(model("gpt2"))
    assert config["n_tokens"] == tokens.size


def test_windows_are_padded_to_whole_examples_of_delphi() -> None:
    found = sequences(np.arange(1, 41), np.array([7] * 3 + [2] * 37), 0)
    assert found.tokens.shape == (2, 64)
    assert found.tokens[0, :4].tolist() == [1, 2, 3, 0]
    assert found.tokens[1, 36:38].tolist() == [40, 0]
    assert (found.sequence[3], found.place[3]) == (1, 0)


def test_hookpoints_are_named_as_blocks_or_modules() -> None:
    assert hookpoint({"layer": 3}) == "layers.2"
    assert hookpoint({"layer": 0}) == "embeddings"
    assert hookpoint({"layer": 3, "hook": "h.{layer}.mlp"}) == "h.3.mlp"


def test_rows_that_are_no_tokens_of_a_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["activations=synthetic", "activations.train_tokens=2048"]
    folder = trained(tmp_path, *words, "activations.validation_tokens=512")
    call = ["latents", folder.name, "--outputs", str(tmp_path), "--format", "delphi"]
    assert main(call) == 2
    assert (
        "was not trained on a model's activations token by token, which delphi shows with its "
        "tokeniser: give a trial with activations.model and pooling=token"
        in capsys.readouterr().err
    )
