"""Settings are refused with one message that names the setting, the value and the way out."""

import pytest

from sae_sweep.config import (
    ARCHITECTURES,
    RunConfig,
    Source,
    TrialConfig,
    resolve,
    settings,
    validate,
)
from sae_sweep.config.base import LARGEST
from sae_sweep.errors import BadInput

SYNTHETIC = {"synthetic": {}, "d": 32, "train_tokens": 100_000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae": {"kind": "topk", "kk": 3}}, r"sae\.kk=3: no such setting; did you mean sae\.k"),
        ({"sae": {"k": 3}}, r"sae\.kind is missing: choose one of topk, l1"),
        ({"sae": {"kind": "l2"}}, r"sae\.kind=l2: choose one of topk, l1"),
        ({"sae": {"kind": "topk", "k": 0}}, r"sae\.k=0: input should be greater than 0"),
        ({"sae": {"kind": "topk", "k": -5}}, r"sae\.k=-5: input should be greater than 0"),
        ({"sae": {"kind": "topk", "k": 1.5}}, r"sae\.k=1\.5: input should be a valid integer"),
        (
            {"sae": {"kind": "topk", "k": 64, "n_latents": 32}},
            r"sae\.k=64 exceeds sae\.n_latents=32: choose k <= 32 or a wider dictionary",
        ),
        (
            {"sae": {"kind": "l1", "n_latents": 32, "expansion_factor": 2}},
            r"sae\.n_latents=32 and sae\.expansion_factor=2 both set the width: give one",
        ),
        (
            {"sae": {"kind": "topk", "aux_kind": "usage"}},
            r"sae\.aux_target=null with aux_kind=usage",
        ),
        (
            {"sae": {"kind": "topk", "l1_alpha": 0.1}},
            r"sae\.l1_alpha=0\.1: a setting of sae\.kind=l1 and gated, not of topk; use",
        ),
        (
            {
                "sae": {
                    "kind": "topk",
                    "aux_kind": "usage",
                    "aux_target": 0.1,
                    "select": "magnitude",
                }
            },
            r"sae\.aux_kind=usage with sae\.select=magnitude: .*use sae\.aux_kind=auxk",
        ),
        (
            {"sae": {"kind": "l1", "decoder_bias": False, "b_dec_init": "geometric_median"}},
            r"sae\.b_dec_init=geometric_median with sae\.decoder_bias=false: .*=mean or",
        ),
        (
            {"sae": {"kind": "batchtopk", "k": 64, "n_latents": 32}},
            r"sae\.k=64 exceeds sae\.n_latents=32: choose k <= 32 or a wider dictionary",
        ),
        (
            {"sae": {"kind": "matryoshka", "prefixes": "8/8/32"}},
            r"sae\.prefixes=8/8/32: sizes have to increase",
        ),
        (
            {"sae": {"kind": "matryoshka", "prefixes": "8,16"}},
            r"sae\.prefixes=8,16: write sizes with / between them",
        ),
        (
            {"sae": {"kind": "matryoshka", "prefixes": "8/16", "n_latents": 64}},
            r"sae\.prefixes=8/16 ends at 16, sae\.n_latents=64: .*end with /64",
        ),
        (
            {"sae": {"kind": "matryoshka", "prefixes": "1/2/3/4/5/6/7/8/9/10/11"}},
            r"11 prefixes; give at most 10",
        ),
        (
            {"sae": {"kind": "jumprelu", "target_l0": 64, "n_latents": 64}},
            r"sae\.target_l0=64 is not below sae\.n_latents=64: choose a count of latents",
        ),
        (
            {"sae": {"kind": "jumprelu", "target_l0": 32, "l0_coeff": 1}},
            r"sae\.target_l0=32 and sae\.l0_coeff=1 both set the L0: give one of them",
        ),
        ({"train": {"lr": -1e-3}}, r"train\.lr=-0\.001: input should be greater than 0"),
        ({"train": {"lr": float("nan")}}, r"train\.lr=nan: input should be a finite number"),
        ({"train": {"lr": float("inf")}}, r"train\.lr=inf: input should be a finite number"),
        (
            {"train": {"steps": 5, "epochs": 2}},
            r"train\.steps=5 and train\.epochs=2 both set the length",
        ),
        ({"train": {"lr_warmup_fraction": 0.7, "lr_decay_fraction": 0.6}}, "add to more than 1"),
        (
            {"train": {"precision": "bf16_select", "kernels": "fused"}},
            r"train\.precision=bf16_select with train\.kernels=fused: only CPUs have it; use "
            r"train\.precision=bf16 or train\.kernels=auto",
        ),
        ({"train": {"resample_after": 5}}, "train.resample_after=5 without train.resample_every"),
        (
            {"train": {"l0_controller": True}},
            r"train\.l0_target=null with train\.l0_controller=true: give a share",
        ),
        (
            {"train": {"l0_target": 40}},
            r"train\.l0_target=40: input should be less than 1",
        ),
        ({"train": {"l0_bound": 1}}, r"train\.l0_bound=1: input should be greater than 1"),
        ({"sweep": {"name": "trials"}}, r"sweep\.name=trials cannot name a folder of outputs"),
        ({"sweep": {"name": "../x"}}, r"sweep\.name=\.\./x cannot name a folder of outputs"),
        (
            {"executor": {"kind": "inline", "slots": 2}},
            r"executor\.slots=2 with executor\.kind=inline",
        ),
        ({"activations": {}}, r"activations\.model=null: give activations\.model"),
        ({"activations": {"model": "x"}}, r"activations\.layer=null with model=x: choose a layer"),
        (
            {"activations": {**SYNTHETIC, "pooling": "position"}},
            "position goes with pooling=position",
        ),
        (
            {"sweep": {"name": "optuna.db"}},
            r"sweep\.name=optuna\.db cannot name a folder of outputs",
        ),
        (
            {"sweep": {"name": "a" * 101}},
            "cannot name a folder of outputs: use at most 100 letters",
        ),
        ({"train": {"lr": True}}, r"train\.lr=True: give a number"),
        (
            {"train": {"epochs": 1e305}},
            r"train\.epochs=1e\+305: input should be less than or equal",
        ),
        ({"sae": {"kind": "topk", "expansion_factor": 1e308}}, "should be less than or equal"),
        ({"sae": {"kind": "topk", "k": True}}, r"sae\.k=True: give a number"),
        ({"sae": {"kind": "topk", "aux_coeff": False}}, r"sae\.aux_coeff=False: give a number"),
        ({"sae": {"kind": "topk", "aux_target": True}}, r"sae\.aux_target=True: give a number"),
        (
            {"train": {"lr_decay_fraction": False}},
            r"train\.lr_decay_fraction=False: give a number",
        ),
        ({"train": {"beta1": False}}, r"train\.beta1=False: give a number"),
        ({"train": {"seed_init": True}}, r"train\.seed_init=True: give a number"),
        ({"train": {"seed_data": 2**63}}, r"train\.seed_data=\d+: input should be less than 9"),
        ({"train": {"steps": 10**400}}, r"train\.steps=10+: input should be less than or equal"),
        ({"train": {"tokens": 2**41}}, r"train\.tokens=\d+: input should be less than or equal"),
        ({"train": {"lr": 1e31}}, r"train\.lr=1e\+31: input should be less than or equal"),
        ({"trian": {"lr": 1}}, r"trian=\{'lr': 1\}: no such setting"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_way_out(change, message) -> None:
    with pytest.raises(BadInput, match=message):
        validate(RunConfig, {"activations": SYNTHETIC, **change})


def test_the_largest_allowed_factors_can_be_resolved() -> None:
    groups = {
        "activations": {"synthetic": {}},
        "sae": {"kind": "topk", "expansion_factor": 1e6},
        "train": {"epochs": 1e6, "batch_size": 1},
    }
    widest = Source("f" * 12, LARGEST, LARGEST, {})
    trial = resolve(validate(TrialConfig, groups), widest)
    assert (trial.n_latents, trial.steps) == (10**6 * LARGEST, 10**6 * LARGEST)


def test_a_choice_of_words_lists_them_over_all_classes() -> None:
    words = {setting.key: setting.choices for setting in settings()}
    assert words["sae.kind"] == ARCHITECTURES.keys()
    assert words["sae.aux_kind"] == {"auxk", "usage"}
    assert words["rerun"] == {"failed", "diverged", "weights", "all"}
    assert words["activations.text"] == words["sae.k"] == frozenset()


def test_every_setting_has_its_line_of_help() -> None:
    assert [setting.key for setting in settings() if not setting.text] == []
    keys = [setting.key for setting in settings()]
    assert len(keys) == len(set(keys))
    assert {
        "sae.k",
        "sae.l1_alpha",
        "train.lr",
        "activations.synthetic.noise",
        "sweep.space",
    } <= set(keys)
