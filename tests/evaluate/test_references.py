"""An autoencoder that was trained elsewhere, on a sweep's rows and beside its trials."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sae_sweep.activations import open_activations
from sae_sweep.cli import main
from sae_sweep.config import TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.evaluate import Evaluator, Source, prepare, references
from sae_sweep.evaluate.references import RowsOf
from sae_sweep.records.metrics import IN_MODEL
from sae_sweep.records.references import Reference, read_references
from sae_sweep.records.store import Reader, default_url
from sae_sweep.sae import build
from sae_sweep.sae.published import Published, renormalised, to_unit_rows

TINY = [
    *("activations=synthetic", "activations.train_tokens=2048"),
    *("activations.validation_tokens=512", "executor=inline", "sae.n_latents=32"),
    *("sae.k=[2,4,8]", "sweep.name=tiny"),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a sweep that ran."""
    folder = tmp_path_factory.mktemp("outputs")
    assert main([*TINY, f"outputs={folder}"]) == 0
    return folder


def trial(outputs: Path, k: int = 4) -> Any:
    with Reader(default_url(outputs)) as reader:
        (found,) = [one for one in reader.sweep("tiny").trials if one.config["sae"]["k"] == k]
    return found


@pytest.mark.parametrize("layout", ["saelens", "sparsify"])
def test_an_exported_trial_scores_what_the_trial_scored(
    outputs: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = trial(outputs)
    words = ["--format", layout, "--outputs", str(outputs)]
    assert main(["export", mine.uid, *words, "--to", str(tmp_path / "theirs")]) == 0
    before = {one.name: one.read_bytes() for one in (outputs / "tiny").glob("*.md")}
    assert main(["evaluate", str(tmp_path / "theirs"), *words, "--name", f"a {layout} one"]) == 0
    assert f"a {layout} one ({layout}, topk, 32 latents): fvu" in capsys.readouterr().out
    (found,) = [one for one in read_references(outputs / "tiny") if one.layout == layout]
    assert found.fingerprint == mine.config["activations"]["fingerprint"]
    shared = set(found.metrics) & set(mine.final)
    assert {"fvu", "l0", "dead_features", "always_on", "f1", "max_activation"} <= shared
    assert found.metrics == pytest.approx({n: mine.final[n] for n in found.metrics}, rel=1e-3)
    details = (outputs / "tiny" / "details.md").read_text()
    section = details.partition("### References")[2].partition("\n## ")[0]
    assert f"`a {layout} one`" in section
    ranks = details.replace(section, "")
    assert f"a {layout} one" not in ranks  # it stands nowhere among trials
    assert before.keys() == {"report.md", "details.md"}


@pytest.mark.slow
def test_references_change_no_rank_and_no_front(outputs: Path, tmp_path: Path) -> None:
    names = ("data/runs.csv", "data/pareto_optimal_configs.json")
    place = tmp_path / "outputs"
    shutil.copytree(outputs, place)
    shutil.rmtree(place / "tiny" / "references", ignore_errors=True)
    assert main(["report", "tiny", "--outputs", str(place)]) == 0
    before = [(place / "tiny" / name).read_bytes() for name in names]
    best = Reference("perfect", "saelens", "topk", 32, "f" * 64, "a" * 12, metrics={"fvu": 0.001})
    best.metrics["l0"] = 1.0
    folder = place / "tiny" / "references"
    folder.mkdir()
    (folder / best.file).write_text(best.text())
    assert main(["report", "tiny", "--outputs", str(place)]) == 0
    assert [(place / "tiny" / name).read_bytes() for name in names] == before
    assert "`perfect`" in (place / "tiny" / "details.md").read_text()
    (folder / best.file).write_text("{}")
    assert main(["report", "tiny", "--outputs", str(place)]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("width", r"the autoencoder is of width 16, the rows of the sweep are of width 32"),
        ("pickle", r"is a pickle, which is not read"),
        ("normalisation", r"normalize_activations=layer_norm"),
        ("activations", r"--activations ffff: no trial of the sweep has them; there are"),
        ("nothing", r"holds no autoencoder that can be read"),
        ("weights", r"the trial is not done, or store\.weights deleted it"),
    ],
)
def test_what_does_not_fit_is_one_message(
    outputs: Path, tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    words = ["--outputs", str(outputs)]
    uid = trial(outputs).uid
    assert main(["export", uid, "--format", "saelens", "--to", str(folder), *words]) == 0
    weights, settings = folder / "sae_weights.safetensors", folder / "cfg.json"
    match change:
        case "width":
            w = load_file(weights)
            narrow = {
                "W_enc": w["W_enc"][:16],
                "W_dec": w["W_dec"][:, :16],
                "b_dec": w["b_dec"][:16],
            }
            save_file({**w, **{name: one.contiguous() for name, one in narrow.items()}}, weights)
        case "pickle":
            weights.rename(folder / "sae_weights.pt")
        case "normalisation":
            told = json.loads(settings.read_text()) | {"normalize_activations": "layer_norm"}
            settings.write_text(json.dumps(told))
        case "activations":
            words += ["--activations", "ffff"]
        case "nothing":
            weights.unlink()
        case "weights":
            folder = tmp_path / "trial"
            shutil.copytree(outputs / "trials" / trial(outputs).folder, folder)
            (folder / "sae.safetensors").unlink()
            words += ["--format", "sae_sweep"]
    capsys.readouterr()
    assert main(["evaluate", str(folder), *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


def at(layer: int | None, place: str | None) -> Published:
    sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
    return Published("saelens", sae, place, layer, "m", "f" * 64)


def rows(fingerprint: str, **settings: Any) -> RowsOf:
    return RowsOf(fingerprint, {"d": 4, "model": "m", **settings}, {})


def test_the_activations_of_the_same_layer_are_chosen() -> None:
    among = [rows("aa", layer=2), rows("bb", layer=3)]
    assert references.choose(at(3, "blocks.2.hook_resid_post"), among, None) == among[1]
    with pytest.raises(BadInput, match=r"layers\.7 \(activations\.layer=8\), .*layer=2: give a sw"):
        references.choose(at(8, "layers.7"), among, None)
    with pytest.raises(BadInput, match=r"blocks\.2\.hook_mlp_out, the rows .*--activations aa"):
        references.choose(at(None, "blocks.2.hook_mlp_out"), among, None)
    assert references.choose(at(8, "layers.7"), among, "a") == among[0]  # the user knows better
    with pytest.raises(BadInput, match=r"several activations: choose one .*aa \(.*layer=2\), bb"):
        references.choose(at(None, None), among, None)


def test_a_transcoder_needs_rows_with_a_target() -> None:
    config = TopKConfig(n_latents=8, k=2, transcoder=True)
    theirs = at(3, None)._replace(sae=build(config, 4, seed=0))
    with pytest.raises(BadInput, match=r"is a transcoder, and the rows .*activations\.target_hook"):
        references.choose(theirs, [rows("aa", layer=3)], None)
    among = [rows("aa", layer=3, target_hook="mlp")]
    assert references.choose(theirs, among, None) == among[0]


@pytest.mark.parametrize("windows", [0, 8])
def test_inside_a_model_it_is_measured_as_a_trial_is(
    source: Callable[..., Source], windows: int
) -> None:
    made = source("gpt2")
    settings = {"d": 16, **made.wanted.source.settings}
    written = made.wanted.config.model_dump()
    here = RowsOf(made.wanted.source.fingerprint, settings, written)
    theirs = build(TopKConfig(n_latents=24, k=3), 16, seed=1)
    expected = copy.deepcopy(theirs)
    published = Published("saelens", theirs, "h.1", 2, "another/model", "f" * 64)
    found = references.measure(published, here, windows, made.outputs, "theirs")
    activations = open_activations(made.wanted.folder(made.outputs))
    renormalised(expected, *references.normalisations(activations))
    to_unit_rows(expected)
    assert found.notes == (
        f"it is of the model another/model, the rows are of {settings['model']}",
    )
    if not windows:
        assert not set(IN_MODEL) & set(found.metrics)
        return
    prepare(made)
    assert set(IN_MODEL) <= set(found.metrics)
    alone = Evaluator(made).metrics(expected)
    assert {name: found.metrics[name] for name in alone} == pytest.approx(alone, rel=1e-6)


def test_a_model_that_is_not_there_any_more_leaves_the_other_metrics(
    source: Callable[..., Source],
) -> None:
    made = source("gpt2")
    settings = {"d": 16, **made.wanted.source.settings}
    written = made.wanted.config.model_dump() | {"model": "/no/such/model"}
    here = RowsOf(made.wanted.source.fingerprint, settings, written)
    sae = build(TopKConfig(n_latents=24, k=3), 16, seed=1)
    published = Published("saelens", sae, None, None, None, "f" * 64)
    found = references.measure(published, here, 8, made.outputs, "theirs")
    assert "fvu" in found.metrics
    assert not set(IN_MODEL) & set(found.metrics)
    assert any("not measured inside the model: activations.model=/no" in one for one in found.notes)
    assert "it does not say where in a model its rows are from" in found.notes
