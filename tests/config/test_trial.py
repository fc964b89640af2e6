"""Resolution and identity: what acts counts, how it was written does not."""

import json
import re
from pathlib import Path

import pytest

from sae_sweep.config import (
    ARCHITECTURES,
    Source,
    TrainConfig,
    Trial,
    TrialConfig,
    resolve,
    risks,
    validate,
)
from sae_sweep.errors import BadInput
from sae_sweep.records import LEFT_OUT

SOURCE = Source("f" * 12, 64, 100_000, {"layer": 3})


def resolved(sae: dict | None = None, train: dict | None = None, source: Source = SOURCE) -> Trial:
    groups = {
        "activations": {"synthetic": {}, "d": 64},
        "sae": {"kind": "topk", "k": 4, **(sae or {})},
        "train": train or {},
    }
    if "k" not in ARCHITECTURES[groups["sae"]["kind"]].model_fields:
        del groups["sae"]["k"]
    return resolve(validate(TrialConfig, groups), source)


CONDITIONAL = {"always_on_threshold", "l0_bound", "l0_target_fraction", "l1_warmup_fraction"}
"""Settings that act only where another one does, and have a default."""

SAME = [
    ({"expansion_factor": 2}, {}, {"n_latents": 128}, {}),
    ({}, {"epochs": 1}, {}, {"tokens": 100_000}),
    ({}, {"steps": 391}, {}, {}),
    ({"aux_coeff": 0, "aux_kind": "auxk"}, {}, {"aux_coeff": 0, "aux_kind": "usage"}, {}),
    ({"aux_coeff": 0, "aux_target": 0.02}, {}, {"aux_coeff": 0}, {}),
    ({"aux_target": 0.02}, {}, {}, {}),
    ({}, {"l1_warmup_fraction": 0.5}, {}, {}),
    ({}, {"precision": "fp32"}, {}, {}),
    ({}, {"latents": "auto"}, {}, {}),
    ({}, {"report_every": 7, "checkpoint_every": 9}, {}, {}),
    (
        {"kind": "l1"},
        {"resample_every": 9},
        {"kind": "l1"},
        {"resample_every": 9, "resample_after": 9},
    ),
    ({"k": 4.0}, {"lr": 1}, {}, {"lr": 1.0}),
    ({"always_on_coeff": 0, "always_on_threshold": 0.5}, {}, {}, {}),
    ({"select": "largest", "decoder_bias": True, "l1_coeff": 0, "diversity_coeff": 0}, {}, {}, {}),
    (
        {"kind": "matryoshka", "n_latents": 64},
        {},
        {"kind": "matryoshka", "n_latents": 64, "prefixes": "4/8/16/32/64"},
        {},
    ),
    ({"kind": "jumprelu"}, {}, {"kind": "jumprelu", "target_l0": 32}, {}),
    ({}, {"l0_target": 0.05}, {}, {}),
    (
        {"kind": "l1"},
        {"l0_target": 0.05, "l0_target_start": 0.1, "l0_target_fraction": 0.2, "l0_bound": 9},
        {"kind": "l1"},
        {},
    ),
    (
        {"kind": "l1"},
        {"l0_controller": True, "l0_target": 0.05, "l0_target_fraction": 0.2},
        {"kind": "l1"},
        {"l0_controller": True, "l0_target": 0.05},
    ),
]

DIFFERENT = [
    ({"k": 5}, {}),
    ({"n_latents": 65}, {}),
    ({"aux_coeff": 0}, {}),
    ({"aux_kind": "usage", "aux_target": 0.02}, {}),
    ({"kind": "l1"}, {}),
    ({"b_dec_init": "geometric_median"}, {}),
    ({"always_on_coeff": 0.1}, {}),
    ({"select": "magnitude"}, {}),
    ({"encoder_scale": 0.5}, {}),
    ({"diversity_coeff": 0.5}, {}),
    ({"kind": "batchtopk"}, {}),
    ({}, {"lr": 1e-3}),
    ({}, {"beta2": 0.99}),
    ({}, {"seed_init": 1}),
    ({}, {"seed_data": 1}),
    ({}, {"reproducible": False}),
    ({}, {"precision": "bf16_select"}),
    ({}, {"latents": "sparse"}),
    ({}, {"latents": "dense"}),
    ({}, {"lr_decay_fraction": 0.1}),
    ({}, {"batch_size": 128}),
    ({}, {"dead_window_tokens": 999}),
]


@pytest.mark.parametrize(("sae", "train", "other_sae", "other_train"), SAME)
def test_two_spellings_of_one_trial_share_its_uid(sae, train, other_sae, other_train) -> None:
    assert resolved(sae, train).uid == resolved(other_sae, other_train).uid


@pytest.mark.parametrize(("sae", "train"), DIFFERENT)
def test_whatever_acts_changes_the_uid(sae, train) -> None:
    assert resolved(sae, train).uid != resolved().uid


HELD = {"l0_controller": True, "l0_target": 0.05}


@pytest.mark.parametrize(
    "change", [{"l0_target": 0.1}, {"l0_bound": 9}, {"l0_target_start": 0.1}], ids=str
)
def test_whatever_acts_in_the_controller_changes_the_uid(change) -> None:
    held = resolved({"kind": "l1"}, HELD)
    assert held.controlled
    assert held.uid != resolved({"kind": "l1"}).uid
    assert resolved({"kind": "l1"}, {**HELD, **change}).uid != held.uid
    moving = {**HELD, "l0_target_start": 0.1}
    slower = {**moving, "l0_target_fraction": 0.9}
    assert resolved({"kind": "l1"}, slower).uid != resolved({"kind": "l1"}, moving).uid


@pytest.mark.parametrize(
    ("sae", "uid"), [({}, "8781cbd2f523"), ({"kind": "l1"}, "29f4e7598e80")], ids=["topk", "l1"]
)
def test_settings_that_came_later_leave_the_uids_of_earlier_trials(sae, uid) -> None:
    assert resolved(sae).uid == uid


IDENTITIES = Path(__file__).parents[1] / "data" / "identities.json"
"""Settings of trials with the uid and label that they were given when they were first trained."""


def test_the_defaults_that_records_leave_out_are_known_to_them() -> None:
    known: dict[str, object] = {}
    for kind, architecture in ARCHITECTURES.items():
        record = resolved({"kind": kind, "n_latents": 64}).record
        fields = {"sae": architecture.model_fields, "train": TrainConfig.model_fields}
        for section, names in fields.items():
            for name in names.keys() - record[section].keys():
                key, default = f"{section}.{name}", names[name].default
                if key in LEFT_OUT:
                    assert LEFT_OUT[key] == default
                    known[key] = default
                else:
                    assert default is None or name in CONDITIONAL, key
    assert known == LEFT_OUT


def test_every_trial_keeps_its_uid_and_label() -> None:
    for one in json.loads(IDENTITIES.read_text(encoding="utf-8")):
        groups = {key: one[key] for key in ("sae", "train")}
        groups["activations"] = {"synthetic": {}, "d": 64}
        trial = resolve(validate(TrialConfig, groups), SOURCE)
        assert (trial.uid, trial.label) == (one["uid"], one["label"]), one


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_setting_that_a_fused_form_does_not_know_is_refused(kind: str) -> None:
    """Kernels know what `forms` names: a later setting is not trained as something else."""

    class Later(ARCHITECTURES[kind]):
        later: float = 1.0

    lacking = Later().lacks("fused")
    assert lacking is not None
    assert lacking.name in {"later", "kind"}


def test_other_activations_are_another_trial() -> None:
    assert resolved(source=SOURCE._replace(fingerprint="e" * 12)).uid != resolved().uid


def test_nothing_is_automatic_after_resolution() -> None:
    trial = resolved({"expansion_factor": 2}, {"epochs": 2})
    assert (trial.n_latents, trial.steps, trial.train.precision) == (128, 781, "fp32")
    assert trial.train.dead_window_tokens == 781 * 256 // 8
    assert trial.record["activations"] == {"fingerprint": "f" * 12, "d": 64, "layer": 3}
    assert "expansion_factor" not in trial.record["sae"]
    assert "report_every" not in trial.record["train"]


@pytest.mark.parametrize(
    ("sae", "train", "label"),
    [
        (
            {
                "expansion_factor": 32,
                "k": 1024,
                "aux_kind": "usage",
                "aux_coeff": 1,
                "aux_target": 0.02,
            },
            {},
            "exp32_k1024_lr3e-04_aux1e+00_tgt2e-02",
        ),
        ({"n_latents": 100, "aux_coeff": 0}, {"lr": 1e-3}, "m100_k4_lr1e-03_noaux"),
        (
            {"kind": "l1", "l1_alpha": 5},
            {"seed_init": 2, "seed_data": 2},
            "exp8_l1a5.0e+00_lr3e-04_s2",
        ),
        ({"kind": "batchtopk"}, {}, "exp8_batchk4_lr3e-04_aux3e-02"),
        ({"kind": "matryoshka"}, {}, "exp8_nestedk4_lr3e-04_aux3e-02_p5"),
        ({"kind": "jumprelu"}, {}, "exp8_jumpt32_lr3e-04"),
        ({"kind": "jumprelu", "l0_coeff": 0.5}, {}, "exp8_jump5.0e-01_lr3e-04"),
        ({"kind": "gated"}, {}, "exp8_gated1.0e+00_lr3e-04"),
        (
            {"kind": "l1"},
            {"l0_controller": True, "l0_target": 0.05},
            "exp8_l1a5.0e+00_lr3e-04_l0t5.0e-02",
        ),
    ],
)
def test_the_label_reads_like_the_settings(sae, train, label) -> None:
    assert resolved(sae, train).label == label
    assert re.fullmatch(rf"{re.escape(label)}-[0-9a-f]{{12}}", resolved(sae, train).folder)


@pytest.mark.parametrize(
    ("sae", "train", "message"),
    [
        ({"expansion_factor": 0.5, "k": 64}, {}, r"sae\.k=64 exceeds sae\.n_latents=32"),
        ({}, {"dead_window_tokens": 200_000}, "is not below the training length of 100096 tokens"),
        (
            {"kind": "l1"},
            {"precision": "bf16_select"},
            r"train\.precision=bf16_select with sae\.kind=l1: .*use train\.precision=fp32",
        ),
        (
            {"aux_kind": "usage", "aux_target": 0.02},
            {"precision": "bf16_select"},
            r"train\.precision=bf16_select with sae\.aux_kind=usage: .*or sae\.aux_kind=auxk",
        ),
        (
            {"kind": "gated"},
            {"kernels": "fused"},
            r"train\.kernels=fused with sae\.kind=gated: there is no .*=topk or l1 or batchtopk",
        ),
        (
            {"kind": "jumprelu"},
            {"kernels": "fused", "latents": "sparse"},
            r"train\.latents=sparse with .*sae\.kind=jumprelu: .*use train\.latents=auto or",
        ),
        (
            {"l1_coeff": 0.1},
            {"kernels": "fused"},
            r"train\.kernels=fused with sae\.l1_coeff=0\.1: .* or sae\.l1_coeff=0",
        ),
        (
            {},
            {"resample_every": 100},
            r"train\.resample_every=100 with sae\.kind=topk: .*resample_every=null or sae\.kind=l1",
        ),
        (
            {"kind": "l1", "l1_alpha": 0},
            {"l0_controller": True, "l0_target": 0.05},
            r"sae\.l1_alpha=0 with train\.l0_controller=true: .*give a value to start from",
        ),
        (
            {"n_latents": 512},
            {"l0_controller": True, "l0_target": 0.05},
            r"train\.l0_controller=true with sae\.kind=topk: sae\.k sets L0 itself; use "
            r"train\.l0_controller=false and sae\.k=26 for train\.l0_target=0\.05; .*`when`",
        ),
        (
            {"kind": "jumprelu", "n_latents": 512},
            {"l0_controller": True, "l0_target": 0.05},
            r"train\.l0_controller=true with sae\.kind=jumprelu: sae\.target_l0 sets L0 itself; ",
        ),
    ],
)
def test_what_only_resolution_shows_is_refused(sae, train, message) -> None:
    with pytest.raises(BadInput, match=message):
        resolved(sae, train)


@pytest.mark.parametrize(
    ("sae", "train", "risk"),
    [
        ({"k": 100, "expansion_factor": 8}, {}, "sae.k=100 is over d=64"),
        ({"aux_kind": "usage", "aux_target": 0.5}, {}, "is above k/n_latents"),
        ({}, {"steps": 10}, "under 100 each"),
        ({"kind": "l1"}, {"l0_target": 0.05}, "train.l0_target=0.05 without"),
        ({}, {"l0_target": 0.05}, "needs a sae.kind with a penalty: nothing holds it"),
        (
            {"aux_coeff": 0},
            {"dead_window_tokens": 200_000},
            "dead_train will be 0 whatever happens",
        ),
    ],
)
def test_risky_settings_are_allowed_and_named(sae, train, risk) -> None:
    assert any(risk in one for one in risks(resolved(sae, train)))


def test_an_ordinary_trial_has_no_risk() -> None:
    assert risks(resolved()) == []


@pytest.mark.parametrize(
    ("sae", "passes", "scale"),
    [
        ({"k": 25}, 25, 0.2),
        ({"kind": "matryoshka", "k": 16}, 4, 0.25),
        ({"k": 25, "encoder_scale": 0.5}, 25, 0.5),
        ({"k": 25, "n_latents": 801}, 25, None),
        ({"k": 25}, 1, None),
        ({"kind": "l1"}, 25, None),
        ({"kind": "jumprelu"}, 25, None),
    ],
)
def test_the_first_encoder_is_short_where_rows_are_seen_often(sae, passes, scale) -> None:
    found = resolved(sae, {"epochs": passes})
    assert found.sae.encoder_scale == scale
    assert found.uid == resolved({**sae, "encoder_scale": scale}, {"epochs": passes}).uid
