"""Which past trials count for a response curve."""

from typing import Any

import pytest

from sae_sweep.records import TrialRecord
from sae_sweep.rules.history import comparable, left_out_in_words, observation


def make_record(**changes: Any) -> TrialRecord:
    config: dict[str, Any] = {
        "activations": {"fingerprint": "a" * 12, "d": 384, "layer": 3},
        "sae": {"kind": "l1", "n_latents": 64, "l1_alpha": 2.0, "l1_norm": "decoder"},
        "train": {"lr": 1e-3, "steps": 100, "seed_init": 0, "seed_data": 0},
    }
    status = changes.pop("status", "done")
    for key, value in changes.items():
        group, name = key.split("_", maxsplit=1)
        config[group][name] = value
    final = {"l0_fraction": 0.1, "l0_fraction_last_half": 0.2, "l0_fraction_last_half_sd": 0.01}
    return TrialRecord("u", "l", status, config, final)


LIKE = make_record().config


def test_alpha_width_and_seeds_are_free() -> None:
    records = [make_record(sae_l1_alpha=9.0), make_record(sae_n_latents=128, train_seed_init=1)]
    assert comparable(records, LIKE).records == records


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activations_fingerprint": "b" * 12, "activations_layer": 5}, "activations.layer"),
        ({"activations_fingerprint": "b" * 12, "activations_normalisation": "none"},
         "activations.normalisation"),
        ({"activations_fingerprint": "b" * 12}, "activations"),
        ({"sae_l1_norm": "unit"}, "sae.l1_norm"),
        ({"train_steps": 200}, "train.steps"),
        ({"train_resample_every": 50}, "train.resample_every"),
    ],
)  # fmt: skip
def test_what_differs_otherwise_is_left_out_and_said(changes: dict[str, Any], reason: str) -> None:
    past = comparable([make_record(**changes), make_record()], LIKE)
    assert len(past.records) == 1
    assert left_out_in_words(past.left_out) == f"left out: 1 with another {reason}"


@pytest.mark.parametrize(
    "changes", [{"status": "failed"}, {"sae_kind": "topk"}, {"sae_l1_alpha": 0.0}]
)
def test_trials_that_say_nothing_of_the_response_are_not_mentioned(changes: dict[str, Any]) -> None:
    assert comparable([make_record(**changes)], LIKE) == ([], {})


def test_an_observation_carries_the_relative_oscillation() -> None:
    assert observation(make_record()) == pytest.approx((2.0, 64, 0.1, 0.05))
