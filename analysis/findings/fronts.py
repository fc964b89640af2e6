"""Pareto fronts of configurations, and their uncertainty."""

import difflib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analysis.findings import noise
from analysis.study import configurations
from analysis.study.table import Study
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS, Metric
from sae_sweep.rules.dominance import Direction, pareto

OBJECTIVES = [one.name for one in METRICS.values() if one.direction != "none"]

Standing = Literal["on front", "within noise", "clearly beaten"]

MOST_DRAWS, FEWEST_DRAWS = 1000, 100
MOST_COMPARISONS = 300_000_000
"""Pairs of points times draws that a front is given; above it there are fewer draws."""
OUT_OF_REACH = 5.0
"""Standard deviations of a difference beyond which noise does not turn it."""


class Front(NamedTuple):
    """The Pareto front of the configurations, by their means over seeds."""

    objectives: list[Metric]
    uids: list[str]
    """Its configurations, each by its first trial, ascending in the objectives after the first."""
    n: int
    """Configurations that have every objective."""

    @property
    def name(self) -> str:
        """The objectives with their directions."""
        return ", ".join(f"{one.name} {one.direction}" for one in self.objectives)


class Chances(NamedTuple):
    """Probability of each point to be on the front under the noise."""

    share: Float[np.ndarray, " n"]
    draws: int


def fronts(study: Study) -> list[Front]:
    r"""Reconstruction against sparsity, then against dead latents and width: what of it varies.

    A configuration is on a front when no other is as good in every objective and better in one, by
    their means over seeds.

    Example:
        >>> from analysis.study.table import load
        >>> from pathlib import Path
        >>> from analysis.foreign import Request, import_sweep
        >>> _ = Path("mine.csv").write_text("k,fvu,l0\n8,0.4,8\n16,0.3,16\n32,0.2,32\n")
        >>> sweep, _ = import_sweep(Request(Path("mine.csv"), "mine"))
        >>> front = fronts(load(sweep))[0]
        >>> front.name, len(front.uids)
        ('fvu down, l0 down', 3)
    """
    if study.configurations.empty:
        return []
    second = "l0" if study.l0_varies else "dead_features"
    wanted = [["fvu", second], ["fvu", "dead_features", "n_latents"]]
    if "l0" not in study.ranked:  # not measured: its setting stands for it
        wanted.insert(0, ["fvu", "k"])
    varying = [
        [name for name in names if name == "fvu" or _varies(study, name)] for names in wanted
    ]
    usual = [names for names in varying if len(names) > 1]
    return [front(study, names) for i, names in enumerate(usual) if names not in usual[:i]]


def refuse_unknown(study: Study, asked: Sequence[Sequence[str]]) -> None:
    """Refuse objectives that no trial has.

    Raises:
        BadInput: names those that there are.
    """
    for name in (name for names in asked for name in names):
        if name not in study.trials or study.trials[name].isna().all():
            there = [one for one in OBJECTIVES if one in study.trials]
            there = [one for one in there if study.trials[one].notna().any()]
            raise BadInput(
                f"--objectives {name}: no trial of {study.run.name} has it; there are "
                f"{', '.join(there)}"
            )


def objectives(text: str) -> tuple[str, ...]:
    """Read names of objectives, separated by commas.

    Raises:
        BadInput: fewer than two, one twice, or one that is no metric with a direction.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in OBJECTIVES:
            close = difflib.get_close_matches(name, OBJECTIVES, n=3, cutoff=0.5)
            raise BadInput(
                f"--objectives {text}: {name} is no metric with a better direction; did you mean "
                f"{' or '.join(close or OBJECTIVES)}?"
            )
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"--objectives {text}: give two different metrics or more, e.g. fvu,k")
    return names


def front(study: Study, names: list[str]) -> Front:
    """The front for objectives by name."""
    objectives = [METRICS[name] for name in names]
    points = study.configurations.dropna(subset=names)
    directions: list[Direction] = ["up" if one.direction == "up" else "down" for one in objectives]
    mask = pareto(points[names].to_numpy(dtype=np.float64), directions)
    ordered = points[mask].sort_values([*names[1:], "fvu", "label"], kind="stable")
    return Front(objectives, [str(uid) for uid in ordered.index], len(points))


def costs(study: Study, found: Front) -> pd.DataFrame:
    """The objectives on their scales, all to be low; one row per configuration with all of them."""
    names = [one.name for one in found.objectives]
    points = study.configurations.dropna(subset=names)
    signs = [-1.0 if one.direction == "up" else 1.0 for one in found.objectives]
    columns = {
        one.name: sign * configurations.on_scale(points, one)
        for one, sign in zip(found.objectives, signs, strict=True)
    }
    return pd.DataFrame(columns, index=points.index)


def standings(study: Study, found: Front) -> "pd.Series[str]":
    """Position of every configuration relative to the front.

    Clearly beaten is what a member of the front beats by more than the least detectable
    difference in one objective, while it is nowhere worse by more. Without seeds that difference
    is 0. With them no equally good configuration of the page is called beaten, with 95 %
    probability over all comparisons together.
    """
    points = costs(study, found)
    rows = study.configurations.loc[points.index]
    floors = [noise.floor(study, one) for one in found.objectives]
    members = points.index.isin(found.uids)
    values = points.to_numpy()
    nowhere_worse = np.ones((members.sum(), len(values)), dtype=bool)
    better = np.zeros_like(nowhere_worse)
    for j, one in enumerate(floors):
        step = 0.0 if one is None else one.apart(rows[members], rows)
        theirs, mine = values[members, j][:, None], values[None, :, j]
        nowhere_worse &= theirs <= mine + step
        better |= theirs < mine - step
    beaten = (nowhere_worse & better).any(axis=0)
    labels = np.where(members, "on front", np.where(beaten, "clearly beaten", "within noise"))
    return pd.Series(labels.tolist(), index=points.index, dtype=object)


def chances(study: Study, found: Front) -> "tuple[pd.Series[float], int] | None":
    """Each configuration's chance to be on the front, and the draws; None without noise."""
    points = costs(study, found)
    floors = [noise.floor(study, one) for one in found.objectives if one.kind != "cost"]
    if any(one is None for one in floors):
        return None
    sds = [0.0 if one.kind == "cost" else _sd(study, one) for one in found.objectives]
    seeds = study.configurations.loc[points.index, "seeds"].to_numpy(dtype=np.float64)
    share, draws = chance_on_front(points.to_numpy(), sds / np.sqrt(seeds)[:, None])
    return pd.Series(share, index=points.index), draws


def chance_on_front(points: Float[np.ndarray, "n m"], sds: Float[np.ndarray, "n m"]) -> Chances:
    """Draw normal noise around every point, and count how often each is on the front.

    Args:
        points: all objectives to be low.
        sds: of each value; 0 where an objective is a setting, and known.
    """
    open_ = ~_out_of_reach(points, sds)
    values, spread = points[open_], sds[open_]
    pairs = max(1, values.shape[0] ** 2 * values.shape[1])
    draws = int(np.clip(MOST_COMPARISONS // pairs, FEWEST_DRAWS, MOST_DRAWS))
    generator = np.random.default_rng(0)
    counts = np.zeros(len(values))
    for _ in range(draws):
        counts += _unbeaten(values + spread * generator.standard_normal(values.shape))
    share = np.zeros(len(points))
    share[open_] = counts / draws
    return Chances(share, draws)


def _out_of_reach(
    points: Float[np.ndarray, "n m"], sds: Float[np.ndarray, "n m"]
) -> Bool[np.ndarray, " n"]:
    """Points that some other beats so far in every objective that no draw will turn it."""
    lost = np.zeros(len(points), dtype=bool)
    for i in np.flatnonzero(pareto(points, ["down"] * points.shape[1])):
        reach = OUT_OF_REACH * np.hypot(sds[i], sds)
        lost |= (points[i] <= points - reach).all(axis=1) & (points[i] < points - reach).any(axis=1)
    return lost


def _unbeaten(points: Float[np.ndarray, "n m"]) -> Bool[np.ndarray, " n"]:
    """As `pareto`, by all pairs at once: quicker for few points and many draws."""
    as_good = np.ones((len(points), len(points)), dtype=bool)
    better = np.zeros_like(as_good)
    for column in points.T:
        as_good &= column[:, None] <= column
        better |= column[:, None] < column
    return np.logical_not((as_good & better).any(axis=0))


def _sd(study: Study, metric: Metric) -> float:
    found = noise.floor(study, metric)
    return 0.0 if found is None else found.sd


def _varies(study: Study, name: str) -> bool:
    if name not in study.ranked:
        return False
    values = study.ranked[name].dropna()
    return bool(len(values) and values.min() < values.max())
