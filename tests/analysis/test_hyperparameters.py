from typing import Any

import numpy as np

from analysis.study.hyperparameters import INACTIVE, MANY, Hyperparameter, find
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Member


def found(
    assignments: list[dict[str, Any]], configs: list[dict[str, Any]] | None = None
) -> dict[str, Hyperparameter]:
    configs = configs or [{} for _ in assignments]
    members = [
        Member(values, TrialRecord(str(i), "", "done", config))
        for i, (values, config) in enumerate(zip(assignments, configs, strict=True))
    ]
    return {one.name: one for one in find(members)}


def test_settings_that_do_not_vary_and_seeds_are_no_hyperparameters() -> None:
    assignments = [
        {"sae.k": 4, "train.lr": lr, "train.seed_init": s} for lr in (1, 2) for s in (0, 1)
    ]
    assert list(found(assignments)) == ["lr"]


def test_short_names_give_way_where_they_are_ambiguous() -> None:
    assignments = [{"sae.kind": a, "stop.kind": b} for a in "xy" for b in "xy"]
    assert list(found(assignments)) == ["sae.kind", "stop.kind"]


def test_a_key_that_a_trial_lacks_is_inactive_there() -> None:
    one = found([{"sae.aux_target": 0.02}, {}])["aux_target"]
    assert one.levels == ["0.02", INACTIVE]
    assert one.kind == "conditional"


def test_null_is_inactive_and_comes_last() -> None:
    one = found([{"train.resample_every": None}, {"train.resample_every": 50}])["resample_every"]
    assert one.order == ["50", INACTIVE]
    assert np.isnan(one.numbers[0])


def test_a_setting_that_only_other_trials_record_is_inactive() -> None:
    assignments = [{"sae.aux_target": target} for target in (0.01, 0.02, 0.05)]
    configs = [{"sae": {}}, {"sae": {"aux_target": 0.02}}, {"sae": {"aux_target": 0.05}}]
    assert found(assignments, configs)["aux_target"].levels == [INACTIVE, "0.02", "0.05"]


def test_a_default_that_records_leave_out_is_a_level_of_its_own() -> None:
    assignments = [{"sae.skip": skip} for skip in (False, True)]
    one = found(assignments, [{"sae": {}}, {"sae": {"skip": True}}])["skip"]
    assert (one.levels, one.order) == (["False", "True"], ["False", "True"])
    assignments = [{"sae.l1_coeff": weight} for weight in (0, 0.1, 0.1)]
    one = found(assignments, [{"sae": {}}, {"sae": {"l1_coeff": 0.1}}, {"sae": {}}])["l1_coeff"]
    assert one.levels == ["0", "0.1", INACTIVE]


def test_a_setting_that_no_trial_records_is_active() -> None:
    assignments = [{"sae.expansion_factor": wide} for wide in (2, 4)]
    one = found(assignments, [{"sae": {"n_latents": 128}}, {"sae": {"n_latents": 256}}])
    assert one["expansion_factor"].levels == ["2", "4"]


def test_numbers_are_ordered_as_numbers() -> None:
    assert found([{"sae.k": k} for k in (100, 5, 20)])["k"].order == ["5", "20", "100"]


def test_text_and_truth_values_are_categories() -> None:
    for values in (("auxk", "usage"), (True, False)):
        assert found([{"sae.x": value} for value in values])["x"].kind == "categorical"


def test_many_numbers_become_quarters_that_hold_every_trial() -> None:
    values = np.geomspace(1e-5, 1e-2, 4 * MANY).tolist()
    one = found([{"train.lr": value} for value in values])["lr"]
    counts = [one.at(level).sum() for level in one.order]
    assert counts == [8, 8, 8, 8]
    assert sum(counts) == len(values)


def test_a_wide_range_is_taken_on_a_log_scale() -> None:
    wide, narrow = found([{"a.wide": 1, "a.narrow": 1}, {"a.wide": 100, "a.narrow": 2}]).values()
    assert wide.is_log
    assert not narrow.is_log
    np.testing.assert_allclose(wide.numbers, [0, 2])


def test_a_zero_keeps_the_scale_linear() -> None:
    assert not found([{"sae.aux_coeff": 0}, {"sae.aux_coeff": 1}])["aux_coeff"].is_log
