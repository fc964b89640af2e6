"""What of the Ray executor needs no Ray."""

import pytest

from sae_sweep.errors import CutShort
from sae_sweep.tune import ray_executor


def test_a_first_slot_that_never_begins_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "ANSWER_SECONDS", 0.0)
    answer = ray_executor.Answer(there=False)
    answer.require()  # nobody has asked: all trials are another driver's
    answer.asked()
    with pytest.raises(
        CutShort, match=r"executor\.kind=ray: Ray has started no slot for 0 s: look"
    ):
        answer.require()
    answer.there = True
    answer.require()
