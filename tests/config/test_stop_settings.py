"""Stop rules are read, and refused where they can never fire."""

import re
from pathlib import Path

import pytest
import yaml

from sae_sweep.cli.compose import compose
from sae_sweep.config import RunConfig, StopConfig, validate
from sae_sweep.config.stop import REPORTED
from sae_sweep.errors import BadInput
from sae_sweep.rules.stop_settings import SHIPPED, build_policy
from sae_sweep.rules.stopping import Policy
from sae_sweep.train.evaluation import REPORT_METRICS
from sae_sweep.train.training import LOSSES

SYNTHETIC = {"synthetic": {}, "d": 32, "train_tokens": 100_000}


def policy(stop: StopConfig, **targets: float) -> Policy:
    return build_policy(stop.model_dump(mode="json", by_alias=True), targets)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rules_that_a_report_replays_are_the_shipped_ones(name: str) -> None:
    stop = validate(StopConfig, compose([f"stop={name}"]).settings["stop"])
    assert policy(stop) == SHIPPED[name]


def test_conditions_are_about_what_a_trial_reports() -> None:
    assert set(REPORTED) == {*REPORT_METRICS, *LOSSES}


def test_a_target_is_a_share_beside_a_share_and_a_count_beside_a_count() -> None:
    warning = {"at_step": 5, "any": ["l0_fraction > 3 * target", "l0 < .5*target", "loss > 1e3"]}
    stop = validate(StopConfig, {"warnings": [warning]})
    found = policy(stop, target=0.05, target_count=40.0)
    assert found.warnings[0].conditions == (
        ("l0_fraction", ">", pytest.approx(0.15)),
        ("l0", "<", 20.0),
        ("loss", ">", 1000.0),
    )


@pytest.mark.parametrize(
    ("warning", "message"),
    [
        ({"any": ["loss > 1"]}, r"at_step=null and at_share=null: give one of them"),
        ({"at_step": 1, "at_share": 0.5, "any": ["loss > 1"]}, r"at_step=1 and at_share=0\.5"),
        ({"at_step": 1}, r"any=null and all=null: give one of them"),
        ({"at_step": 0, "any": ["loss > 1"]}, r"at_step=0: input should be greater than 0"),
        ({"at_step": 1, "any": ["loss 1"]}, r'"loss 1" cannot be read: write a metric, > or <'),
        ({"at_step": 1, "any": ["los > 1"]}, r'"los > 1" can never hold: no such metric; .*loss'),
        (
            {"at_step": 1, "any": ["similarity > 1"]},
            r"similarity is known only at the end; choose of loss, ",
        ),
        (
            {"at_step": 1, "any": ["dead_features > 1"]},
            r'"dead_features > 1" can never hold: dead_features is at most 1; lower the bound',
        ),
        (
            {"at_step": 1, "any": ["loss < 0"]},
            r'"loss < 0" can never hold: loss is never below 0; raise the bound',
        ),
        (
            {"at_step": 1, "any": ["l0_fraction > 3 * target"]},
            r'"l0_fraction > 3 \* target" without search\.target: set it, or write the bound',
        ),
        (
            {"at_step": 1, "any": ["loss > 3 * target"]},
            r'"loss > 3 \* target": a target is one of L0; compare l0_fraction or l0',
        ),
        (
            {"at_step": 1, "all": ["l0 > 9", "l0 < 8"]},
            r'"l0 > 9" and "l0 < 8" never hold together: write any in place of all',
        ),
    ],
)  # fmt: skip
def test_a_warning_that_can_never_fire_is_refused(warning, message) -> None:
    settings = {"activations": SYNTHETIC, "stop": {"warnings": [warning]}}
    with pytest.raises(BadInput, match=message):
        validate(RunConfig, settings)


def test_a_multiple_of_the_target_beyond_all_latents_is_refused() -> None:
    search = {"kind": "target", "target": 0.4}
    warning = {"at_share": 0.1, "any": ["l0_fraction > 3 * target"]}
    settings = {"activations": SYNTHETIC, "search": search, "stop": {"warnings": [warning]}}
    with pytest.raises(BadInput, match=r"can never hold: l0_fraction is at most 1; lower"):
        validate(RunConfig, settings)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({"plateau": {"window_steps": 9, "sd_below": 1}}, r"stop\.plateau has after_step=null and"),
        (
            {"halving": {"first_step": 9, "group_by": ["sae.k"], "l0_band": 2}},
            r"stop\.halving has group_by=\['sae\.k'\] and l0_band=2\.0: give one of them",
        ),
        ({"halving": {"first_step": 9}}, r"group_by=null and l0_band=null: give one of them"),
        (
            {"halving": {"first_step": 9, "group_by": ["sae.k"], "metric": "loss"}},
            r"stop\.halving\.metric=loss: input should be 'fvu'",
        ),
        (
            {"halving": {"first_step": 9, "group_by": ["sae.k"], "factor": 1}},
            r"stop\.halving\.factor=1: input should be greater than or equal to 1\.5",
        ),
    ],
)
def test_a_rule_that_says_too_little_or_too_much_is_refused(stop, message) -> None:
    with pytest.raises(BadInput, match=message):
        validate(RunConfig, {"activations": SYNTHETIC, "stop": stop})


def test_the_rules_on_the_page_of_stopping_are_rules() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "stopping.md").read_text()
    [block] = [
        one for one in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if one.startswith("stop:")
    ]
    search = {"kind": "target", "target": 0.05}
    settings = {"activations": SYNTHETIC, "search": search, **yaml.safe_load(block)}
    stop = validate(RunConfig, settings).stop
    assert len(stop.warnings) == 2
    assert None not in (stop.plateau, stop.halving, stop.budget.tokens)
