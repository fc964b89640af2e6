"""Sweeps whose truth is known: noise alone, or an effect that was put in."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from analysis.context import ReportContext
from analysis.page.blocks import Claim
from analysis.study.table import Study, load
from analysis.topics import importance, interactions, levels, switches, tradeoffs
from analysis.topics.effects.section import effects
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Member, Run, Sweep

SPEAKING = (
    effects,
    tradeoffs.tradeoffs,
    levels.level_tables,
    switches.switches,
    interactions.interaction_section,
    importance.importance,
)
"""The sections that may claim an effect."""

CLAIMING = {
    *("Goes", "Bent", "Differs", "Flat", "TradeOff", "WinWin", "BestLevel", "BestAtEdge"),
    *("Switched", "Interacts", "MattersMore"),
}
"""Claims that say that a setting matters."""

POOL: dict[str, list[list[Any]]] = {
    "train.lr": [[1e-4, 3e-4], [1e-4, 3e-4, 1e-3], [1e-4, 2e-4, 4e-4, 8e-4]],
    "sae.expansion_factor": [[2, 4], [2, 4, 8], [2, 4, 8, 16]],
    "sae.aux_coeff": [[0, 0.1], [0, 0.03, 0.1]],
    "train.beta1": [[0.0, 0.9], [0.0, 0.5, 0.9]],
    "sae.kind": [["topk", "batchtopk", "jumprelu"], ["topk", "batchtopk"]],
}
SIZE = 0.03
"""Standard deviation of the noise of log10 fvu."""


class Planted(NamedTuple):
    """What is put into a sweep; sizes in standard deviations of the noise."""

    effect: float = 0.0
    """Of lr on log fvu, from its lowest to its highest level; downwards."""
    interaction: float = 0.0
    """Of lr and expansion_factor: by how much the effect of one changes over the other's levels."""
    confounding: float = 0.0
    """Chance that expansion_factor is drawn by the level of lr."""
    noise: Literal["normal", "heavy", "skewed"] = "normal"
    """heavy: Student's t of 3 degrees; skewed: lognormal. Each scaled to its standard deviation;
    dead_features has its own, of which the negative values are 0."""
    seeds: int = 1
    trials: int | None = None
    """Configurations drawn from the grid; None for all of it."""
    few_levels: bool = False
    """Levels drawn from the pool instead of the most that it has."""
    settings: tuple[str, ...] = ("train.lr", "sae.expansion_factor", "sae.aux_coeff")


def any_noise(rng: np.random.Generator) -> Planted:
    """A sweep of random make in which nothing matters."""
    n = int(rng.integers(1, 5))
    return Planted(
        noise=rng.choice(["normal", "heavy", "skewed"]),
        seeds=int(rng.integers(1, 4)),
        trials=None if rng.random() < 0.5 else int(rng.integers(8, 49)),
        few_levels=True,
        settings=tuple(rng.choice(list(POOL), size=n, replace=False)),
    )


def sweep(planted: Planted, rng: np.random.Generator) -> Study:
    """Run a sweep in which only what was planted has an effect."""
    given = {
        key: POOL[key][rng.integers(len(POOL[key]))]
        if planted.few_levels
        else max(POOL[key], key=len)
        for key in planted.settings
    }
    points = _points(given, planted, rng)
    members = []
    for point in points:
        shares = {
            key: given[key].index(value) / (len(given[key]) - 1) - 0.5
            for key, value in point.items()
        }
        lr, wide = shares.get("train.lr", 0.0), shares.get("sae.expansion_factor", 0.0)
        shift = -planted.effect * lr + planted.interaction * 2 * lr * wide
        for seed in range(planted.seeds):
            fvu = 10 ** (-1 + SIZE * (shift + _noise(planted.noise, rng)))
            dead = max(0.05 * _noise(planted.noise, rng), 0.0)
            final = {"fvu": min(fvu, 0.99), "dead_features": dead}
            members.append(_member(len(members), point, seed, final))
    run = Run(1, "planted", "", 0.0, 0.0, {}, "", None, {}, alive=False)
    return load(Sweep(run, members))


def claims(of: Study) -> Iterator[Claim]:
    """All that the report says of effects."""
    for section in SPEAKING:
        yield from (block for block in section(ReportContext(of)) if not isinstance(block, str))


def claimed(of: Study) -> list[Claim]:
    """Those that say that a setting matters."""
    return [one for one in claims(of) if type(one).__name__ in CLAIMING]


def _points(
    given: dict[str, list[Any]], planted: Planted, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """The grid, or draws from it without repeats."""
    sizes = [len(values) for values in given.values()]
    every = np.indices(sizes).reshape(len(sizes), -1).T
    if planted.trials is not None:
        every = every[np.sort(rng.permutation(len(every))[: planted.trials])]
    if planted.confounding:
        keys = list(given)
        lr, wide = keys.index("train.lr"), keys.index("sae.expansion_factor")
        tied = rng.random(len(every)) < planted.confounding
        by_lr = every[:, lr] * (sizes[wide] - 1) // (sizes[lr] - 1)
        every = np.unique(
            np.column_stack(
                [np.where(tied, by_lr, col) if i == wide else col for i, col in enumerate(every.T)]
            ),
            axis=0,
        )
    return [{key: given[key][i] for key, i in zip(given, point, strict=True)} for point in every]


def _noise(kind: str, rng: np.random.Generator) -> float:
    match kind:
        case "heavy":
            return float(rng.standard_t(3) / 3**0.5)
        case "skewed":
            return float((rng.lognormal() - np.exp(0.5)) / (np.exp(1) * (np.exp(1) - 1)) ** 0.5)
        case _:
            return float(rng.normal())


def _member(i: int, point: dict[str, Any], seed: int, final: dict[str, float]) -> Member:
    seeds = {"train.seed_init": seed, "train.seed_data": seed}
    config: dict[str, Any] = {"sae": {}, "train": {}}
    for key, value in (point | seeds).items():
        section, name = key.split(".")
        config[section][name] = value
    return Member(point | seeds, TrialRecord(f"{i:012x}", f"trial{i}", "done", config, dict(final)))
