from typing import Any

import pytest

from sae_sweep.cli.compose import choices, compose, conf_dir, validate_run
from sae_sweep.config import Source, Trial, TrialConfig, resolve, validate
from sae_sweep.errors import BadInput
from sae_sweep.records import digest
from sae_sweep.search import LISTED, examples

DRAWN = "sae.l1_alpha={loguniform:[1,10]}"
NEEDED = {
    ("activations", "files"): ["activations.files=/somewhere"],
    ("search", "optuna"): ["sae=l1", DRAWN, "search.objective=[fvu,l0]"],
    ("search", "target"): ["sae=l1", DRAWN, "search.target=0.05"],
}
TRIALS = {
    "ab_test": 9,
    "architectures": 30,
    "downstream": 30,
    "grid_topk": 32,
    "jumprelu_target": 12,
    "l1_grid": 10,
    "l1_width_scaling": 15,
    "layer_quality": 18,
    "multilingual_grid": 252,
    "multilingual_messages": 64,
    "optuna_l1_alpha": 20,
    "pareto_l1": 24,
    "smoke": 4,
    "target_l0": 12,
    "topk_12": 12,
    "transcoder": 8,
}
CHOICES = [(group, name) for group, names in choices().items() for name in names]

MINILM_D = 384


def composed(sweep: str) -> dict[str, Any]:
    return compose([f"+sweep={sweep}"]).settings


def trials(sweep: str) -> list[Trial]:
    """Resolve every point of a sweep that is known as if its activations were there."""
    settings = composed(sweep)
    run = validate_run(settings)
    resolved = []
    for point in examples(settings, run.sweep, run.search):
        config = validate(TrialConfig, point.settings)
        d = config.activations.d or MINILM_D
        fingerprint = digest(point.settings["activations"])
        rows, has_target = config.activations.train_tokens, config.activations.has_target
        source = Source(fingerprint, d, rows, {}, has_target)
        resolved.append(resolve(config, source))
    return resolved


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_makes_a_run(group: str, name: str) -> None:
    settings = compose([f"{group}={name}", *NEEDED.get((group, name), [])]).settings
    validate_run(settings)
    if group not in {"sweep", "activations", "train", "store", "stop"}:
        assert settings[group]["kind"] == name


@pytest.mark.parametrize(("sweep", "count"), TRIALS.items())
def test_a_sweep_has_its_promised_number_of_different_trials(sweep: str, count: int) -> None:
    search = validate_run(composed(sweep)).search
    known = len({trial.uid for trial in trials(sweep)})
    assert (known if search.kind in LISTED else search.trials) == count


def test_every_shipped_sweep_is_counted() -> None:
    assert list(TRIALS) == choices()["sweep"]


@pytest.mark.parametrize("sweep", TRIALS)
def test_a_sweep_asks_its_question_and_says_its_cost(sweep: str) -> None:
    package, cost, *_ = (conf_dir() / f"sweep/{sweep}.yaml").read_text().splitlines()
    assert package == "# @package _global_"
    assert cost.startswith(f"# Cost: {TRIALS[sweep]} trials of ")
    settings = composed(sweep)["sweep"]
    assert settings["name"] == sweep
    assert "?" in settings["question"]


def test_grid_topk_is_one_pass_of_192_steps_with_warm_up_decay_and_two_seeds() -> None:
    found = trials("grid_topk")
    for trial in found:
        train = trial.train
        assert (trial.steps, train.batch_size, trial.report_every) == (192, 256, 32)
        assert (train.lr_warmup_fraction, train.lr_decay_fraction) == (0.05, 0.2)
    assert {trial.train.seed_init for trial in found} == {0, 1}


def test_topk_12_trains_25_epochs_without_aux() -> None:
    for trial in trials("topk_12"):
        assert trial.steps == round(25 * 5978 / 256)
        assert trial.record["sae"]["aux_coeff"] == 0
        assert trial.train.lr == 1e-3


def test_smoke_runs_inline_on_known_features() -> None:
    settings = composed("smoke")
    assert settings["executor"]["kind"] == "inline"
    assert all(trial.n_latents == 64 and trial.source.d == 32 for trial in trials("smoke"))


def test_multilingual_grid_covers_the_published_best_trial() -> None:
    labels = {trial.label for trial in trials("multilingual_grid")}
    assert "exp32_k1024_lr3e-04_aux1e+00_tgt2e-02" in labels
    assert "exp128_k4096_lr3e-04_noaux" in labels


TECHNIQUES = {
    "train.lr_warmup_fraction": ("[0,0.05,0.1]", []),
    "train.lr_decay_fraction": ("[0,0.2,0.5]", []),
    "train.l1_warmup_fraction": ("[0,0.05,0.5]", ["sae=l1"]),
    "train.resample_every": ("[null,100,200]", ["sae=l1"]),
    "train.l0_controller": ("[false,true]", ["sae=l1", "train.l0_target=0.05"]),
    "train.l0_target": ("[0.02,0.05]", ["sae=l1", "train.l0_controller=true"]),
    "sae.aux_kind": ("[auxk,usage]", ["sae.aux_target=0.02"]),
    "sae.aux_coeff": ("[0,0.03125,1]", []),
    "sae.always_on_coeff": ("[0,1]", []),
}


@pytest.mark.parametrize("key", TECHNIQUES)
def test_a_training_technique_is_an_axis(key: str) -> None:
    values, given = TECHNIQUES[key]
    settings = compose([*given, f"{key}={values}"]).settings
    run = validate_run(settings)
    source = Source("f" * 12, MINILM_D, 100_000, {})
    points = examples(settings, run.sweep, run.search)
    configs = [validate(TrialConfig, point.settings) for point in points]
    assert len({resolve(config, source).uid for config in configs}) == values.count(",") + 1


def test_no_technique_acts_that_the_defaults_do_not_name() -> None:
    source = Source("f" * 12, MINILM_D, 100_000, {})
    shared = {
        *("lr", "beta1", "beta2", "batch_size", "steps", "precision", "reproducible"),
        *("seed_init", "seed_data", "dead_window_tokens"),
        *("lr_warmup_fraction", "lr_decay_fraction"),
    }
    acting = {
        "topk": ({"k", "aux_kind", "aux_coeff"}, set()),
        "l1": ({"l1_alpha", "l1_norm"}, {"l1_warmup_fraction"}),
    }
    for kind, (of_sae, of_train) in acting.items():
        settings = compose([f"sae={kind}"]).settings
        record = resolve(
            validate(TrialConfig, {key: settings[key] for key in ("activations", "sae", "train")}),
            source,
        ).record
        assert record["sae"].keys() == {"kind", "n_latents", "b_dec_init"} | of_sae
        assert record["train"].keys() == shared | of_train


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{metrics:[fvo]}", r"sweep\.about\.metrics=fvo: no such metric; did you mean fvu"),
        ("{settings:[sae.kk]}", r"sae\.kk in the sweep: no such setting; did you mean sae\.k"),
    ],
)
def test_a_question_about_nothing_is_refused(about: str, message: str) -> None:
    def ask() -> None:
        settings = compose(["+sweep=smoke", f"sweep.about={about}"]).settings
        run = validate_run(settings)
        examples(settings, run.sweep, run.search)

    with pytest.raises(BadInput, match=message):
        ask()


@pytest.mark.parametrize("sweep", TRIALS)
def test_a_question_is_about_settings_that_vary(sweep: str) -> None:
    space = composed(sweep)["sweep"]
    tied = [key for one in space.get("zip", []) for key in one["keys"]]
    assert set(space["about"]["settings"]) <= {*space["space"], *tied}
    assert space["about"]["metrics"]
