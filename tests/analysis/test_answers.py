"""The answer to a sweep's question, read from the fields of its claims."""

import itertools
from typing import Any, TypeVar

import numpy as np
import pytest

from analysis.context import ReportContext
from analysis.findings import effect_tests, failures, noise
from analysis.foreign.sweep import Request, import_sweep
from analysis.page.blocks import Claim
from analysis.study.table import Study, load
from analysis.topics.answer import (
    ByLevel,
    LargestChange,
    NearestTrial,
    NoInteraction,
    NothingMoves,
    OneConfiguration,
    Reached,
    answer,
    target,
)
from analysis.topics.equal_l0 import BestKind, ElsewhereInL0
from analysis.topics.failures import FailuresOfPair, sentences
from analysis.topics.interactions import Interacts
from analysis.topics.response.section import AlphaForTarget
from analysis.topics.tradeoffs import WinWin, tradeoffs
from sae_sweep.records import METRICS, TrialRecord, digest
from sae_sweep.records.store import Member, Run, Sweep

WIDTH = 1536
Kind = TypeVar("Kind", bound=Claim)


def study(
    trials: list[tuple[dict[str, Any], dict[str, float]]], config: dict[str, Any] | None = None
) -> Study:
    """Trials of one width: what was asked for, and what came out; without metrics: failed."""
    members = []
    for assignment, final in trials:
        of: dict[str, Any] = {"sae": {"n_latents": WIDTH}, "train": {"steps": 100}}
        for key, value in assignment.items():
            section, _, name = key.partition(".")
            of[section][name] = value
        status = "done" if final else "failed"
        label = "_".join(f"{key.partition('.')[2]}{value}" for key, value in assignment.items())
        members.append(Member(assignment, TrialRecord(digest(of), label, status, of, final)))
    run = Run(1, "answers", "", 0.0, 0.0, config or {}, "", None, {}, alive=False)
    return load(Sweep(run, members))


def seed(s: int) -> dict[str, int]:
    return {"train.seed_init": s, "train.seed_data": s}


def only(claims: list[Claim], kind: type[Kind]) -> Kind:
    (found,) = [one for one in claims if isinstance(one, kind)]
    return found


@pytest.mark.parametrize(
    ("kind", "setting"), [("l1", "l1_alpha"), ("gated", "l1_alpha"), ("jumprelu", "l0_coeff")]
)
def test_a_hunt_for_an_l0_answers_with_the_setting_of_its_kind_and_the_trial(
    kind: str, setting: str
) -> None:
    trials = [
        (
            {"sae.kind": kind, f"sae.{setting}": weight},
            {"fvu": 0.1 * weight**0.5, "l0": 0.07 * WIDTH / weight, "l0_fraction": 0.07 / weight},
        )
        for weight in (1.0, 4.0, 2.0, 1.45, 1.42)
    ]
    found = study(trials, {"search": {"kind": "target", "target": 0.05, "trials": 12}})
    told = answer(ReportContext(found))
    weight, nearest = only(told, AlphaForTarget), only(told, NearestTrial)
    assert weight.setting == nearest.setting == setting
    assert weight.low < 1.4 < weight.high
    assert (nearest.value, nearest.within) == (1.42, True)
    sought = target(found)
    assert sought is not None
    assert sought.uid == nearest.uid


def test_kinds_are_compared_where_they_share_an_l0() -> None:
    scale = {"topk": 1.0, "batchtopk": 0.8, "matryoshka": 1.2}
    trials = [
        (
            {"sae.kind": kind, "sae.k": k, **seed(s)},
            {
                "fvu": factor * k**-0.4 * (1 + 0.01 * s),
                "l0": float(k),
                "dead_features": 0.1 / factor + 0.001 * s,
            },
        )
        for (kind, factor), k, s in itertools.product(scale.items(), (16, 32, 64), (0, 1))
    ]
    trials += [
        ({"sae.kind": "l1", "sae.l1_alpha": a}, {"fvu": 0.5, "l0": 8 / a, "dead_features": 0.0})
        for a in (1.0, 2.0, 4.0)
    ]
    about = {"sweep": {"about": {"settings": ["sae.kind"], "metrics": ["fvu", "dead_features"]}}}
    told = answer(ReportContext(study(trials, about)))
    fvu, dead = (one for one in told if isinstance(one, BestKind))
    assert [kind for kind, _ in fvu.values] == ["batchtopk", "topk", "matryoshka"]
    assert (fvu.l0, fvu.first_at, fvu.compared, fvu.tied) == (32, 3, 3, ())
    assert [kind for kind, _ in dead.values] == ["matryoshka", "topk", "batchtopk"]
    assert [name for name, *_ in only(told, ElsewhereInL0).ranges] == ["l1 1,536"]


def test_kinds_that_are_not_told_apart_share_the_first_place() -> None:
    values = (("gated", 0.0), ("topk", 0.0), ("batchtopk", 0.01), ("l1", 0.2))

    def lead(tied: tuple[str, ...] | None) -> str:
        told = BestKind("dead_features", 768, 33.0, values, 3, 3, tied).words
        return told.removeprefix("**At equal L0, ").partition("**")[0]

    assert lead(("topk", "batchtopk", "l1")) == (
        "no kind has detectably fewer dead latents than another"
    )
    assert lead(("topk", "batchtopk")) == ("gated, topk and batchtopk have the fewest dead latents")
    assert lead(()) == "gated has the fewest dead latents"
    assert lead(None) == "gated and topk have the fewest dead latents"


def _changes(lr_effect: float, joint: float) -> list[Claim]:
    rng = np.random.default_rng(0)
    trials = [
        (
            {"train.lr": lr, "sae.aux_coeff": aux, **seed(s)},
            {"fvu": 0.2 * np.exp(-lr_effect * i + joint * (i - 1) * (j - 1) + e), "l0": 32.0},
        )
        for (i, lr), (j, aux), s in itertools.product(
            enumerate((5e-4, 1e-3, 2e-3)), enumerate((0, 0.03, 0.1)), (0, 1)
        )
        for e in [0.01 * rng.normal()]
    ]
    about = {"settings": ["train.lr", "sae.aux_coeff"], "metrics": ["fvu"]}
    return answer(ReportContext(study(trials, {"sweep": {"about": about}})))


def test_a_comparison_of_changes_says_which_is_worth_it() -> None:
    told = _changes(0.2, 0.0)
    change = only(told, LargestChange)
    assert (change.hyperparameter, change.best, change.second) == ("lr", "0.002", None)
    assert change.undetected == ("aux_coeff",)
    assert {only(told, NoInteraction).first, only(told, NoInteraction).second} == {
        "lr",
        "aux_coeff",
    }
    assert only(_changes(0.0, 0.0), NothingMoves).settings == ("lr", "aux_coeff")


def test_changes_that_depend_on_each_other_are_not_called_worthless() -> None:
    told = _changes(0.0, 0.3)
    assert isinstance(told[0], Interacts)
    assert not any(isinstance(one, NothingMoves | NoInteraction) for one in told)


def test_an_l0_that_was_asked_for_is_set_beside_what_was_reached() -> None:
    trials = [
        (
            {"sae.kind": "jumprelu", "sae.target_l0": asked, **seed(s)},
            {"fvu": asked**-0.5, "l0": asked * (1 + 0.05 * s)},
        )
        for asked, s in itertools.product((16, 32), (0, 1))
    ]
    found = only(answer(ReportContext(study(trials))), Reached)
    assert [(asked, n) for asked, _, _, n in found.levels] == [(16, 2), (32, 2)]
    assert found.worst == pytest.approx(0.05)


def test_one_configuration_is_described_and_compared_with_nothing() -> None:
    (told,) = answer(ReportContext(study([({"sae.k": 8}, {"fvu": 0.3, "l0": 8.0})])))
    assert isinstance(told, OneConfiguration)
    assert dict(told.values) == {"fvu": 0.3, "l0": 8.0}


def test_seeds_that_one_level_has_alone_are_not_taken_for_the_level() -> None:
    rng = np.random.default_rng(0)
    shifts = 0.1 * np.array([0, 1, -1, 2])
    trials = [
        (
            {"sae.aux_coeff": aux, "train.lr": lr, "train.beta1": beta, **seed(s)},
            {"fvu": 0.2 * 10 ** (shifts[s] + 0.01 * rng.normal())},
        )
        for aux, lr, beta in itertools.product((0, 0.1, 1), (1e-4, 2e-4, 4e-4), (0.0, 0.9))
        for s in ((2, 3) if aux == 1 else (0, 1))
    ]
    found = study(trials)
    estimates = effect_tests.estimate(found)
    (aux,) = (one for one in estimates.found if one.hyperparameter.name == "aux_coeff")
    assert (aux.finding, aux.reason) == ("untested", "changes together with the seeds")
    assert not any(one.is_claimed for one in estimates.found)
    floor = noise.floor(found, METRICS["fvu"])
    assert floor is not None
    rows = found.configurations
    gaps = floor.apart(rows, rows)
    same = floor.sets.loc[rows["configuration"]].to_numpy()
    alike = same[:, None] == same[None, :]
    assert gaps[~alike].min() > 10 * gaps[alike].max()


def test_two_settings_that_ruin_runs_together_are_named_together() -> None:
    trials = [
        (
            {"train.lr": lr, "sae.expansion_factor": wide, "sae.k": k, **seed(s)},
            {} if lr == 8e-4 and wide == 16 else {"fvu": 0.2, "l0": float(k)},
        )
        for lr, wide, k, s in itertools.product(
            (1e-4, 2e-4, 4e-4, 8e-4), (4, 8, 16), (16, 32, 64), (0, 1)
        )
    ]
    found = study(trials)
    assert {one.second is None for one in failures.of_settings(found)} == {True, False}
    pair = only(sentences(found), FailuresOfPair)
    assert {pair.first, pair.second} == {"lr", "expansion_factor"}
    assert [(lost, n) for _, _, lost, n, _, _ in pair.cells] == [(6, 6)]
    assert (pair.lost_elsewhere, pair.runs_elsewhere) == (0, 66)


def test_what_k_improves_is_bought_with_l0() -> None:
    rng = np.random.default_rng(0)
    trials = [
        (
            {"sae.k": k, "train.lr": lr},
            {
                "fvu": k**-0.5 * np.exp(0.01 * rng.normal()),
                "dead_features": 1 / k + 0.0005 * rng.random(),
                "l0": float(k),
            },
        )
        for k, lr in itertools.product((8, 16, 32, 64), (1e-4, 3e-4, 1e-3))
    ]
    told = [one for one in tradeoffs(ReportContext(study(trials))) if isinstance(one, WinWin)]
    assert [(one.hyperparameter, one.larger, one.price) for one in told] == [("k", True, "l0")]


def test_checkpoints_of_an_imported_run_are_its_curve(tmp_path: Any) -> None:
    rows = [
        f"run{i},{lr},{step},{0.5 - 0.01 * step / 1000 - 0.1 * i}"
        for i, lr in enumerate((1e-4, 1e-3))
        for step in (3000, 1000, 2000)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["run_id,lr,step,fvu", *rows]))
    sweep, imported = import_sweep(Request(path, "curves"))
    uids = [one.trial.uid for one in sweep.members]
    curves = imported.history(uids, "fvu")
    assert list(curves) == uids
    for i, uid in enumerate(uids):
        steps, values = curves[uid]
        assert steps.tolist() == [1000, 2000, 3000]
        np.testing.assert_allclose(values, [0.49 - 0.1 * i, 0.48 - 0.1 * i, 0.47 - 0.1 * i])
    assert imported.history(uids, "l0") == {}


def test_means_that_are_equal_are_told_once() -> None:
    levels = [("1", 0.0), ("2", 0.0)]
    told = ByLevel("layer", "always_on", tuple(levels), "no test of this metric").words
    assert told == "**layer**: always_on is 0 at every level."
    differ = ByLevel("layer", "always_on", (*levels, ("3", 0.5)), "no test of this metric").words
    assert differ.startswith("**layer**: mean always_on at 1: 0, 2: 0, 3: 0.5; not tested")
