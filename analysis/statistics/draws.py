"""Whether settings were drawn with an eye to the results."""

import numpy as np
from jaxtyping import Float
from scipy import stats

FEWEST = 20
"""Draws below which nothing is said."""
UNEVEN, CROWDED = 1e-3, 1e-6
"""p of uniform draws (Kolmogorov-Smirnov) below which that is doubtful, and out of question."""
LEVEL = 0.05
EARLY = 0.25
"""Share of the draws, in the order of the rows, that a search makes before it knows anything."""
BEST = 0.1
"""Share of the draws around whose results a search gathers."""


def is_gathered(numbers: Float[np.ndarray, " n"], goodness: Float[np.ndarray, " n"]) -> bool:
    """Whether draws of one setting crowd as those of a search do.

    A sampler that does not look at results draws uniformly on some scale. Draws count as gathered
    where they are uniform neither as they stand nor as logarithms, and one of: no chance at all
    that they are; the later ones lie elsewhere than the earlier ones; they lie closer around the
    best than around others (permutation test).

    Args:
        numbers: the setting, as it stands, in the order of the trials; NaN is left out.
        goodness: larger is better; NaN where unknown.
    """
    known = ~np.isnan(numbers)
    x, good = numbers[known], goodness[known]
    if len(x) < FEWEST or len(np.unique(x)) < len(x) / 2:
        return False
    scales = [_unit(one) for one in ([x, np.log(x)] if x.min() > 0 else [x])]
    p = max(float(stats.kstest(one, "uniform").pvalue) for one in scales)
    if p > UNEVEN:
        return False
    place, first = scales[-1], max(int(EARLY * len(x)), 5)
    moved = float(stats.ks_2samp(place[:first], place[first:]).pvalue)
    return p < CROWDED or moved < LEVEL or _p_of_density(place, good) < LEVEL


def _p_of_density(place: Float[np.ndarray, " n"], good: Float[np.ndarray, " n"]) -> float:
    """Permutation test that the best lie where draws are no denser than elsewhere."""
    near = max(int(BEST * len(place)), 2)
    reach = np.sort(np.abs(place[:, None] - place[None, :]), axis=1)[:, near]
    dense = stats.rankdata(-reach)
    best = np.argsort(-np.where(np.isnan(good), -np.inf, good), kind="stable")[:near]
    rng = np.random.default_rng(0)
    chance = np.array([dense[rng.permutation(len(dense))[:near]].mean() for _ in range(999)])
    return float((1 + (chance >= dense[best].mean()).sum()) / 1000)


def _unit(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return (x - x.min()) / max(float(np.ptp(x)), 1e-300)
