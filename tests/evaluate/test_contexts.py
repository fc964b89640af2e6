"""Where latents fire, against a look at every row."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_sweep.activations import open_activations
from sae_sweep.cli.main import main
from sae_sweep.errors import BadInput
from sae_sweep.evaluate import contexts
from sae_sweep.records.names import CONTEXTS_FILE, LATENTS_PAGE
from sae_sweep.records.store import Reader
from sae_sweep.sae import load


def trained(outputs: Path, *words: str) -> Path:
    """The folder of a small trial."""
    more = ["sae.n_latents=24", "sae.k=3", "train.batch_size=64", "sweep.name=one"]
    more += ["sae.aux_coeff=0", "executor=inline", f"outputs={outputs}"]
    assert main([*words, *more]) == 0
    with Reader(f"sqlite:///{outputs / 'sae_sweep.db'}") as reader:
        return outputs / "trials" / reader.sweep("one").members[0].trial.folder


def of_model(model: Path, story: Path) -> list[str]:
    words = [f"activations.model={model}", "activations.layer=2", f"activations.text={story}"]
    return [
        *words,
        "activations.context=8",
        "activations.train_tokens=300",
        "activations.validation_tokens=100",
    ]


def test_contexts_are_the_strongest_rows_of_their_windows(
    model: Callable[[str], Path], story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path, *of_model(model("gpt2"), story))
    details = (tmp_path / "one" / "details.md").read_text()
    assert (folder / LATENTS_PAGE).exists(), "the only trial is a recommended one"
    assert f"](../trials/{folder.name}/{LATENTS_PAGE})" in details
    found: dict[str, Any] = json.loads(gzip.decompress((folder / CONTEXTS_FILE).read_bytes()))
    sae = load(folder)
    activations = open_activations(next((tmp_path / "activations").iterdir()))
    origins = activations.validation_origins()
    windows = origins.window.numpy()
    dense = sae.read(activations.validation_rows(0, activations.n_validation)).latents.numpy()
    words = [found["pieces"][one].strip() for one in found["tokens"]]
    assert set(words) <= set(story.read_text().split())
    assert len(words) == activations.n_validation
    for latent, one in enumerate(found["latents"]):
        peaks = {}
        for row, value in enumerate(dense[:, latent]):
            if value > 0 and value > peaks.get(windows[row], (0, 0))[0]:
                peaks[windows[row]] = (value, row)
        expected = sorted(peaks.values(), key=lambda peak: (-peak[0], peak[1]))[: contexts.TOP]
        tops = [each for each in one["contexts"] if each[0] == "top"]
        assert len(tops) == len(expected)
        for (_, start, stop, shown), (value, row) in zip(tops, expected, strict=True):
            assert start <= row < stop
            assert set(windows[start:stop]) == {windows[row]}
            fired = {r: v for r, v in enumerate(dense[start:stop, latent], start) if v > 0}
            assert dict(shown) == {r: pytest.approx(v, rel=1e-2) for r, v in fired.items()}
            assert max(v for _, v in shown) == pytest.approx(value, rel=1e-2)
        assert sum(one["histogram"]) == (dense[:, latent] > 0).sum()
        unit = sae.w_dec.detach().numpy()
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosine = unit @ unit[latent]
        cosine[latent] = -2
        assert one["neighbours"][0][0] == int(cosine.argmax())
        assert one["neighbours"][0][1] == pytest.approx(cosine.max(), abs=1e-2)
    capsys.readouterr()
    (folder / CONTEXTS_FILE).unlink()
    for shard in (tmp_path / "activations").glob("*/train-*.safetensors"):
        shard.unlink()  # as a bounded cache does: the contexts are of the validation rows
    assert main(["latents", folder.name, "--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"page: {folder / LATENTS_PAGE}\n"


def test_rows_without_token_ids_have_no_contexts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["activations.train_tokens=512", "activations.validation_tokens=128"]
    folder = trained(tmp_path, "activations=synthetic", *small)
    assert main(["latents", folder.name, "--outputs", str(tmp_path)]) == 2
    assert "do not say which tokens their rows come from" in capsys.readouterr().err
    (folder / "sae.safetensors").unlink()
    with pytest.raises(BadInput, match=r"sae\.safetensors does not exist: the trial is not done"):
        contexts.write(folder, tmp_path)
