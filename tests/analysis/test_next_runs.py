"""Commands that can be typed: our own command line reads them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import Load, Ran

from analysis.study.table import Study
from analysis.study.table import load as to_study
from analysis.topics.next_runs import command, grid, next_runs
from sae_sweep.cli.compose import compose, validate_run
from sae_sweep.search import expand

KS, WIDTHS, RATES = (16, 32, 64), (512, 1024), (3e-4, 1e-3)
TYPED = ["+sweep=grid_topk", "sae.k=[16,32,64]", "sae.n_latents=[512,1024]",
         "train.lr=[0.0003,0.001]", "sae.expansion_factor=null", "sae.aux_coeff=0"]  # fmt: skip


def study(load: Load, trials: list[Ran], typed: list[str] | None = None) -> Study:
    words = TYPED if typed is None else typed
    run = validate_run(compose(words).settings)
    written = shlex.join(["python", "-m", "sae_sweep", *words, "store.url=sqlite:////home/me/a.db"])
    config = json.loads(run.model_dump_json(by_alias=True))
    return to_study(load(trials, name="grid_topk", command=written, config=config)[0])


def trials() -> list[Ran]:
    """More k and a higher lr are better; a corner was never asked for, one trial failed."""
    found = []
    for k in KS:
        for m in WIDTHS:
            for lr in RATES:
                if (k, m) == (64, 512):
                    continue
                final = {"fvu": 1 / k / lr**0.1, "dead_features": 0.1 / k, "l0": k}
                keys = {"sae.k": k, "sae.n_latents": m, "train.lr": lr}
                found.append(Ran(keys, final))
    found[0].status, found[0].final, found[0].error = "failed", {}, "boom"
    return found


def test_every_command_composes_and_expands(load: Load) -> None:
    one = study(load, trials())
    claims = next_runs(one)
    kinds = " ".join(claim.words for claim in claims)
    for wanted in ("failed trial", "3 seeds", "Widen lr", "empty cell of k 64"):
        assert wanted in kinds
    for claim in claims:
        words = shlex.split(claim.command)
        assert words[:3] == ["python", "-m", "sae_sweep"]
        settings = compose(words[3:]).settings
        run = validate_run(settings)
        assert expand(settings, run.sweep, run.search)
    assert "/home/me" not in kinds


def expanded(text: str) -> list[dict]:
    settings = compose(shlex.split(text)[3:]).settings
    run = validate_run(settings)
    return [point.assignment for point in expand(settings, run.sweep, run.search)]


def by_reason(one: Study, word: str) -> list[dict]:
    (claim,) = [claim for claim in next_runs(one) if word in claim.words]
    return expanded(claim.command)


def test_a_widened_axis_keeps_its_values_and_adds_one_beyond(load: Load) -> None:
    one = study(load, trials())
    rates = {point["train.lr"] for point in by_reason(one, "Widen lr")}
    assert rates == {3e-4, 1e-3, 3.3e-3}
    assert not [claim for claim in next_runs(one) if "Widen k" in claim.words]


def test_seeds_repeat_every_configuration(load: Load) -> None:
    one = study(load, trials())
    seeds = [point["train.seed_init"] for point in by_reason(one, "Give every configuration")]
    assert sorted(set(seeds)) == [0, 1, 2]


def test_an_empty_cell_is_filled_alone(load: Load) -> None:
    one = study(load, trials())
    (claim,) = [claim for claim in next_runs(one) if "empty cell" in claim.words]
    settings = compose(shlex.split(claim.command)[3:]).settings
    assert (settings["sae"]["k"], settings["sae"]["n_latents"]) == (64, 512)
    assert settings["sweep"]["name"] == "grid_topk_cell_1"


def test_k_is_not_widened_beyond_the_width(load: Load) -> None:
    keys = [{"sae.k": k, "sae.n_latents": 64} for k in (16, 32, 64)]
    found = [Ran(one, {"fvu": 1 / one["sae.k"], "dead_features": 0.0}) for one in keys]
    typed = ["+sweep=grid_topk", "sae.k=[16,32,64]", "sae.n_latents=64", "train.lr=0.001",
             "sae.expansion_factor=null", "sae.aux_coeff=0"]  # fmt: skip
    one = study(load, found, typed)
    assert not [claim for claim in next_runs(one) if "Widen" in claim.words]


def test_a_tied_axis_is_left_alone(load: Load) -> None:
    found = [
        Ran({"sae.aux_coeff": a, "sae.aux_target": t}, {"fvu": 1 - a, "dead_features": 0.1})
        for a, t in ((0.1, 0.02), (0.2, 0.03), (0.5, 0.05))
    ]
    sweep = {"zip": [{"keys": ["sae.aux_coeff", "sae.aux_target"], "values": []}], "space": {}}
    one = to_study(load(found, config={"sweep": sweep})[0])
    assert not [claim for claim in next_runs(one) if "Widen" in claim.words]


def test_of_many_configurations_only_the_first_three_get_seeds(load: Load) -> None:
    rng = np.random.default_rng(0)
    rates = [float(f"{1e-4 * 1.05**i:.3g}") for i in range(40)]
    found = [Ran({"train.lr": lr}, {"fvu": float(rng.uniform(0.1, 0.2))}) for lr in rates]
    typed = ["+sweep=grid_topk", "sae.k=16", "sae.expansion_factor=2", f"train.lr={grid(rates)}",
             "sae.aux_coeff=0"]  # fmt: skip
    claims = [one for one in next_runs(study(load, found, typed)) if "seeds" in one.words]
    first = sorted(found, key=lambda one: one.final["fvu"])[:3]
    assert len(claims) == 3
    for claim, wanted in zip(claims, first, strict=True):
        assert {len(expanded(claim.command))} == {3}
        settings = compose(shlex.split(claim.command)[3:]).settings
        assert settings["train"]["lr"] == wanted.assignment["train.lr"]


def test_a_sweep_of_another_program_gets_no_command(load: Load) -> None:
    one = to_study(load(trials(), command="import of runs.csv", config={})[0])
    assert command(one, {}) is None
    assert next_runs(one)
    assert all("python" not in claim.words for claim in next_runs(one))


@pytest.mark.parametrize("value", ["/home/me/acts", "'/home/me/acts'"])
def test_no_path_of_this_machine_is_in_a_command(load: Load, value: str) -> None:
    text = f"python -m sae_sweep activations.files={value} --config-dir /home/me/conf sae.k=8"
    one = to_study(load(trials(), command=text, config={})[0])
    assert command(one, {}) == "python -m sae_sweep activations.files=.../acts sae.k=8"
    assert Path("/home/me").as_posix() not in str(command(one, {}))
