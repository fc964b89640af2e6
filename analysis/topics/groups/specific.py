"""Latents by group of tokens (language, domain): how well each is served, and what is its own."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from analysis.study.table import Study, trial_table

SPECIFIC = 10.0
"""A specific latent fires at least so many times as often in its group as in any other."""
LEAST_FIRED = 20
"""On at least so many tokens of its group."""
LEVEL = 0.05
"""With an adjusted p-value below this."""
EVEN = 2.0
"""A shared latent's highest frequency in a group is at most so many times its lowest."""
LEAST_TOKENS = 100
"""Groups with fewer validation tokens are left out of the comparison of latents."""
DRAWS = 20
"""Times that tokens are dealt out to groups at random, to see what chance alone makes."""

MOST_GROUPS = 40
"""Of more, those with the most tokens are compared."""

PREFIX = "frequency_"


class Latents(NamedTuple):
    """A trial's latents, compared between groups."""

    names: list[str]
    """The groups that were compared."""
    left_out: list[str]
    """Those with fewer than `LEAST_TOKENS` tokens, or beyond `MOST_GROUPS`."""
    alive: int
    """Latents that fire in any compared group."""
    everywhere: int
    """Of these, those that fire in every compared group."""
    even: int
    """Of these, those whose frequencies lie within a factor of `EVEN`."""
    by_chance: float
    """Specific latents to expect if no latent knew the groups: mean over `DRAWS` deals."""
    specific: pd.DataFrame
    """A row each, group by group, the most frequent first. Columns: id, group, frequency, other
    (the highest frequency in another group), fired (tokens), p and q."""


def figures(study: Study, uid: str) -> pd.DataFrame | None:
    """A trial's tokens, fvu, l0 and dead_features (columns) by group (index), most tokens first.

    None where its activations have fewer than two groups, or it was trained elsewhere.
    """
    table = trial_table(
        study, uid, "groups.parquet", {"group", "tokens", "fvu", "l0", "dead_features"}
    )
    return (
        None
        if table is None
        else table.set_index("group").sort_values("tokens", ascending=False, kind="stable")
    )


def latents(study: Study, uid: str) -> pd.DataFrame | None:
    """A trial's latents: id, frequency, max_activation and a `frequency_<group>` each."""
    return trial_table(study, uid, "latents.parquet", {"id"})


def compare(latents: pd.DataFrame, figures: pd.DataFrame) -> Latents | None:
    """Find the latents that belong to one group; None where not two groups have enough tokens.

    Every alive latent is tested in every group: were its tokens dealt out to groups by the groups'
    sizes, as many or more would fall to the group with the binomial probability p. q is p adjusted
    over all these tests (Benjamini and Yekutieli 2001). Tokens of a document are not independent,
    so p is too small where documents are long; `SPECIFIC` and `LEAST_FIRED` bind first.

    Args:
        latents: as `latents` reads them.
        figures: as `figures` reads them.
    """
    large = figures["tokens"][figures["tokens"] >= LEAST_TOKENS].head(MOST_GROUPS)
    if len(large) < 2:
        return None
    names, sizes = [str(name) for name in large.index], large.to_numpy(dtype=np.int64)
    frequency = latents[[PREFIX + name for name in names]].to_numpy(dtype=np.float64)
    fired = np.rint(frequency * sizes).astype(np.int64)
    alive = fired.sum(axis=1) > 0
    ids, fired = latents["id"].to_numpy()[alive], fired[alive]
    everywhere = (fired > 0).all(axis=1)
    rates = fired / sizes
    even = everywhere & (rates.max(axis=1) <= EVEN * rates.min(axis=1))
    left_out = [str(name) for name in figures.index if name not in large]
    counts = int(alive.sum()), int(everywhere.sum()), int(even.sum())
    specific = _specific(names, ids, fired, sizes)
    return Latents(names, left_out, *counts, _by_chance(fired, sizes), specific)


def _stands_out(
    fired: Int[np.ndarray, "... g"], sizes: Int[np.ndarray, " g"]
) -> Bool[np.ndarray, "... g"]:
    """Where a latent is `SPECIFIC` times as frequent as in any other group, on enough tokens."""
    rates = fired / sizes
    return (rates >= SPECIFIC * _highest_other(rates)) & (fired >= LEAST_FIRED)


def _highest_other(rates: Float[np.ndarray, "... g"]) -> Float[np.ndarray, "... g"]:
    """The highest rate among the other groups."""
    ordered = np.sort(rates, axis=-1)
    first, second = ordered[..., -1:], ordered[..., -2:-1]
    return np.where(rates == first, second, first)


def _by_chance(fired: Int[np.ndarray, "m g"], sizes: Int[np.ndarray, " g"]) -> float:
    random = np.random.default_rng(0)
    totals, shares = fired.sum(axis=1), sizes / sizes.sum()
    found = [_stands_out(random.multinomial(totals, shares), sizes).sum() for _ in range(DRAWS)]
    return float(np.mean(found))


def _specific(
    names: list[str],
    ids: Int[np.ndarray, " m"],
    fired: Int[np.ndarray, "m g"],
    sizes: Int[np.ndarray, " g"],
) -> pd.DataFrame:
    totals = fired.sum(axis=1, keepdims=True)
    p = stats.binom.sf(fired - 1, totals, sizes / sizes.sum())
    q = stats.false_discovery_control(p.ravel(), method="by").reshape(p.shape) if p.size else p
    rates = fired / sizes
    rows, groups = (_stands_out(fired, sizes) & (q < LEVEL)).nonzero()
    table = pd.DataFrame(
        {
            "id": ids[rows],
            "group": np.array(names, dtype=object)[groups],
            "frequency": rates[rows, groups],
            "other": _highest_other(rates)[rows, groups],
            "fired": fired[rows, groups],
            "p": p[rows, groups],
            "q": q[rows, groups],
        }
    )
    order = np.lexsort((table["id"], -table["frequency"], groups))
    return table.iloc[order].reset_index(drop=True)
