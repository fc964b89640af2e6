import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_sweep.activations.manifest import Manifest, Shard, read_manifest, write_manifest
from sae_sweep.activations.reader import Rows, Split, joined
from sae_sweep.activations.shards import open_activations, read_shard, verify, write_shard
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import sha256

D, N = 6, 10


def rows(seed: int, n: int = N, d: int = D) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(
        torch.randn(n, d, generator=generator),
        torch.arange(n, dtype=torch.int32),
        (torch.arange(n) % 2).short(),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of training rows and one for validation."""
    folder = tmp_path / "activations" / "fingerprint"
    shards = []
    splits: list[Split] = ["train", "train", "validation"]
    for seed, split in enumerate(splits):
        path = folder / f"{split}-{seed:05}.safetensors"
        write_shard(path, rows(seed))
        size = path.stat().st_size
        shards.append(Shard(name=path.name, split=split, rows=N, size=size, sha256=sha256(path)))
    write_manifest(folder, manifest(shards=shards))
    return folder


def manifest(**changes: Any) -> Manifest:
    settings = {
        "fingerprint": "fingerprint",
        "settings": {"layer": 3},
        "d": D,
        "mean": [0.5] * D,
        "scale": 2.0,
        "group_names": ["de", "en"],
        "shards": [],
    }
    return Manifest(**{**settings, **changes})


def test_a_shard_gives_back_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    write_shard(path, joined([rows(0), rows(1)]))
    for column, first, second in list(zip(read_shard(path), rows(0), rows(1), strict=True))[:3]:
        assert column.dtype == first.dtype
        assert torch.equal(column, torch.cat([first, second]))


def test_a_shard_is_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    write_shard(path, rows(0, n=40_000, d=256))

    def own_megabytes() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

    before = own_megabytes()
    shard = read_shard(path)
    assert shard.activation.sum().isfinite()
    assert own_megabytes() - before < 10
    assert path.stat().st_size > 40e6


def test_rows_are_normalised_and_in_the_order_asked_for(folder: Path) -> None:
    activations = open_activations(folder)
    train = torch.cat([rows(0).activation, rows(1).activation])
    indices = torch.tensor([19, 0, 10, 9, 0])
    assert torch.equal(activations.train_rows(indices), (train[indices] - 0.5) * 2)
    validation = rows(2)
    expected = (validation.activation - 0.5) * 2
    assert torch.equal(activations.validation_rows(0, N), expected)
    assert torch.equal(activations.validation_rows(3, 5), expected[3:5])
    assert torch.equal(activations.validation_rows(8, 12), expected[8:])
    assert torch.equal(activations.validation_groups(1, 4), validation.group[1:4])


def test_taking_rows_does_not_change_them(folder: Path) -> None:
    activations = open_activations(folder)
    indices = torch.arange(2 * N)
    first = activations.train_rows(indices)
    assert torch.equal(activations.train_rows(indices), first)
    verify(folder, folder.parent)


def test_an_opened_folder_says_what_it_holds(folder: Path) -> None:
    activations = open_activations(folder)
    assert (activations.d, activations.n_train, activations.n_validation) == (D, 2 * N, N)
    assert activations.fingerprint == "fingerprint"
    assert activations.group_names == ["de", "en"]
    assert activations.scale == 2.0
    assert torch.equal(activations.mean, torch.full((D,), 0.5))


def test_whole_shards_pass(folder: Path, tmp_path: Path) -> None:
    verify(folder, tmp_path)
    assert (tmp_path / "cache" / "checksums.json").exists()


def test_a_changed_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    verify(folder, tmp_path)
    path = folder / "train-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = (
        rf"activation shard {path} has another checksum than when it was written: "
        rf"delete the folder {folder} and run again"
    )
    with pytest.raises(BadInput, match=message):
        verify(folder, tmp_path)


def test_a_truncated_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "train-00001.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-9])
    message = rf"shard {path} has {size - 9} bytes instead of {size}: delete the folder {folder}"
    with pytest.raises(BadInput, match=message):
        verify(folder, tmp_path)


def test_a_missing_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "validation-00002.safetensors"
    path.unlink()
    with pytest.raises(BadInput, match=rf"shard {path} is missing: delete the folder {folder}"):
        verify(folder, tmp_path)


def test_a_manifest_of_another_schema_is_refused(folder: Path, tmp_path: Path) -> None:
    found = json.loads((folder / "manifest.json").read_text())
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps({**found, "schema": 7, "new": 1}))
    message = rf"{folder} have schema 7, this version reads schema 1: delete the folder {folder}"
    with pytest.raises(BadInput, match=message):
        verify(folder, tmp_path)
    with pytest.raises(BadInput, match=message):
        open_activations(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": 1}'])
def test_a_damaged_manifest_is_refused(folder: Path, tmp_path: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    message = (
        rf"{folder}/manifest\.json is damaged \(.+\): delete the folder {folder} and run again"
    )
    with pytest.raises(BadInput, match=message):
        verify(folder, tmp_path)


def test_a_folder_without_manifest_is_not_complete(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match=rf"activations in {folder} are not complete: run the sweep"):
        open_activations(folder)


def test_a_manifest_gives_back_what_was_written(tmp_path: Path) -> None:
    written = manifest(d=3, mean=[0.1, 1 / 3, 1e-30], scale=1 / 7)
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
