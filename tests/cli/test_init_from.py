"""`sae.init_from`: a trial that starts from weights that are there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_sweep.cli import main
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Reader, default_url
from sae_sweep.sae import load

BASE = [
    *("activations=synthetic", "activations.train_tokens=2048"),
    *("activations.validation_tokens=512", "executor=inline"),
]
STILL = ["train.lr=1e-30", "train.steps=1", "train.report_every=1"]
"""Training that changes no weight."""


def run(outputs: Path, name: str, *words: str) -> list[TrialRecord]:
    given = {word.partition("=")[0] for word in words}
    base = [word for word in BASE if word.partition("=")[0] not in given]
    assert main([*base, f"outputs={outputs}", f"sweep.name={name}", *words]) == 0
    with Reader(default_url(outputs)) as reader:
        return reader.sweep(name).trials


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialRecord]:
    """Outputs, and a trial that was trained."""
    outputs = tmp_path_factory.mktemp("outputs")
    (trial,) = run(outputs, "first", "sae.n_latents=32", "sae.k=4", "train.lr=1e-2")
    return outputs, trial


def start(first: tuple[Path, TrialRecord]) -> Path:
    outputs, trial = first
    return outputs / "trials" / trial.folder


@pytest.mark.parametrize("layout", ["sae_sweep", "saelens", "sparsify"])
def test_a_trial_starts_where_the_weights_are(
    first: tuple[Path, TrialRecord], tmp_path: Path, layout: str
) -> None:
    outputs, before = first
    folder = start(first)
    if layout != "sae_sweep":
        words = ["export", before.uid, "--format", layout, "--outputs", str(outputs)]
        assert main([*words, "--to", str(tmp_path / "theirs")]) == 0
        folder = tmp_path / "theirs"
    words = [f"sae.init_from={folder}", "sae.n_latents=32", "sae.k=4", "train.batch_size=32"]
    (trial,) = run(outputs, f"from-{layout}", *words, *STILL)
    assert trial.final["fvu"] == pytest.approx(before.final["fvu"], rel=1e-4)
    mine, theirs = load(outputs / "trials" / trial.folder), load(start(first))
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    if layout == "sae_sweep":
        assert torch.equal(mine.w_enc, theirs.w_enc)


@pytest.mark.slow
def test_other_rows_have_another_normalisation(first: tuple[Path, TrialRecord]) -> None:
    outputs, before = first
    words = [f"sae.init_from={start(first)}", "sae.n_latents=32", "sae.k=4"]
    (trial,) = run(outputs, "other", *words, *STILL, "activations.train_tokens=1500")
    assert trial.config["activations"]["fingerprint"] != before.config["activations"]["fingerprint"]
    assert trial.final["fvu"] == pytest.approx(before.final["fvu"], rel=0.05)


@pytest.mark.slow
def test_the_identity_is_the_content_wherever_it_lies(
    first: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    outputs, _ = first
    shutil.copytree(start(first), tmp_path / "moved")
    words = ["sae.n_latents=32", "sae.k=4", *STILL]
    (here,) = run(outputs, "here", f"sae.init_from={start(first)}", *words)
    (there,) = run(outputs, "there", f"sae.init_from={tmp_path / 'moved'}", *words)
    (random,) = run(outputs, "random", *words)
    assert here.uid == there.uid != random.uid
    checksum = json.loads((start(first) / "config.json").read_text())["weights_sha256"]
    assert here.config["sae"]["init_sha256"] == checksum
    assert f"init{checksum[:6]}" in here.label
    assert not {"init_from", "init_sha256"} & random.config["sae"].keys()
    assert not {"b_dec_init", "encoder_scale"} & here.config["sae"].keys()
    w = load_file(tmp_path / "moved" / "sae.safetensors")
    w["b_enc"] += 0.1
    save_file(w, tmp_path / "moved" / "sae.safetensors")
    (tmp_path / "moved" / "config.json").write_text(
        json.dumps({"sae": json.loads((start(first) / "config.json").read_text())["sae"]})
    )
    (changed,) = run(outputs, "changed", f"sae.init_from={tmp_path / 'moved'}", *words)
    assert changed.uid != here.uid


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sae.n_latents=64", "sae.k=4"], "sae.n_latents=64, but the weights of sae.init_from="),
        (["sae=l1", "sae.n_latents=32"], "sae.kind=l1, but the weights of sae.init_from="),
        (["sae.n_latents=32", "activations.d=16"], "activations.d=16, but the weights of sae.init"),
        (["sae.init_from=nowhere"], "sae.init_from=nowhere: nowhere is no folder with an auto"),
        (["sae.init_from=null", "sae.init_sha256=ab"], "sae.init_sha256=ab without sae.init_from"),
        (["sae.init_sha256=ab", "sae.n_latents=32"], "sae.init_sha256=ab: the weights of sae.init"),
    ],
)
def test_weights_that_do_not_fit_are_one_message(
    first: tuple[Path, TrialRecord],
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"sae.init_from={start(first)}", *words]
    chosen = list({word.partition("=")[0]: word for word in given}.values())
    assert main([*BASE, f"outputs={tmp_path}", "sweep.name=refused", *chosen]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.glob("trials/*"))


def test_weights_that_change_after_planning_fail_the_trial(
    first: tuple[Path, TrialRecord], tmp_path: Path
) -> None:
    from sae_sweep.config import ActivationsConfig, Source, SyntheticConfig, TrialConfig, resolve
    from sae_sweep.errors import BadInput
    from sae_sweep.sae import Normalisation
    from sae_sweep.sae.start import Start, started

    sae = {"kind": "topk", "n_latents": 32, "k": 4, "init_from": str(start(first))}
    config = TrialConfig.model_validate(
        {
            "activations": ActivationsConfig(synthetic=SyntheticConfig(), d=32),
            "sae": {**sae, "init_sha256": "0" * 64},
        }
    )
    trial = resolve(config, Source("f" * 12, 32, 2048, {}))
    with pytest.raises(BadInput, match="its weights have changed since the trial was planned"):
        started(trial, Normalisation(torch.zeros(32), 1.0), None)
    with pytest.raises(BadInput, match=r"sae\.init_sha256=0+: the weights of .* have [0-9a-f]+; "):
        Start.read(str(start(first))).checked("0" * 64)
