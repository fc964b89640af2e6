"""Resume states on disk."""

import logging
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from sae_sweep.errors import BadInput
from sae_sweep.train import State, checkpoint

UID = "0123456789ab"


def state(step: int) -> State:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "w": torch.randn(4, 3, generator=generator),
        "sums": torch.randn(3, generator=generator, dtype=torch.float64),
        "count": torch.tensor(step),
    }
    return State(tensors, {"step": step, "seconds": 0.1 + 0.2 + step})


def same(left: State | None, right: State) -> bool:
    return (
        left is not None
        and left.numbers == right.numbers
        and left.tensors.keys() == right.tensors.keys()
        and all(
            tensor.dtype == right.tensors[name].dtype and torch.equal(tensor, right.tensors[name])
            for name, tensor in left.tensors.items()
        )
    )


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert checkpoint.save(tmp_path / "trial", UID, state(7)) == 7
    assert same(checkpoint.load(tmp_path / "trial", UID), state(7))


def test_states_that_are_not_finite_come_back(tmp_path: Path) -> None:
    odd = State({"w": torch.tensor([math.nan, math.inf])}, {"step": 3, "seconds": 1.0})
    checkpoint.save(tmp_path, UID, odd)
    back = checkpoint.load(tmp_path, UID)
    assert back is not None
    torch.testing.assert_close(back.tensors["w"], odd.tensors["w"], equal_nan=True)


def test_without_a_state_training_starts_afresh(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere", UID) is None


@pytest.mark.parametrize("kept", [0, 5, 20, -1])
def test_a_truncated_state_leads_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    checkpoint.save(tmp_path, UID, state(1))
    checkpoint.save(tmp_path, UID, state(2))
    path = tmp_path / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert same(checkpoint.load(tmp_path, UID), state(1))
    assert "cannot be resumed from" in caplog.text


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, UID, state(1))
    path = tmp_path / "resume.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert checkpoint.load(tmp_path, UID) is None


def test_a_process_that_died_between_the_renames_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, UID, state(1))
    checkpoint.save(tmp_path, UID, state(2))
    (tmp_path / "resume.safetensors").unlink()
    assert same(checkpoint.load(tmp_path, UID), state(1))


def test_another_trials_state_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "ffffffffffff", state(1))
    with pytest.raises(BadInput, match=rf"state of trial f{{12}}, not of {UID}: move it away"):
        checkpoint.load(tmp_path, UID)


def test_a_state_of_another_version_is_passed_over(tmp_path, caplog, monkeypatch) -> None:
    checkpoint.save(tmp_path, UID, state(1))
    monkeypatch.setattr(checkpoint, "VERSION", "2")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(tmp_path, UID) is None
    assert "has version 1, this version of sae_sweep reads 2" in caplog.text


def test_a_state_from_before_versions_is_of_the_first(tmp_path) -> None:
    checkpoint.save(tmp_path, UID, state(1))
    path = tmp_path / "resume.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["version"]
    path.write_bytes(save(state(1).tensors, metadata))
    assert same(checkpoint.load(tmp_path, UID), state(1))


def test_a_folder_in_the_place_of_a_state_is_said(tmp_path) -> None:
    (tmp_path / "resume.safetensors").mkdir()
    with pytest.raises(BadInput, match="is a folder, where a checkpoint should be: move it away"):
        checkpoint.load(tmp_path, UID)


@pytest.mark.parametrize("numbers", ["[]", "{}", '{"step": -1}', '{"step": "x"}', "1e", "null"])
def test_numbers_that_are_none_lead_to_a_fresh_start(tmp_path, caplog, numbers) -> None:
    metadata = {"uid": UID, "numbers": numbers, "checksum": checkpoint._checksum({}, numbers)}
    (tmp_path / "resume.safetensors").write_bytes(save({}, metadata))
    assert checkpoint.load(tmp_path, UID) is None
    assert "cannot be resumed from" in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(min_size=1, max_size=40), st.floats(0, 1), st.booleans())
def test_any_bytes_in_a_state_lead_to_the_same_state_or_to_none(
    tmp_path: Path, noise: bytes, share: float, cut: bool
) -> None:
    whole = state(7)
    checkpoint.save(tmp_path, UID, whole)
    (tmp_path / checkpoint.PREVIOUS_FILE).unlink(missing_ok=True)
    path = tmp_path / checkpoint.STATE_FILE
    content = path.read_bytes()
    place = int(share * len(content))
    path.write_bytes(content[:place] + noise + (b"" if cut else content[place + len(noise) :]))
    try:
        found = checkpoint.load(tmp_path, UID)
    except BadInput as error:  # the noise has hit the trial's uid
        assert "is the state of trial" in str(error)  # noqa: PT017
        return
    assert found is None or same(found, whole)
