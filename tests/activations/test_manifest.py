"""A manifest is read as it was written, or refused in one message."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_sweep.activations.manifest import MANIFEST, read_manifest
from sae_sweep.errors import BadInput
from sae_sweep.records.names import checked_component

WHOLE: dict[str, Any] = {
    "schema": 1,
    "fingerprint": "0123456789ab",
    "settings": {"d": 2},
    "d": 2,
    "dtype": "float32",
    "window_rows": None,
    "mean": [0.5, -1.0],
    "scale": 2.0,
    "group_names": ["en"],
    "shards": [
        {"name": "train-00000.safetensors", "split": "train", "rows": 3, "size": 9, "sha256": "0"}
    ],
}
PLACES = [(key,) for key in WHOLE] + [("shards", 0, key) for key in WHOLE["shards"][0]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
anew = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def changed(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(WHOLE)
    at: Any = found
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return found


@anew
@given(st.sampled_from(PLACES), JSON)
def test_any_value_is_what_it_should_be_or_refused(tmp_path: Path, place, value) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(changed(place, value)))
    try:
        found = read_manifest(tmp_path)
    except BadInput as error:
        assert str(tmp_path) in str(error)  # noqa: PT017  (either end is right)
        return
    assert all(checked_component(shard.name) and shard.rows > 0 for shard in found.shards)
    assert len(found.mean) == found.d > 0


@anew
@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(tmp_path: Path, noise: bytes, place: int) -> None:
    whole = json.dumps(WHOLE).encode()
    (tmp_path / MANIFEST).write_bytes(whole[:place] + noise + whole[place + len(noise) :])
    try:
        read_manifest(tmp_path)
    except BadInput as error:
        assert str(tmp_path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("shards", 0, "name"), "../../../x", "shards.0.name: .*one plain path component"),
        (("shards", 0, "name"), "/etc/x", "shards.0.name: .*one plain path component"),
        (("shards", 0, "rows"), -1, "shards.0.rows: Input should be greater than 0"),
        (("d",), 3, "a mean of 2 values for rows of 3"),
        (("scale",), float("nan"), "scale: Input should be a finite number"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, place, value, said) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(changed(place, value)))
    with pytest.raises(BadInput, match=rf"manifest\.json is damaged \(.*{said}.*\): delete"):
        read_manifest(tmp_path)
