"""A trained module on disk and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_sweep.config import L1Config, TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.sae import AbstractSae, Normalisation, build, load, save, wrong_with

D, M = 6, 12
CONFIGS = [TopKConfig(n_latents=M, k=3), L1Config(n_latents=M, l1_norm="unit")]


def stored(folder: Path, config: TopKConfig | L1Config) -> AbstractSae:
    sae = build(config, D, seed=0)
    with torch.no_grad():
        sae.b_enc.fill_(0.1)
    sae.normalisation = Normalisation(torch.linspace(-1, 1, D), 0.1 + 0.2)
    settings: dict[str, Any] = {"sae": config.model_dump(exclude_none=True), "uid": "0a1b"}
    save(folder, sae, settings)
    return sae


def forget_checksum(folder: Path) -> None:
    """Let the folder be one of an earlier version."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["weights_sha256"]
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("config", CONFIGS, ids=["topk", "l1"])
def test_load_gives_back_the_same_bits_in_eval_mode(
    tmp_path: Path, config: TopKConfig | L1Config
) -> None:
    sae = stored(tmp_path, config)
    back = load(tmp_path)
    assert type(back) is type(sae)
    assert back.config == config
    assert not back.training
    assert all(torch.equal(*pair) for pair in zip(sae.parameters(), back.parameters(), strict=True))
    assert torch.equal(back.normalisation.mean, sae.normalisation.mean)
    assert back.normalisation.scale == sae.normalisation.scale


def test_settings_lie_beside_the_weights_as_json(tmp_path: Path) -> None:
    stored(tmp_path / "deep" / "folder", CONFIGS[0])
    config = json.loads((tmp_path / "deep" / "folder" / "config.json").read_text())
    assert config["uid"] == "0a1b"
    assert config["sae"]["k"] == 3


def test_whoever_may_read_the_settings_may_read_the_weights(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    modes = [(tmp_path / name).stat().st_mode for name in ("config.json", "sae.safetensors")]
    assert modes[0] == modes[1]


def test_normalisation_inverts_what_it_applies() -> None:
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
    normalisation = Normalisation(torch.arange(D).float(), 2.5)
    applied = normalisation.apply(x)
    torch.testing.assert_close(applied, (x - torch.arange(D)) * 2.5)
    torch.testing.assert_close(normalisation.invert(applied), x)


def test_a_folder_without_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json does not exist: give the folder of a fin"):
        load(tmp_path)


def test_settings_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        BadInput, match=r"config\.json is not the settings of a trial \(KeyError: 's"
    ):
        load(tmp_path)


def test_a_folder_whose_weights_were_let_go_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(BadInput, match=r"sae\.safetensors does not exist: .*store\.weights=all"):
        load(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    path = tmp_path / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match=r"sae\.safetensors cannot be read .*: run its sweep"):
        load(tmp_path)


def test_a_flipped_bit_of_the_weights_is_noticed_when_they_are_read(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    path = tmp_path / "sae.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert (wrong_with(tmp_path), wrong_with(tmp_path, every_byte=True)) == (None, "damaged")
    with pytest.raises(BadInput, match=r"sae\.safetensors is damaged \(its checksum .*=weights"):
        load(tmp_path)


def test_weights_that_were_stored_without_a_checksum_are_read(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    forget_checksum(tmp_path)
    assert wrong_with(tmp_path, every_byte=True) is None
    load(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"x", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"{}"])
def test_weights_that_are_gone_or_damaged_are_found(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "sae.safetensors").write_bytes(content)
    assert wrong_with(tmp_path) == ("gone" if content is None else "damaged")


def test_weights_without_normalisation_are_refused(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    forget_checksum(tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    del tensors["scale"]
    save_file(tensors, tmp_path / "sae.safetensors")
    with pytest.raises(BadInput, match=r"sae\.safetensors lacks scale: give the folder"):
        load(tmp_path)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    stored(tmp_path, CONFIGS[0])
    config = {"sae": TopKConfig(n_latents=M + 1, k=3).model_dump(exclude_none=True)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"sae\.safetensors does not fit config\.json beside it"):
        load(tmp_path)
