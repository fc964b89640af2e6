import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sae_sweep.activations.files import FilesReader, _arrays, identify
from sae_sweep.activations.reader import Rows, joined
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput


def config(folder: Path, train: int = 6, validation: int = 2, **changes: Any) -> ActivationsConfig:
    return ActivationsConfig(
        files=str(folder), train_tokens=train, validation_tokens=validation, **changes
    )


def table(n: int, first: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows that say which they are."""
    return torch.arange(first, first + n, dtype=dtype)[:, None] * torch.ones(3, dtype=dtype)


def read(settings: ActivationsConfig) -> tuple[Rows, Rows]:
    reader = FilesReader(settings)
    train = list(reader.read("train", 0, settings.train_tokens))
    validation = list(reader.read("validation", 0, settings.validation_tokens))
    return tuple(joined([rows for [rows] in pieces]) for pieces in (train, validation))


def refused(message: str, settings: ActivationsConfig, outputs: Path) -> None:
    with pytest.raises(BadInput, match=message):
        identify(settings, outputs)


def test_files_follow_each_other_and_every_row_is_read_once(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", table(5, first=3).numpy())
    save_file({"activation": table(3)}, tmp_path / "a.safetensors")
    train, validation = read(config(tmp_path))
    rows = torch.cat([train.activation, validation.activation])
    assert sorted(rows[:, 0].tolist()) == list(range(8))
    assert torch.equal(rows, rows[:, :1].expand(-1, 3))
    assert torch.equal(train.document.float(), train.activation[:, 0])
    assert FilesReader(config(tmp_path)).group_names == ["all"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"acts": table(8, dtype=dtype)}, tmp_path / "a.safetensors")
    train, _ = read(config(tmp_path))
    assert train.activation.dtype == torch.float32
    assert set(train.activation[:, 0].tolist()) <= set(range(8))


def test_validation_has_documents_of_its_own(tmp_path: Path) -> None:
    document = torch.tensor([7, 7, 900, 900, 7, -1, -1, 5, 5, 5])
    group = torch.tensor([2, 2, 2, 2, 2, 8, 8, 8, 8, 8])
    columns = {"first": table(10), "document": document, "language": group}
    save_file(columns, tmp_path / "a.safetensors")
    settings = config(tmp_path, train=4, validation=3, group="language")
    train, validation = read(settings)
    assert not set(train.document.tolist()) & set(validation.document.tolist())
    assert FilesReader(settings).group_names == ["2", "8"]
    for rows in (train, validation):
        places = rows.activation[:, 0].long()
        labels = [int(label) for label in document.unique()]
        assert [labels[number] for number in rows.document] == document[places].tolist()
        assert [(2, 8)[number] for number in rows.group] == group[places].tolist()


def test_the_tensor_named_activation_is_preferred(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(8, 5), "activation": table(8)}, tmp_path / "a.safetensors")
    assert identify(config(tmp_path), tmp_path).d == 3


def test_renamed_files_are_the_same_and_changed_ones_are_not(tmp_path: Path) -> None:
    first, renamed = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(first, table(8).numpy())
    before = identify(config(tmp_path), tmp_path).content
    first.rename(renamed)
    assert identify(config(tmp_path), tmp_path).content == before
    np.save(renamed, table(8, first=1).numpy())
    assert identify(config(tmp_path), tmp_path).content != before


def test_of_several_tables_one_has_to_be_named(tmp_path: Path) -> None:
    save_file({"layer_3": table(8), "layer_9": table(8, first=5)}, tmp_path / "a.safetensors")
    message = (
        r"holds 2 arrays of floats, layer_3, layer_9: say which with activations\.tensor=layer"
    )
    refused(message, config(tmp_path), tmp_path)
    refused(r"activations\.tensor=x: .* it has layer_3", config(tmp_path, tensor="x"), tmp_path)
    train, validation = read(config(tmp_path, tensor="layer_9"))
    rows = torch.cat([train.activation, validation.activation])
    assert sorted(rows[:, 0].tolist()) == list(range(5, 13))


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (math.nan, torch.float32, "holds NaN"),
        (math.inf, torch.float16, "holds an infinity in float16"),
        (1e300, torch.float64, r"holds 1e\+300, beyond float32"),
    ],
)
def test_a_row_that_is_not_finite_is_named(
    tmp_path: Path, value: float, dtype: torch.dtype, reason: str
) -> None:
    save_file({"x": table(5, dtype=dtype)}, tmp_path / "a.safetensors")
    rows = table(5, dtype=dtype)
    rows[2, 1] = value
    save_file({"x": rows}, tmp_path / "b.safetensors")
    message = rf"row 2 \(from 0\) of .*b\.safetensors {reason}; 1 such rows among \d+: drop them"
    with pytest.raises(BadInput, match=message):
        read(config(tmp_path, train=8))


def test_files_larger_than_the_memory_are_mapped(tmp_path: Path) -> None:
    n = 2**33  # 32 GiB of float32 rows of one dimension
    header = json.dumps({"x": {"dtype": "F32", "shape": [n, 1], "data_offsets": [0, 4 * n]}})
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + 4 * n)
    np.lib.format.open_memmap(tmp_path / "b.npy", "w+", np.float32, (1, 1))
    with (tmp_path / "b.npy").open("r+b") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (n, 1)}
        )
        file.truncate(file.tell() + 4 * n)
    for name in ("a.safetensors", "b.npy"):
        (array,) = _arrays(tmp_path / name).values()
        assert array.shape == (n, 1)
        assert array[n - 1].item() == 0


def test_hidden_files_and_other_cases_of_a_suffix(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", table(8).numpy())
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    (tmp_path / "._A.npy").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "latest.npy").symlink_to("A.NPY")
    assert identify(config(tmp_path), tmp_path / "out").d == 3
    (tmp_path / "old.npy").mkdir()
    refused(r"old\.npy is a folder, not a file", config(tmp_path), tmp_path / "out")


@given(st.binary(max_size=80), st.integers(0, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_read_or_refused(tmp_path: Path, noise: bytes, place: int) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": table(8)}, path)
    written = bytearray(path.read_bytes())
    written[place : place + len(noise)] = noise
    path.write_bytes(written)
    with contextlib.suppress(BadInput):
        identify(config(tmp_path), tmp_path / "out")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    message = rf"activations\.files={tmp_path} holds no \.safetensors or \.npy file"
    refused(message, config(tmp_path), tmp_path)
    message = r"activations\.files=.*notes\.txt is not a folder: give one with your files"
    refused(message, config(tmp_path / "notes.txt"), tmp_path)


@pytest.mark.parametrize(
    "array", [np.zeros(4, np.float32), np.zeros((4, 3), np.int64), np.zeros((0, 3), np.float32)]
)
def test_an_array_of_another_kind_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    save_file({"labels": torch.from_numpy(array)}, tmp_path / "a.safetensors")
    message = r"a\.safetensors holds no \[tokens, d\] array of floats but labels \[.*\]"
    refused(message, config(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(rf"activations\.files: .*{name} cannot be read", config(tmp_path), tmp_path)


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(r"cannot be read .*without pickled objects", config(tmp_path), tmp_path)


def test_files_of_several_widths_are_refused(tmp_path: Path) -> None:
    save_file({"x": table(8)}, tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(8, 4)}, tmp_path / "b.safetensors")
    message = r"a\.safetensors is \[tokens, 3\] .*b\.safetensors is \[tokens, 4\] .*: keep files"
    refused(message, config(tmp_path), tmp_path)


def test_documents_in_some_files_only_are_refused(tmp_path: Path) -> None:
    save_file({"x": table(8)}, tmp_path / "a.safetensors")
    save_file({"x": table(8), "document": torch.zeros(8).long()}, tmp_path / "b.safetensors")
    refused(r"only one has a tensor `document`: give it to all", config(tmp_path), tmp_path)


@pytest.mark.parametrize("document", [torch.zeros(8), torch.zeros(7).long()])
def test_documents_that_do_not_label_the_rows_are_refused(tmp_path: Path, document: Tensor) -> None:
    save_file({"x": table(8), "document": document}, tmp_path / "a.safetensors")
    message = r"document \[\d\] torch\.\w+ of .*a\.safetensors does not label 8 tokens"
    refused(message, config(tmp_path), tmp_path)


def test_a_missing_group_is_refused(tmp_path: Path) -> None:
    save_file({"x": table(8)}, tmp_path / "a.safetensors")
    message = r"activations\.group=language: .*a\.safetensors has no such tensor"
    refused(message, config(tmp_path, group="language"), tmp_path)


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    save_file({"x": table(7)}, tmp_path / "a.safetensors")
    refused(r"the source gives 5 and 2 rows", config(tmp_path), tmp_path)


def test_a_layer_of_vllms_hidden_states_is_read_with_its_tokens(tmp_path: Path) -> None:
    # as its connector writes a request: [tokens, layers, d] and the tokens
    for number, length in enumerate((3, 5, 4)):
        layers = torch.stack(
            [table(length, first=10 * number), -table(length, first=10 * number)], 1
        )
        ids = torch.arange(length) + 100 * number
        save_file(
            {"hidden_states": layers.bfloat16(), "token_ids": ids},
            tmp_path / f"{number}.safetensors",
        )
    for layer in (None, 2):
        message = rf"activations\.layer={layer}: .* holds 2 layers, 0 to 1: choose one of them"
        refused(message, config(tmp_path, layer=layer), tmp_path)
    settings = config(tmp_path, train=5, validation=3, layer=1)
    assert identify(settings, tmp_path).settings["layer"] == 1
    train, validation = read(settings)
    for rows in (train, validation):
        assert rows.origins is not None
        places = -rows.activation[:, 0].int()
        assert torch.equal(rows.document, places // 10)
        assert torch.equal(rows.origins.token_id, rows.document * 100 + places % 10)
        assert torch.equal(rows.origins.position, places % 10)
        assert torch.equal(rows.origins.window, rows.document)
    assert not set(train.document.tolist()) & set(validation.document.tolist())


def test_batches_of_sequences_lose_their_padding(tmp_path: Path) -> None:
    batch = table(24).view(4, 6, 3)
    mask = torch.ones(4, 6, dtype=torch.int64)
    mask[0, 4:] = 0
    mask[2, :3] = 0  # padded on the left
    ids, group = torch.arange(24).view(4, 6), torch.tensor([1, 1, 0, 0])
    columns = {"x": batch, "attention_mask": mask, "input_ids": ids, "group": group}
    save_file({**columns, "target": batch + 0.5}, tmp_path / "a.safetensors")
    settings = config(tmp_path, train=8, validation=5)
    assert identify(settings, tmp_path).has_target
    for rows in read(settings):
        assert rows.origins is not None
        places = rows.activation[:, 0].long()
        assert mask.flatten()[places].all()
        assert torch.equal(rows.target, rows.activation + 0.5)
        assert torch.equal(rows.document.long(), places // 6)
        assert torch.equal(rows.group.long(), group[places // 6])
        assert torch.equal(rows.origins.token_id.long(), places)
        expected = places % 6 - 3 * (places // 6 == 2)
        assert torch.equal(rows.origins.position.long(), expected)


def test_three_dimensions_without_a_mask_are_refused(tmp_path: Path) -> None:
    save_file({"x": table(8).view(2, 4, 3)}, tmp_path / "a.safetensors")
    message = (
        r"a\.safetensors holds \[2, 4, 3\]: three dimensions are read as \[batch, sequence, d\]"
    )
    refused(message, config(tmp_path), tmp_path)


def test_targets_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_file({"x": table(8), "target": torch.zeros(8, 4)}, tmp_path / "a.safetensors")
    message = r"`target` \[8, 4\] of .* has not the shape \[8, 3\] of its activations: give every"
    refused(message, config(tmp_path), tmp_path)
