from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sae_sweep.activations import describe
from sae_sweep.activations.reader import Rows, joined
from sae_sweep.activations.synthetic import (
    SyntheticReader,
    dictionary,
    frequencies,
    identify,
    pieces,
)
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


def fires(settings: ActivationsConfig, n: int = 40_000) -> Tensor:
    reader = SyntheticReader(settings)
    return torch.cat([reader.codes("train", *one) > 0 for one in pieces(0, n)])


def test_the_default_is_that_of_earlier_versions(tmp_path: Path) -> None:
    x = read(config(noise=0.1), stop=3000).activation
    earlier = [-0.1128028, 0.0962780, 0.0410815, 0.6087402, -0.2728398, -0.0275108]
    assert x[2047:2049, :3].flatten().tolist() == pytest.approx(earlier, abs=1e-6)
    assert describe(config(noise=0.1), tmp_path).fingerprint == "54ab01885cf4"


def test_options_without_effect_are_no_part_of_the_identity() -> None:
    before = identify(config()).settings
    assert identify(config(max_frequency=0.2, correlation_rank=3, children=2)).settings == before
    chance = identify(config(zipf=1.0)).settings["synthetic"]
    assert chance == {**before["synthetic"], "zipf": 1.0, "max_frequency": 0.5}
    assert identify(config(zipf=1.0, children=2)).settings["synthetic"] == chance
    forest = identify(config(zipf=1.0, roots=3)).settings["synthetic"]
    assert forest == {**chance, "roots": 3, "children": 4}


@pytest.mark.parametrize("zipf", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("most", [0.3, 0.9])
def test_frequencies_follow_their_law_and_add_up(zipf: float, most: float) -> None:
    law = frequencies(SyntheticConfig(n_features=50, n_active=6, zipf=zipf, max_frequency=most))
    assert law.sum() == pytest.approx(6)
    assert law.max() <= most
    free = law[law < most]
    ranks = torch.arange(51 - len(free), 51, dtype=torch.float64).numpy()
    assert free * ranks**zipf == pytest.approx([free[-1] * 50**zipf] * len(free))
    found = fires(config(n_features=50, n_active=6, zipf=zipf, max_frequency=most))
    assert found.double().mean(0).numpy() == pytest.approx(law, abs=0.012)


def test_correlation_follows_from_shared_factors_and_keeps_frequencies() -> None:
    chance = {"n_features": 30, "n_active": 9, "zipf": 0.0, "correlation_rank": 2}
    found = fires(config(**chance, correlation=0.9)).double()
    assert found.mean(0).numpy() == pytest.approx(0.3, abs=0.012)
    away = ~torch.eye(30, dtype=torch.bool)
    correlated = torch.corrcoef(found.T)[away].abs().mean()
    independent = torch.corrcoef(fires(config(**chance)).double().T)[away].abs().mean()
    assert independent < 0.01
    assert correlated > 0.2


def test_children_fire_only_with_their_parent_and_as_often_as_the_law_says() -> None:
    settings = config(n_features=40, n_active=5, zipf=1.0, roots=4, children=3)
    found = fires(settings, 80_000)
    for child in range(4, 40):
        parent = -(-(child + 1 - 4) // 3) - 1  # ceil((i - R) / b), from 1 on
        assert not (found[:, child] & ~found[:, parent]).any()
    assert settings.synthetic is not None
    assert found.double().mean(0).numpy() == pytest.approx(
        frequencies(settings.synthetic), abs=0.008
    )
    everything = fires(config(n_features=40, n_active=5, zipf=1.0), 80_000)
    assert (everything[:, 4] & ~everything[:, 0]).any()


def test_codes_of_a_piece_are_those_of_its_rows() -> None:
    settings = config(zipf=1.0, roots=3, correlation=0.5)
    reader = SyntheticReader(settings)
    for first, n in pieces(0, 3000):
        codes = reader.codes("validation", first, n)
        rows = joined([one for [one] in reader.read("validation", first, first + n)])
        torch.testing.assert_close(codes @ dictionary(settings), rows.activation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correlation": 0.5}, r"synthetic\.correlation=0\.5 with zipf=null.*zipf=1"),
        ({"roots": 3}, r"synthetic\.roots=3 with zipf=null.*zipf=1"),
        ({"roots": 3, "zipf": 0}, r"synthetic\.roots=3 with zipf=0: a child as frequent"),
        ({"n_active": 6, "zipf": 1}, r"n_active=6 with n_features=12.*fewer than 6 .*lower n_act"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)
