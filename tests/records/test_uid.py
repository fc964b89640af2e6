"""Identity by content."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.records import canonical, digest

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), PLAIN, max_size=5), st.randoms())
def test_key_order_does_not_matter(settings, random) -> None:
    keys = list(settings)
    random.shuffle(keys)
    assert digest({key: settings[key] for key in keys}) == digest(settings)


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_whole_float_is_the_integer(number) -> None:
    assert digest({"k": number}) == digest({"k": float(number)})


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_different_numbers_differ(one, other) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_spelling_of_a_float_does_not_matter() -> None:
    assert digest(3e-4) == digest(0.0003) == digest(float("0.00030"))


def test_true_is_not_one() -> None:
    assert digest(True) != digest(1)


def test_another_process_agrees() -> None:
    code = "from sae_sweep.records import digest; print(digest({'b': [1.0, None], 'a': 3e-4}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == digest({"a": 0.0003, "b": [1, None]})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_identity(value) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"lr": value})


def test_objects_have_no_identity() -> None:
    with pytest.raises(ValueError, match="cannot be part of a trial's identity"):
        canonical({"lr": object()})
