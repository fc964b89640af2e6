from typing import Any

import pytest
import torch

from sae_sweep.activations.reader import Rows, joined
from sae_sweep.activations.synthetic import SyntheticReader, dictionary, identify
from sae_sweep.config import ActivationsConfig, SyntheticConfig
from sae_sweep.errors import BadInput


def config(d: int | None = 24, **changes: Any) -> ActivationsConfig:
    settings = {"n_features": 12, "n_active": 3, **changes}
    return ActivationsConfig(
        synthetic=SyntheticConfig(**settings), d=d, train_tokens=500, validation_tokens=100
    )


def read(settings: ActivationsConfig, split: Any = "train", stop: int = 500) -> Rows:
    return joined([rows for [rows] in SyntheticReader(settings).read(split, 0, stop)])


def test_tokens_are_sums_of_as_many_directions_as_asked_for() -> None:
    truth = dictionary(config()).double()
    x = read(config()).activation.double()
    # 12 directions in 24 dimensions are independent, so the codes can be solved for
    codes = torch.linalg.lstsq(truth.T, x.T).solution.T
    torch.testing.assert_close(codes @ truth, x, atol=1e-6, rtol=0)
    active = codes.abs() > 1e-5
    assert (active.sum(1) == 3).all()
    assert 0.5 - 1e-5 <= codes[active].min() < 0.6
    assert 1.4 < codes[active].max() <= 1.5 + 1e-5
    assert active.any(0).all()


def test_directions_have_unit_length() -> None:
    torch.testing.assert_close(dictionary(config()).norm(dim=1), torch.ones(12))


def test_noise_has_the_deviation_asked_for() -> None:
    noise = read(config(noise=0.25), stop=2000).activation - read(config(), stop=2000).activation
    assert noise.std() == pytest.approx(0.25, rel=0.02)


def test_tokens_follow_from_the_seed_and_differ_between_splits_and_pieces() -> None:
    x = read(config(), stop=5000).activation
    assert torch.equal(x, read(config(), stop=5000).activation)
    assert len(x.unique(dim=0)) == len(x) == 5000
    assert not torch.equal(x[:100], read(config(), "validation", 100).activation)
    assert not torch.equal(x[:100], read(config(seed=1), stop=100).activation)


def test_the_identity_is_the_settings() -> None:
    identity = identify(config())
    assert identity.d == 24
    assert identity.settings == {
        "synthetic": {"n_features": 12, "n_active": 3, "noise": 0.0, "seed": 0},
        "train_tokens": 500,
        "validation_tokens": 100,
    }


def test_a_missing_width_is_refused() -> None:
    with pytest.raises(BadInput, match=r"activations\.d=null .*: give the width, e\.g\. 64"):
        identify(config(d=None))


def test_more_active_features_than_there_are_are_refused() -> None:
    message = r"synthetic\.n_active=13 exceeds activations\.synthetic\.n_features=12: lower it"
    with pytest.raises(BadInput, match=message):
        identify(config(n_active=13))
