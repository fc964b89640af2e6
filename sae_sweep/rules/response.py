"""The response of L0 to l1_alpha: a monotone curve with uncertainty, and where it meets a target.

On logarithmic scales the curve is flat while the penalty is too weak to matter and then falls, ever
steeper: ln L0 = y0 + q u - s w softplus((ln l1_alpha - x0 - p u) / w), u the logarithm of the width
over the width that is asked about. What data may add to that shape is a Gaussian process, so a
curve that looks different costs trials, not correctness.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, " n"]

# y0, x0, ln s, ln w, p, q. Broad: with inputs of norm sqrt(d) the published penalty of 5 is taken
# to give 5 % active latents to within a factor of 4 or so; most latents fire without a penalty.
PRIOR_MEAN = np.array([math.log(0.7), math.log(0.9), math.log(1.5), 0.0, 0.0, 0.0])
PRIOR_SD = np.array([0.3, 1.5, 0.4, 0.5, 1.0, 0.5])

MISFIT = 0.25
"""Standard deviation of ln L0 around the shape, correlated over ALPHA_SCALE and WIDTH_SCALE."""
ALPHA_SCALE, WIDTH_SCALE = 1.5, 1.5
"""In units of ln l1_alpha and ln n_latents."""
NOISE = 0.02
"""Standard deviation of ln L0 between seeds."""

POOR = 3.0
"""A fit whose worst residual is more standard deviations than this is not relied upon."""
RISE = 0.2
"""A rise of ln L0 with l1_alpha beyond noise: the response is not monotone."""
SAME_WIDTH = 0.1
"""Widths whose logarithms differ by less count as one where responses are compared."""

PATHS = 300
GRID = 161
MARGIN = 3.0
"""Extrapolation beyond the requested range, in ln l1_alpha."""


class Observation(NamedTuple):
    """One trained SAE."""

    l1_alpha: float
    n_latents: int
    l0_fraction: float
    oscillation: float = 0.0
    """Standard deviation of l0 over the last half of training, relative to its mean."""


class Posterior(NamedTuple):
    """Curves that agree with the observations, for one width."""

    grid: Array
    """ln l1_alpha."""
    paths: Float[np.ndarray, "paths n"]
    """ln L0 of each curve, never rising."""
    worst_residual: float
    """Of the shape alone, in standard deviations."""
    shapes: Float[np.ndarray, "paths 6"]
    """Parameters of each curve's shape."""
    oscillation: float
    """Median relative oscillation of the trials that were fitted."""

    def roots(self, target: float) -> Array:
        """Where each curve meets the target, in ln l1_alpha, ascending; infinite where none does.

        Args:
            target: share of active latents.
        """
        wanted = math.log(target)
        above = (self.paths > wanted).sum(axis=1)
        inside = np.clip(above, 1, len(self.grid) - 1)
        rows = np.arange(len(self.paths))
        y1, y2 = self.paths[rows, inside - 1], self.paths[rows, inside]
        share = (y1 - wanted) / np.maximum(y1 - y2, 1e-12)
        met = self.grid[inside - 1] + (self.grid[inside] - self.grid[inside - 1]) * share
        met[above == 0], met[above == len(self.grid)] = -math.inf, math.inf
        return np.sort(met)

    def slope(self, x: float) -> float:
        """Median d ln L0 / d ln l1_alpha at ln l1_alpha = x; always below 0."""
        step = self.grid[1] - self.grid[0]
        at = int(np.clip(np.searchsorted(self.grid, x), 1, len(self.grid) - 2))
        slopes = (self.paths[:, at + 1] - self.paths[:, at - 1]) / (2 * step)
        return min(float(np.median(slopes)), -0.05)

    def interval(self, target: float, level: float = 0.95) -> tuple[float, float, float]:
        """The l1_alpha that meets a target: low end, median, high end; oscillation widens it.

        Args:
            target: share of active latents.
            level: probability of the interval.
        """
        roots = self.roots(target)
        ends = [(1 - level) / 2, 0.5, (1 + level) / 2]
        low, middle, high = np.quantile(roots, ends, method="nearest")
        if not math.isfinite(middle):
            return math.exp(low), math.exp(middle), math.exp(high)
        wobble = 1.96 * self.oscillation / -self.slope(float(middle))
        below, above = math.hypot(middle - low, wobble), math.hypot(high - middle, wobble)
        return math.exp(middle - below), math.exp(middle), math.exp(middle + above)

    def exponent(self, target: float) -> tuple[float, float, float]:
        """Power of the width by which l1_alpha changes at a fixed share: 2.5 %, median, 97.5 %."""
        from scipy.special import expit  # as below

        y0, _, log_s, log_w, p, q = self.shapes.T
        s, w = np.exp(log_s), np.exp(log_w)
        drop = np.maximum((y0 - math.log(target)) / (s * w), 1e-6)
        z = drop + np.log(-np.expm1(-drop))  # the inverse of softplus
        low, middle, high = np.quantile(p + q / (s * expit(z)), [0.025, 0.5, 0.975])
        return float(low), float(middle), float(high)


def fit(
    observations: Sequence[Observation], n_latents: int, bounds: tuple[float, float]
) -> Posterior:
    """Fit curves to the observations, of which there may be none.

    The shape is fitted by the maximum of its posterior, its uncertainty by Laplace's method; the
    misfit is a Gaussian process over l1_alpha and width.

    Args:
        observations: trials that differ in l1_alpha and width alone.
        n_latents: width that is asked about.
        bounds: range of l1_alpha in which curves are wanted.
    """
    # half a second, which commands without such a search can spare
    from scipy.linalg import cho_factor, cho_solve, solve_triangular
    from scipy.optimize import least_squares

    x = np.array([math.log(one.l1_alpha) for one in observations])
    u = np.array([math.log(one.n_latents / n_latents) for one in observations])
    y = np.array([math.log(max(one.l0_fraction, 1e-9)) for one in observations])
    factor = cho_factor(_kernel(x, u, x, u) + NOISE**2 * np.eye(len(x)), lower=True)

    def residuals(theta: Array) -> Array:
        misfit = solve_triangular(factor[0], y - _shape(theta, x, u), lower=True)
        return np.concatenate([misfit, (theta - PRIOR_MEAN) / PRIOR_SD])

    found = least_squares(residuals, PRIOR_MEAN, max_nfev=200)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    random = np.random.default_rng(0)
    shapes = random.multivariate_normal(found.x, covariance, PATHS, method="cholesky")

    ends = [math.log(bounds[0]), math.log(bounds[1]), *x]
    grid = np.linspace(min(ends) - MARGIN, max(ends) + MARGIN, GRID)
    at = np.zeros(GRID)
    cross = _kernel(grid, at, x, u)
    left = _kernel(grid, at, grid, at) - cross @ cho_solve(factor, cross.T)
    root = np.linalg.cholesky(left + 1e-6 * np.eye(GRID))
    noise = random.standard_normal((PATHS, GRID)) @ root.T
    rest = np.array([y - _shape(one, x, u) for one in shapes])
    means = np.array([_shape(one, grid, at) for one in shapes])
    paths = means + rest @ cho_solve(factor, cross.T) + noise
    worst = np.abs(y - _shape(found.x, x, u)).max(initial=0.0) / math.hypot(MISFIT, NOISE)
    wobbles = [one.oscillation for one in observations]
    oscillation = float(np.median(wobbles)) if wobbles else 0.0
    falling = np.minimum.accumulate(paths, axis=1)
    return Posterior(grid, falling, float(worst), shapes, oscillation)


def rise(observations: Sequence[Observation]) -> tuple[Observation, Observation] | None:
    """Two trials of one width that contradict a falling response; None where there are none."""
    ordered = sorted(observations, key=lambda one: one.l1_alpha)
    alpha = np.array([one.l1_alpha for one in ordered])
    width = np.log([one.n_latents for one in ordered])
    l0 = np.log([max(one.l0_fraction, 1e-9) for one in ordered])
    near = np.abs(np.subtract.outer(width, width)) < SAME_WIDTH
    rising = near & np.greater.outer(alpha, alpha) & (np.subtract.outer(l0, l0) > RISE)
    if not rising.any():
        return None
    later, earlier = np.argwhere(rising)[0]
    return ordered[earlier], ordered[later]


def _shape(theta: Array, x: Array, u: Array) -> Array:
    y0, x0, log_s, log_w, p, q = theta
    s, w = math.exp(log_s), math.exp(log_w)
    return y0 + q * u - s * w * np.logaddexp(0.0, (x - x0 - p * u) / w)


def _kernel(x: Array, u: Array, x_: Array, u_: Array) -> Float[np.ndarray, "n m"]:
    along = np.subtract.outer(x, x_) / ALPHA_SCALE
    across = np.subtract.outer(u, u_) / WIDTH_SCALE
    return MISFIT**2 * np.exp(-(along**2 + across**2) / 2)
