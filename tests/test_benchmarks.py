import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import (
    forms,
    operations,
    quality,
    quality_kinds,
    quality_kinds_table,
    quality_table,
    readme,
    references,
    report,
    selection,
    step,
    step_table,
    sweep,
    trainers,
    whole_l1,
)
from sae_sweep.activations import Activations, Wanted, describe, open_activations, prepare
from sae_sweep.cli.compose import compose, validate_run
from sae_sweep.config import (
    ActivationsConfig,
    Source,
    TopKConfig,
    TrainConfig,
    TrialConfig,
    resolve,
    validate,
)
from sae_sweep.kernels import SparseLatents
from sae_sweep.kernels.cpu import forms as cpu_forms
from sae_sweep.sae import build
from sae_sweep.search import expand
from sae_sweep.train import evaluate

SOURCE = Source("f" * 12, 384, 5978, {})
SYNTHETIC = ActivationsConfig(synthetic={}, d=16, train_tokens=100, validation_tokens=300)
PEERS = ("sae_lens", "dictionary_learning", "sparsify")


MODULES = (
    *("quality", "initial_scale", "exports", "step", "forms", "operations"),
    *("selection", "search", "controller", "faults", "fuzz", "activations_peers"),
)
HELP = """
import contextlib, runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop().split()))
for module in sys.argv[1:]:
    sys.argv = ["bench", "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
"""


@pytest.mark.slow
def test_help_needs_no_peer() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP, *MODULES, " ".join(PEERS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    ).stdout
    assert re.findall(r"usage: python -m benchmarks\.(\w+)", shown) == list(MODULES)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Activations]:
    outputs = tmp_path_factory.mktemp("outputs")
    source = describe(SYNTHETIC, outputs)
    for _ in prepare([Wanted(SYNTHETIC, source)], outputs):
        pass
    return source, open_activations(outputs / "activations" / source.fingerprint)


def test_fvu_is_the_projects_own(synthetic: tuple[Source, Activations]) -> None:
    _, activations = synthetic
    sae = build(TopKConfig(n_latents=32, k=4), 16, seed=0)
    x = activations.validation_rows(0, activations.n_validation)
    expected = evaluate(sae, activations).metrics["fvu"]
    assert quality.fvu(x, sae.decode(sae.encode(x))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("ours", "verdict"), [(47.9, "met"), (48.1, "missed")])
def test_what_a_sweep_takes_beside_its_training(ours: float, verdict: str) -> None:
    found = {sweep.LOOPS[0]: {"wall": 40.0}, sweep.NOTHING: {"wall": 9.5}}
    said = sweep._beside_training({"wall": ours}, found)
    assert said.endswith(
        f"(two Tune trials that import torch and end: 9.5 s); target 8 s: {verdict}."
    )


def test_cells_are_those_of_the_sweep() -> None:
    settings = compose(["+sweep=topk_12"]).settings
    run = validate_run(settings)
    configs = [
        validate(TrialConfig, point.settings) for point in expand(settings, run.sweep, run.search)
    ]
    assert all(config.activations == quality.ACTIVATIONS for config in configs)
    ours = {quality.make_trial(SOURCE, cell, lr=1e-3, seed=0).uid for cell in quality.CELLS}
    assert ours == {resolve(config, SOURCE).uid for config in configs}


def lines(ours: float, *, seed_noise: float) -> list[dict[str, Any]]:
    """One cell in which the other trainer's FVU is 0.3 at its best rate."""
    common = {
        **{"n_latents": 512, "k": 5, "dead_features": 0.0, "cpu_seconds": 1.0, "version": "1"},
        **{"steps": 10, "torch": "2", "cpu": "any", "threads": 1, "date": "2026-01-01"},
    }
    return [
        {**common, "trainer": trainer, "lr": lr, "seed": seed, "fvu": fvu * factor}
        for trainer, fvu in (("ours", ours), ("peer", 0.3))
        for lr, seed, factor in ((1e-3, 0, 2.0), (2e-3, 0, 1.0), (2e-3, 1, 1 + seed_noise))
    ]


@pytest.mark.parametrize(
    ("ours", "seed_noise", "verdict"),
    [(0.33, 0.001, "worse"), (0.27, 0.001, "better"), (0.33, 0.1, "equal")],
)
def test_a_difference_counts_where_it_exceeds_the_noise(
    ours: float, seed_noise: float, verdict: str
) -> None:
    text = quality_table.render(lines(ours, seed_noise=seed_noise))
    assert f"against peer | {verdict} |" in text
    assert f"{verdict} in 1." in text
    assert "(2e-3)" in text
    assert "(1e-3)" not in text


def test_a_training_is_found_again_by_all_that_defines_it(tmp_path: Path) -> None:
    task = quality.Task("sae-sweep", "0.1.0", "abc", 584, 5, 512, 1e-3, 0)
    quality.Results(tmp_path / "new" / "r.jsonl").add({**task._asdict(), "fvu": 0.5})
    again = quality.Results(tmp_path / "new" / "r.jsonl")
    assert again.of(task) == {**task._asdict(), "fvu": 0.5}
    assert again.of(task._replace(seed=1)) is None


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- one -->\nold\n<!-- /one -->\nbelow\n")
    readme.replace(page, "one", "new")
    assert page.read_text() == "above\n<!-- one -->\n\nnew\n\n<!-- /one -->\nbelow\n"
    with pytest.raises(ValueError, match=r"lacks <!-- two --> or <!-- /two -->: put both back"):
        readme.replace(page, "two", "new")


class Recording:
    """Activations that remember which rows were asked for."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self.asked: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._activations, name)

    def train_rows(self, indices: torch.Tensor) -> torch.Tensor:
        self.asked.append(indices.tolist())
        return self._activations.train_rows(indices)


def test_peers_get_the_batches_of_the_engine(synthetic: tuple[Source, Activations]) -> None:
    source, activations = synthetic
    config = TrialConfig(
        activations=SYNTHETIC,
        sae=TopKConfig(n_latents=32, k=4, aux_coeff=0),
        train=TrainConfig(batch_size=24, steps=5, seed_init=1, seed_data=1),
    )
    trial = resolve(config, source)
    engines, peers = Recording(activations), Recording(activations)
    trainers.ours(trial, engines)
    _, *in_training = engines.asked  # the first batch is read once more, to calibrate
    list(trainers.batches(trial, peers))
    assert peers.asked == in_training


def test_a_step_lasts_from_batch_to_batch_without_the_first_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = {"sae-sweep": trainers.ours, "bf16_select": trainers.ours}
    own["reference form"] = references.eager
    monkeypatch.setattr(step, "contenders", lambda shape: own)
    monkeypatch.setattr(step, "versions", lambda: "torch 2")
    shape = step.Shape(d=8, n_latents=16, k=3, batch=40)
    measured = {line["trainer"]: line for line in step.measure(shape, tmp_path, 2, 7)}
    assert list(measured) == [*own, "encoder float32", "encoder bfloat16"]
    for name in own:
        turns = 2 * (7 - step.WARM_UP_STEPS - 1)
        # ours reads the first batch once more, to calibrate
        assert measured[name]["steps"] == turns + (0 if name == "reference form" else 2)
    assert all(line["cpu_ms"] > 0 for line in measured.values())


@pytest.mark.parametrize("k", [3, None])
def test_the_reference_that_is_timed_trains_like_ours(k: int | None, tmp_path: Path) -> None:
    shape = step.Shape(d=8, n_latents=16, k=k, batch=40)
    source, activations = quality.load_rows(step.settings(shape), tmp_path)
    trial = step.settle(shape, source, 30)
    x = activations.validation_rows(0, 50)
    ours, theirs = (train(trial, activations)(x) for train in (trainers.ours, references.eager))
    torch.testing.assert_close(ours.x_hat, theirs.x_hat.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_the_compiler_cannot_do_is_a_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shape = step.Shape(d=8, n_latents=16, k=3, batch=40)
    turn = step._apart(shape, "nobody", tmp_path, 5)
    assert turn.cpu == []
    assert turn.end == {"error": "KeyError: 'nobody'"}


def step_lines(shape: step.Shape, speeds: dict[str, float]) -> list[dict[str, Any]]:
    common = {**shape._asdict(), "tokens": 9, "versions": "torch 2", "cpu": "any"}
    common |= {"date": "2026-01-01", "fvu": 0.25, "l0": 7.0}
    return [
        {
            **common,
            "trainer": name,
            "cpu_ms": shape.batch * 1e3 / speed,
            "wall_ms": shape.batch * 2e3 / speed,
        }
        for name, speed in speeds.items()
    ]


def test_the_table_of_steps_compares_with_the_fastest_peer_the_target_and_the_floor() -> None:
    speeds = {"sae-sweep": 400.0, "bf16_select": 300.0, "reference form": 100.0}
    peers = {"sae-lens": 50.0, "dictionary-learning": 80.0, "eai-sparsify": 160.0}
    floors = {"encoder float32": 800.0, "encoder bfloat16": 1600.0}
    topk = step_lines(step.Shape(384, 3072, 32, 1024), {**speeds, **peers, **floors})
    failed = {**topk[0], "trainer": "torch.compile", "error": "no compiler"}
    for name in ("cpu_ms", "wall_ms", "fvu", "l0"):
        del failed[name]
    l1 = step_lines(step.Shape(384, 96, None, 64), {**speeds, **peers, **floors})
    text = step_table.render([*topk, failed, *(one for one in l1 if one["trainer"] in KEPT)])
    assert "| 384, 3072, 32, 1024 | 400 | 300 | 100 | 50 | 80 | 160 |  | cpu |" in text
    assert "| 200 | 150 | 50 | 25 | 40 | 80 |  | wall |" in text
    assert (
        "| 384, 3072, 32, 1024 | 2.50 | 1.88, missed | 8.00 | 4.00 |  | 800 (50%) | 1,600 (19%) |"
    ) in text
    assert "- torch.compile does not run at 384, 3072, 32, 1024: no compiler" in text
    assert "| 384, 96, L1, 64 | 5.00 |  | 8.00 | 4.00 |  | 800 (50%) |  |" in text
    assert "| 384, 96, L1, 64 | 9 | 0.2500 at 7.0 |  | 0.2500 at 7.0 |" in text


KEPT = {"sae-sweep", "reference form", "sae-lens", "dictionary-learning", "encoder float32"}
KEPT |= {"encoder bfloat16"}


def test_recall_counts_what_belongs_and_is_positive() -> None:
    wanted = SparseLatents(torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[0, 4], [2, 3]]))
    found = SparseLatents(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([[0, 1], [3, 2]]))
    assert selection.recall(wanted, found, 5) == pytest.approx(2 / 3)


def test_the_table_of_selections_holds_both_ways(synthetic: tuple[Source, Activations]) -> None:
    _, activations = synthetic
    sae = build(TopKConfig(n_latents=64, k=4), 16, seed=0)
    row = selection.measure(sae, sae, activations, (4, 64))
    assert row.fvu_fp32 == row.fvu_select
    assert row.recall_without_margin <= row.recall == 1
    assert f"| 64 | 4 | {row.fvu_fp32:.4f} |" in selection.render([row])


def test_the_forms_measured_are_those_that_training_looks_up() -> None:
    timing = forms.measure(d=8, n_latents=16, k=4, batch=3)
    assert timing[:4] == (8, 16, 4, 3)
    assert min(timing.sparse, timing.dense) > 0
    shapes = {
        (d, m, round(density * m), batch)
        for d in forms.WIDTHS
        for m in forms.DICTIONARIES
        for density in forms.DENSITIES
        for batch in forms.BATCHES
    }
    assert {timing[:4] for timing in cpu_forms.timings()} == shapes


def test_every_way_to_do_an_operation_gives_the_same_result() -> None:
    shape = step.Shape(d=16, n_latents=256, k=1, batch=12)
    for ways in operations.ways(shape).values():
        first, *others = (way() for way in ways.values())
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-5)


def test_as_good_as_a_peers_end_is_both_fvu_and_l0() -> None:
    ours = [(20, 1.0, 0.5, 30.0), (40, 2.0, 0.3, 60.0), (60, 3.0, 0.3, 20.0)]
    peer = [(20, 4.0, 0.9, 90.0), (40, 8.0, 0.4, 40.0)]
    known = {"versions": "", "cpu": "", "load": 0.0, "cores": 1, "date": "", "l1_alpha": 5.0}
    lines = [
        {
            "trainer": name,
            "steps": points[-1][0],
            "points": [(5 * n, *rest) for n, *rest in points],
        }
        | known
        for name, points in (("sae-sweep", ours), ("sae-lens", peer))
    ]
    table = whole_l1.render(lines)
    assert "| 3.0 | 0.3000 | 20.0 | 3.0 s, step 300 | not reached |" in table
    assert "| 8.0 | 0.4000 | 40.0 | 8.0 s, step 200 | 8.0 s, step 200 |" in table


@pytest.mark.slow
def test_the_reports_benchmark_times_every_part_of_two_equal_renderings(tmp_path: Path) -> None:
    report.write(tmp_path, "topk", 40, 5)
    measured, equal = report.twice(tmp_path)
    assert equal
    assert {"what_was_run", "records", "data", "report.html"} <= measured.parts.keys()


def test_a_setting_is_sought_until_a_training_is_near_each_l0() -> None:
    def line(value: float) -> dict[str, Any]:
        l0 = 40 / value
        return {"setting": "l1_alpha", "value": value, "l0": l0, "fvu": l0**-0.5}

    lines = [line(0.8), line(2.5)]
    for target in quality_kinds.TARGETS:
        while (value := quality_kinds.next_value(lines, target)) is not None:
            lines.append(line(value))
    curve = pd.DataFrame(lines)
    for target in quality_kinds.TARGETS:
        assert quality_kinds_table.is_near(curve["l0"], target)
        assert quality_kinds_table.at_l0(curve, target) == pytest.approx(target**-0.5)
    assert len(lines) == 4  # 2.5 is near 16; one more each for 32 and 64


def test_a_curve_is_read_between_the_neighbours_of_an_l0_and_beyond_its_ends() -> None:
    curve = pd.DataFrame({"l0": [60.0, 10.0, 20.0], "fvu": [0.1, 0.4, 0.2], "value": [3, 1, 2]})
    assert quality_kinds_table.ends(curve, 15)["value"].to_list() == [1, 2]
    assert quality_kinds_table.ends(curve, 90)["value"].to_list() == [2, 3]
    assert quality_kinds_table.at_l0(curve, 5) == pytest.approx(0.8)
    assert not quality_kinds_table.is_near(curve["l0"], 90)
