"""What in a search's settings is refused, and in which words."""

from typing import Any

import pytest

from sae_sweep.config import RunConfig, SearchConfig, SweepConfig, read_constraint, validate
from sae_sweep.errors import BadInput
from sae_sweep.search import warnings


def make(**settings: Any) -> SearchConfig:
    return validate(SearchConfig, settings, "search.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 50}, r"search\.target=50 is no share of the latents between 0 and 1: .* "
                         r"search\.target_count=50"),
        ({"target": 0}, r"search\.target=0 is no share"),
        ({"target": 0.05, "target_count": 50}, r"search\.target=0\.05 and "
                                               r"search\.target_count=50 both set the target"),
        ({"kind": "target"}, r"search\.kind=target without a target: give search\.target=0\.05"),
        ({"kind": "target", "target": 0.1, "constraints": ["fvu <= 1"]},
         r"search\.constraints=\['fvu <= 1'\] with search\.kind=target"),
        ({"kind": "optuna"}, r"search\.kind=optuna without an objective"),
        ({"objective": "fvuu"}, r"search\.objective=fvuu: no such metric; did you mean fvu"),
        ({"objective": "max_activation"}, r"search\.objective=max_activation: neither more nor"),
        ({"objective": ["fvu", "fvu"]}, r"a metric stands twice"),
        ({"objective": ["fvu", "l0"], "target": 0.05},
         r"search\.objective=\['fvu', 'l0'\] with a target"),
        ({"sampler": "tep"}, r"search\.sampler=tep: no such sampler; did you mean tpe.*\(there are "
                             r"tpe, gp, nsga2, qmc, random\)"),
        ({"constraints": ["dead_featurs <= 0.2"]}, r'search\.constraints="dead_featurs <= 0\.2": '
                                                   r"no such metric; did you mean dead_features"),
        ({"constraints": ["fvu < 1"]}, r'search\.constraints="fvu < 1" cannot be read: write a'),
        ({"trials": 0}, r"search\.trials=0: input should be greater than 0"),
    ],
)  # fmt: skip
def test_bad_searches_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("written", "value", "violation"),
    [
        ("dead_features <= 0.2", 0.5, 0.3),
        ("always_on==0", 2.0, 2.0),
        ("l0 >= 1e1", 12.0, -2.0),
        ("fvu <= .5", 0.5, 0.0),
    ],
)
def test_a_constraint_measures_how_far_it_is_violated(
    written: str, value: float, violation: float
) -> None:
    assert read_constraint(written).violation(value) == pytest.approx(violation)


@pytest.mark.parametrize(
    ("settings", "drawn", "is_degenerate"),
    [
        ({"objective": "fvu"}, "sae.l1_alpha", True),
        ({"objective": ["fvu", "mse"]}, "sae.l1_alpha", True),
        ({"objective": "fvu"}, "sae.l0_coeff", True),
        ({"objective": "fvu"}, "train.lr", False),
        ({"objective": ["fvu", "l0"]}, "sae.l1_alpha", False),
        ({"objective": "fvu", "constraints": ["l0 <= 40"]}, "sae.l1_alpha", False),
        ({"target": 0.05}, "sae.l1_alpha", False),
    ],
)
def test_reconstruction_alone_over_the_weight_of_a_penalty_is_warned_of(
    settings: dict[str, Any], drawn: str, is_degenerate: bool
) -> None:
    sweep = SweepConfig(space={drawn: {"loguniform": [0.1, 10]}})
    found = warnings(sweep, make(kind="optuna", **settings))
    assert bool(found) == is_degenerate
    name = drawn.removeprefix("sae.")
    assert all(f"is degenerate: the lowest {name} wins" in one for one in found)


SYNTHETIC = {"synthetic": {}, "d": 32}
MODEL = {"model": "m", "layer": 1}


@pytest.mark.parametrize(
    ("activations", "objective", "windows", "message"),
    [
        (MODEL, "f1", 64, r"search\.objective=f1 compares with true features, which only act"),
        (SYNTHETIC, "kl", 64, r"search\.objective=kl is measured in a model, token by token"),
        (MODEL, "kl", 0, r"search\.objective=kl with evaluate\.windows=0: it is measured in"),
        (SYNTHETIC, "f1", 64, None),
        (MODEL, "kl", 64, None),
    ],
)
def test_an_objective_needs_what_it_is_measured_by(
    activations: dict[str, Any], objective: str, windows: int, message: str | None
) -> None:
    settings = {
        "activations": activations,
        "search": {"kind": "optuna", "objective": objective},
        "evaluate": {"windows": windows},
    }
    if message is None:
        assert validate(RunConfig, settings).search.objective == [objective]
        return
    with pytest.raises(BadInput, match=message):
        validate(RunConfig, settings)
