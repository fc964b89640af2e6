"""`suggest`: what past trials say of an l1_alpha, and when they say nothing."""

import csv
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Ran, write_store

from analysis.cli import main
from analysis.topics.response.suggest import Wanted, suggest
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord

JOBS = Path(__file__).parents[1] / "data" / "l1_jobs.csv"
ALPHAS = (1.0, 2.0, 4.0, 8.0)


def make_record(l1_alpha: float, n_latents: int, l0: float, **settings: Any) -> TrialRecord:
    config: dict[str, Any] = {
        "activations": {"fingerprint": "a" * 12, "d": 384, "layer": 3},
        "sae": {"kind": "l1", "l1_alpha": l1_alpha, "n_latents": n_latents, "l1_norm": "decoder"},
        "train": {"lr": 1e-3, "steps": 100, "batch_size": 256},
    }
    for key, value in settings.items():
        group, name = key.split("_", maxsplit=1)
        config[group][name] = value
    name = f"m{n_latents}_{l1_alpha:g}"
    return TrialRecord(name, name, "done", config, {"l0_fraction": l0, "fvu": 0.2})


def curve(n_latents: int, power: float = -0.2, **settings: Any) -> list[TrialRecord]:
    """L0 is 5 % at l1_alpha 3 for 768 latents, and falls as l1_alpha to the power -1.2."""
    root = 3.0 * (n_latents / 768) ** power
    return [make_record(a, n_latents, 0.05 * (a / root) ** -1.2, **settings) for a in ALPHAS]


def ask(records: list[TrialRecord], n_latents: int = 768, **wanted: Any) -> str:
    fields = {"target": 0.05, "d": 384, "activations": None} | wanted
    return suggest(records, Wanted(n_latents=n_latents, **fields))


def value(answer: str) -> float:
    return float(answer.split("sae.l1_alpha = ")[1].split(",")[0])


def test_a_width_that_was_run_is_answered_by_its_curve() -> None:
    answer = ask(curve(768))
    assert value(answer) == pytest.approx(3.0, rel=0.05)
    assert "for l0_fraction 0.05 (38.4 of 768 latents)" in answer
    assert (
        "from 4 trials, l1_alpha 1 to 8, at n_latents 768 (4); activations aaaaaaaaaaaa" in answer
    )
    assert "nearest: m768_4 (m768_4): l0_fraction 0.0354 at l1_alpha 4, fvu 0.2" in answer
    assert "cannot be estimated (< 3 widths with 3 l1_alpha or more)" in answer


@pytest.mark.parametrize(("kind", "setting"), [("topk", "k"), ("jumprelu", "target_l0")])
def test_a_kind_that_is_told_its_l0_needs_no_past(kind: str, setting: str) -> None:
    assert ask([], kind=kind).startswith(f"sae.{setting} = 38, for l0_fraction 0.05 of 768 latents")


def test_trials_of_another_kind_are_no_evidence() -> None:
    gated = [make_record(a, 768, 0.3 / a, sae_kind="gated", sae_l1_norm=None) for a in ALPHAS]
    assert value(ask([*curve(768), *gated])) == pytest.approx(3.0, rel=0.05)
    assert value(ask([*curve(768), *gated], kind="gated")) == pytest.approx(6.0, rel=0.1)
    with pytest.raises(BadInput, match="no finished trial of kind gated has activations of this"):
        ask(curve(768), kind="gated")
    with pytest.raises(BadInput, match="--kind=relu: choose one of topk, l1, batchtopk"):
        ask([], kind="relu")


def test_a_new_width_is_answered_from_three_others_with_the_power_and_its_interval() -> None:
    answer = ask([*curve(384), *curve(768), *curve(3072)], 1536)
    assert value(answer) == pytest.approx(3.0 * 2**-0.2, rel=0.1)
    power = answer.split("to the power ")[1]
    middle, low, high = (float(power.replace(",", " ").split()[i]) for i in (0, 4, 6))
    assert low < -0.2 < high
    assert middle == pytest.approx(-0.2, abs=0.1)


def test_a_new_width_is_refused_with_two_others() -> None:
    message = r"--n-latents=1536: not run yet, .* 2 widths \(< 3\).*there are 384 and 768"
    with pytest.raises(BadInput, match=message):
        ask([*curve(384), *curve(768)], 1536)


def test_a_width_far_beyond_those_that_were_run_is_refused() -> None:
    widths = [*curve(192), *curve(384), *curve(768)]
    with pytest.raises(BadInput, match=r"--n-latents=6144 is 0\.9 decades beyond the widths"):
        ask(widths, 6144)
    assert "EXTRAPOLATION: 0.30 decades beyond the widths that were run" in ask(widths, 1536)
    assert "EXTRAPOLATION" not in ask(widths, 500)


def test_a_target_beyond_what_was_trained_is_marked_and_far_beyond_refused() -> None:
    assert "EXTRAPOLATION: 0.1" in ask(curve(768), target=0.01)
    with pytest.raises(BadInput, match=r"--target-l0=0\.0005 would need an l1_alpha .* more than "
                       r"0\.5 decades beyond the 1 to 8"):  # fmt: skip
        ask(curve(768), target=0.0005)


def test_the_published_four_jobs_are_refused() -> None:
    with JOBS.open(newline="") as file:
        jobs = [
            make_record(float(row["l1_alpha"]), int(row["latent_dim"]), float(row["l0_fraction"]))
            for row in csv.DictReader(file)
        ]
    with pytest.raises(BadInput, match=r"not monotone: l0_fraction 0\.381 at l1_alpha 0\.001 "
                       r"\(n_latents 65,536\) and 0\.493 at 0\.05 \(63,488\)"):  # fmt: skip
        ask(jobs, 131_072)
    without = [job for job in jobs if job.config["sae"]["n_latents"] == 65_536]
    with pytest.raises(BadInput, match=r"3 distinct l1_alphas among .* a curve needs 4"):
        ask(without, 131_072)


def test_trials_with_other_settings_are_left_out_and_said() -> None:
    answer = ask(
        [*curve(768), *curve(768, train_steps=50)[:2], *curve(768, sae_l1_norm="unit")[:1]]
    )
    assert answer.endswith("left out: 2 with another train.steps, 1 with another sae.l1_norm")


def test_several_sources_are_listed_and_one_is_chosen_by_its_beginning() -> None:
    other = curve(768, activations_fingerprint="b" * 12, activations_layer=5)
    both = [*curve(768), *other[:3], other[3]]
    listed = r"aaaaaaaaaaaa \(layer 3, 4 trials\); bbbbbbbbbbbb \(layer 5, 4 trials\); choose one"
    with pytest.raises(BadInput, match=f"2 sources have d = 384: {listed}"):
        ask(both)
    assert "activations bbbbbbbbbbbb" in ask(both, activations="bb")
    with pytest.raises(BadInput, match=r"--activations=cc: trials of 2 sources"):
        ask(both, activations="cc")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"target": 50}, r"--target-l0=50 is no share .* 50 in 768 is --target-l0 0\.0651"),
        ({"d": 512}, r"--d=512: no finished trial .*\(there are d = 384\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ask(curve(768), **wanted)


def test_the_command_reads_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [
        Ran(
            {"sae.l1_alpha": record.config["sae"]["l1_alpha"]},
            {"l0_fraction": record.final["l0_fraction"] or 0.0, "fvu": 0.2},
            settings={"sae.kind": "l1", "sae.n_latents": 768},
        )
        for record in curve(768)
    ]
    url = write_store(tmp_path, trials)
    command = ["suggest", "--target-l0", "0.05", "--d", "64", "--n-latents"]
    assert main([*command, "768", "--store", url]) == 0
    assert value(capsys.readouterr().out) == pytest.approx(3.0, rel=0.05)
    assert main([*command, "9999", "--store", url]) == 2
    assert "cannot be estimated" in capsys.readouterr().err
