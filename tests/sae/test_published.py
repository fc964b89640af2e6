"""Autoencoders of other libraries: what is read computes what they compute on raw rows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_exports import TRANSCODERS, close, ours, transcoder
from test_saelens import CONFIGS, D, M, N, stored
from torch import Tensor

from sae_sweep.cli.evaluate import FORMATS
from sae_sweep.config import TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.sae import AbstractSae, Normalisation, export, load
from sae_sweep.sae.published import LAYOUTS, find, read, renormalised, to_unit_rows

OTHER = Normalisation(torch.linspace(-2, 3, D), 0.6)
AFTER = Normalisation(torch.linspace(1, -1, D), 4.0)
CASES = [
    *(("saelens", kind) for kind in CONFIGS),
    *(("saelens", kind) for kind in TRANSCODERS),
    ("sparsify", "topk"),
    ("sparsify", "topk transcoder"),
    *(("dictionary_learning", kind) for kind in CONFIGS if kind != "abstopk"),
    *(("sae_sweep", kind) for kind in CONFIGS),
]


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str, str], tuple[Path, AbstractSae]]:
    """A trial of ours and its folder in a layout: made(layout, kind)."""

    def make(layout: str, kind: str) -> tuple[Path, AbstractSae]:
        trial = tmp_path / "trial"
        if kind in CONFIGS:
            stored(trial, CONFIGS[kind])
        else:
            config = TRANSCODERS.get(kind, TopKConfig(n_latents=M, k=5, transcoder=True, skip=True))
            transcoder(trial, config)
        if layout == "sae_sweep":
            return trial, load(trial)
        export(trial, tmp_path / "theirs", layout)
        pickled = tmp_path / "theirs" / "ae.pt"
        if pickled.exists():  # as the message says
            save_file(torch.load(pickled, weights_only=True), pickled.with_suffix(".safetensors"))
        return tmp_path / "theirs", load(trial)

    return make


def read_raw(sae: AbstractSae, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and raw reconstruction of raw rows, by whatever normalisation a module has."""
    with torch.no_grad():
        latents, x_hat = sae.read(sae.normalisation.apply(x))
    return latents, (sae.target_normalisation or sae.normalisation).invert(x_hat)


@pytest.mark.parametrize(("layout", "kind"), CASES)
def test_what_is_read_computes_the_same_on_raw_rows(made, layout: str, kind: str) -> None:
    folder, sae = made(layout, kind)
    found = read(folder)
    assert (found.layout, found.d) == (layout, D)
    x, latents, x_hat = ours(sae)
    again, x_hat_again = read_raw(found.sae, x)
    assert close(again, latents)
    assert close(x_hat_again, x_hat)


@pytest.mark.parametrize("kind", [*CONFIGS, *TRANSCODERS])
def test_another_normalisation_changes_neither_latents_nor_raw_reconstruction(
    made, kind: str
) -> None:
    _, sae = made("sae_sweep", kind)
    x, latents, x_hat = ours(sae)
    outputs = AFTER if sae.config.transcoder else None
    other = renormalised(sae, OTHER, outputs)
    assert (other.normalisation, other.target_normalisation) == (OTHER, outputs)
    again, x_hat_again = read_raw(other, x)
    assert close(again, latents)
    assert close(x_hat_again, x_hat)


@pytest.mark.parametrize("kind", CONFIGS)
def test_unit_rows_reconstruct_the_same(made, kind: str) -> None:
    _, sae = made("sae_sweep", kind)
    selects = kind in ("topk", "abstopk", "batchtopk", "matryoshka")
    norms = torch.full((M,), 0.3) if selects else torch.linspace(0.2, 3, M)
    with torch.no_grad():
        sae.w_dec.mul_(norms[:, None])
    x, latents, x_hat = ours(sae)
    to_unit_rows(sae)
    again, x_hat_again = read_raw(sae, x)
    assert close(x_hat_again, x_hat)
    assert torch.equal(again != 0, latents != 0)
    if sae.config.unit_rows:
        torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(M))


def test_rows_of_unequal_norms_that_are_selected_from_are_refused(made) -> None:
    _, sae = made("sae_sweep", "topk")
    with torch.no_grad():
        sae.w_dec[0] *= 2
    with pytest.raises(BadInput, match=r"norms from 1 to 2, and sae\.kind=topk .*rescale each"):
        to_unit_rows(sae)


def test_saelens_latents_that_are_selected_by_their_rows_norms(made) -> None:
    folder, _ = made("saelens", "topk")
    settings = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    w["W_dec"] = w["W_dec"] * torch.linspace(0.1, 4, M)[:, None]
    save_file(w, folder / "sae_weights.safetensors")
    settings["rescale_acts_by_decoder_norm"] = True
    (folder / "cfg.json").write_text(json.dumps(settings))
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(3)) * 20
    norm = w["W_dec"].norm(dim=1)
    pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm
    top = pre.topk(settings["k"])
    latents = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    found, x_hat = read_raw(read(folder).sae, x)
    assert close(found, latents)
    assert close(x_hat, (latents / norm) @ w["W_dec"] + w["b_dec"])


def test_saelens_weights_that_take_no_bias_off(made) -> None:
    folder, _ = made("saelens", "gated")
    settings = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**settings, "apply_b_dec_to_input": False}))
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    shared = x @ w["W_enc"]
    latents = (shared + w["b_gate"] > 0) * (shared * w["r_mag"].exp() + w["b_mag"]).relu()
    assert close(read_raw(read(folder).sae, x)[0], latents)


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        ("blocks.3.hook_resid_pre", 3),
        ("blocks.3.hook_resid_post", 4),
        ("model.layers.7", 8),
        ("gpt_neox.layers.0", 1),
        ("resid_post_layer_8", 9),
        ("blocks.3.hook_mlp_out", None),
        ("layers.3.mlp", None),
    ],
)
def test_the_layer_is_counted_as_ours(made, place: str, layer: int | None) -> None:
    folder, _ = made("saelens", "topk")
    settings = json.loads((folder / "cfg.json").read_text())
    settings["metadata"]["hook_name"] = place
    (folder / "cfg.json").write_text(json.dumps(settings))
    found = read(folder)
    assert (found.place, found.layer, found.model) == (place, layer, "some/model")


def change(folder: Path, **settings: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations=layer_norm: rows would"),
        ({"reshape_activations": "hook_z"}, "reshape_activations=hook_z: rows would go through"),
        ({"architecture": "temporal"}, "architecture=temporal: there is no such autoencoder"),
    ],
)
def test_what_cannot_be_compared_on_raw_rows_is_refused(made, settings, message: str) -> None:
    folder, _ = made("saelens", "topk")
    change(folder, **settings)
    with pytest.raises(BadInput, match=message):
        read(folder)


def test_sparsify_of_another_activation_is_refused(made) -> None:
    folder, _ = made("sparsify", "topk")
    change(folder, activation="groupmax")
    with pytest.raises(BadInput, match="activation=groupmax: there is no such autoencoder here"):
        read(folder)


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    stored(tmp_path / "trial", CONFIGS["topk"])
    folder = tmp_path / "theirs"
    export(tmp_path / "trial", folder, "dictionary_learning")
    message = r"ae\.pt is a pickle, which is not read .*weights_only=True.*ae\.safetensors"
    with pytest.raises(BadInput, match=message) as refused:
        read(folder)
    program = str(refused.value).partition('python -c "')[2].removesuffix('"')
    exec(program)  # what the message tells a person to run
    assert read(folder).layout == "dictionary_learning"


def test_weights_that_do_not_fit_together_are_refused(made) -> None:
    folder, _ = made("saelens", "topk")
    w = load_file(folder / "sae_weights.safetensors")
    save_file({**w, "b_enc": w["b_enc"][:-1].clone()}, folder / "sae_weights.safetensors")
    with pytest.raises(BadInput, match=rf"b_enc is \[{M - 1}\], not \[{M}\]"):
        read(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadInput, match=r"sae_weights\.safetensors cannot be read"):
        read(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(BadInput, match=r"cfg\.json cannot be read"):
        read(folder)


def test_other_layouts_and_folders_are_refused(made, tmp_path: Path) -> None:
    folder, _ = made("saelens", "topk")
    with pytest.raises(BadInput, match=r"--format sparsify: .* is in the layout of saelens"):
        read(folder, "sparsify")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"holds no autoencoder that can be read .*pickles are not"):
        read(tmp_path / "empty")


def test_a_name_is_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=r"org/name/layers\.3 is neither a folder nor a repository"):
        find("org/name/layers.3")
    with pytest.raises(BadInput, match=r"\./nothing is no folder with an autoencoder's weights"):
        find("./nothing")
    with pytest.raises(BadInput, match="nothing is no folder with an autoencoder's weights"):
        find("nothing")
    asked = {}

    def download(name: str, **patterns: list[str]) -> str:
        asked.update(patterns, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find("org/name/layers.3") == tmp_path / "layers.3"
    assert asked["name"] == "org/name"
    assert asked["allow_patterns"] == ["layers.3/*.safetensors", "layers.3/*.json"]


def test_the_command_offers_every_layout() -> None:
    assert list(LAYOUTS) == FORMATS
