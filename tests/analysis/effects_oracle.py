"""The tests on settings once more, by statsmodels from a table of trials: what claims are held to.

A configuration is one observation, seeds that configurations share are blocks, and a test's p is
the largest over the estimates of noise: between seeds (one variance, or one per level of a
setting), and what the model leaves (one variance, or White's HC3).
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from patsy import build_design_matrices, dmatrix
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests

FEWEST = 3
"""Degrees of freedom that a test, and a model without seeds, must have."""


class Noise(NamedTuple):
    """A covariance of the coefficients, and the degrees of freedom of its variance."""

    matrix: np.ndarray
    df: float
    is_hotelling: bool = False


class Trials:
    """One metric of all trials: configuration + seed, and what these leave."""

    def __init__(self, table: pd.DataFrame, names: Sequence[str], metric: str) -> None:
        self.rows = table.dropna(subset=[metric]).reset_index(drop=True)
        self.y = self.rows[metric].to_numpy()
        self.cell = self.rows.groupby(list(names)).ngroup().to_numpy()
        self.points = self.rows.groupby(list(names)).first().reset_index()
        self.counts = np.bincount(self.cell)
        seeds = pd.get_dummies(self.rows["seed"], dtype=float).to_numpy()
        self.blocks = seeds[:, 1:] - seeds[:, 1:].mean(axis=0)
        cells = np.eye(len(self.counts))[self.cell]
        fitted = OLS(self.y, np.hstack([cells, self.blocks])).fit()
        self.left = fitted.resid
        self.means = fitted.params[: len(self.counts)]
        self.df = len(self.y) - len(self.counts) - self.blocks.shape[1]
        self.squares = float((self.left**2).sum()) if self.df else 0.0

    def variances(self, levels: pd.Series) -> Noise | None:
        """Each configuration's variance, by its level, with Satterthwaite's degrees of freedom."""
        codes = pd.factorize(levels)[0]
        kept = self.df / (len(self.y) - len(self.counts))
        free = np.bincount(codes, weights=self.counts - 1)
        squares = np.bincount(codes[self.cell], weights=self.left**2) / kept
        pooled = squares.sum() / free.sum()
        by_level = np.where(free > 0, squares / np.maximum(free, 1), pooled)
        own = by_level[codes] / self.counts
        sums = np.bincount(codes, weights=own)
        return Noise(own, sums.sum() ** 2 / (sums**2 / np.maximum(free, 1)).sum())


class Model:
    """A linear model of the configurations, fitted to all trials with the seeds held."""

    def __init__(self, trials: Trials, x: np.ndarray, settings: Sequence[str], full: bool) -> None:
        p, whole = x.shape[1], np.hstack([x[trials.cell], trials.blocks])
        fitted = OLS(trials.y, whole).fit()
        self.x, self.params, bread = x, fitted.params[:p], fitted.normalized_cov_params[:p, :p]
        self.noises = []
        if trials.df >= FEWEST:
            self.noises.append(Noise(trials.squares / trials.df * bread, trials.df))
            hat = np.linalg.pinv(x)
            for one in settings:
                found = trials.variances(trials.points[one])
                self.noises.append(Noise((hat * found.matrix) @ hat.T, found.df, True))
        df = len(x) - p
        balanced = full and np.ptp(trials.counts) == 0
        if df >= FEWEST and not (self.noises and balanced):
            self.noises.append(Noise((fitted.ssr - trials.squares) / df * bread, df))
            plain = OLS(trials.means, x).fit()
            if plain.get_influence().hat_matrix_diag.max() < 1 - 1e-8:
                self.noises.append(Noise(plain.cov_HC3, df))

    def joint(self, rows: np.ndarray) -> float:
        """p that all rows are 0 (Wald's F; Hotelling's where the variances are several)."""
        value, q, found = rows @ self.params, len(rows), []
        for one in self.noises:
            size = value @ np.linalg.solve(rows @ one.matrix @ rows.T, value)
            second = one.df - q + 1 if one.is_hotelling else one.df
            if second >= FEWEST:
                found.append(stats.f.sf(size * second / (one.df * q), q, second))
        return max(found, default=np.nan)

    def each(self, row: np.ndarray) -> tuple[float, float, tuple[float, float]]:
        """A contrast, its p and its 95 % interval."""
        value = float(row @ self.params)
        errors = [(np.sqrt(row @ one.matrix @ row), one.df) for one in self.noises]
        p = max(2 * stats.t.sf(abs(value) / error, df) for error, df in errors)
        reach = max(stats.t.ppf(0.975, df) * error for error, df in errors)
        return value, float(p), (value - reach, value + reach)


class Oracle:
    """All effects and pairs of a sweep, tested as one family."""

    def __init__(
        self,
        table: pd.DataFrame,
        names: Sequence[str],
        metrics: Sequence[str],
        aliased: Sequence[str] = (),
    ) -> None:
        """Take ranked trials, metrics on their scales; of aliased settings the first is in."""
        self.names, self.aliased, self.metrics = list(names), list(aliased), list(metrics)
        self.held = [one for one in names if one not in aliased[1:]]
        self.free = [one for one in names if one not in aliased]
        self.trials = {metric: Trials(table, names, metric) for metric in metrics}
        sizes = {one: table[one].nunique() for one in names}
        self.full = len(self.trials[self.metrics[0]].points) == np.prod(list(sizes.values()))
        self._models: dict[str, tuple[Model, Any]] = {}

    def model(self, metric: str) -> tuple[Model, Any]:
        """The additive model, and patsy's account of its columns."""
        if metric not in self._models:
            trials = self.trials[metric]
            x = dmatrix(" + ".join(f"C({one})" for one in self.held), trials.points)
            fitted = Model(trials, np.asarray(x), self.names, self.full)
            self._models[metric] = fitted, x.design_info
        return self._models[metric]

    def rows(self, name: str, metric: str) -> pd.DataFrame:
        """Of each level, the columns' means over the full grid of the other settings' levels."""
        points = self.trials[metric].points
        grid = pd.DataFrame(
            product(*(sorted(points[one].unique()) for one in self.held)), columns=self.held
        )
        (x,) = build_design_matrices([self.model(metric)[1]], grid)
        return pd.DataFrame(np.asarray(x)).groupby(grid[name]).mean()

    def means(self, name: str, metric: str) -> pd.Series:
        """Adjusted means of the levels, ascending."""
        return (self.rows(name, metric) @ self.model(metric)[0].params).sort_values()

    def change(
        self, name: str, metric: str, first: object, last: object
    ) -> tuple[float, float, tuple[float, float]]:
        """From one level to another: the change, its p and its interval."""
        rows = self.rows(name, metric)
        return self.model(metric)[0].each((rows.loc[last] - rows.loc[first]).to_numpy())

    def apart(self, name: str, metric: str) -> dict[frozenset, float]:
        """Holm's p of all pairs of levels."""
        pairs = list(combinations(self.rows(name, metric).index, 2))
        p = [self.change(name, metric, *pair)[1] for pair in pairs]
        return dict(zip(map(frozenset, pairs), multipletests(p, method="holm")[1], strict=True))

    def best_p(self, name: str, metric: str) -> float:
        """The largest Holm p of the level with the lowest adjusted mean against the others."""
        best = self.means(name, metric).index[0]
        return max(p for pair, p in self.apart(name, metric).items() if best in pair)

    def p_effect(self, name: str, metric: str) -> float:
        """Of all the levels of a setting, jointly."""
        model, info = self.model(metric)
        return model.joint(np.eye(model.x.shape[1])[info.slice(f"C({name})")])

    def pair(self, a: str, b: str, metric: str) -> tuple[float, float] | None:
        """p and share of the variance; None where the pair cannot be tested."""
        trials, (base, _) = self.trials[metric], self.model(metric)
        found = []
        for columns in self._candidates(a, b, trials):
            x = base.x
            for column in columns.T:
                wider = np.column_stack([x, column])
                x = wider if np.linalg.matrix_rank(wider) == wider.shape[1] else x
            added = x.shape[1] - base.x.shape[1]
            model = Model(trials, x, self.names, self.full)
            if added and model.noises and (trials.df >= FEWEST or len(x) - x.shape[1] >= FEWEST):
                left = [OLS(trials.means, each).fit() for each in (base.x, x)]
                share = (left[0].ssr - left[1].ssr) / left[0].centered_tss
                found.append((model.joint(np.eye(x.shape[1])[-added:]), share))
        known = [p for p, _ in found if not np.isnan(p)]
        return (min(1.0, len(known) * min(known)), found[0][1]) if known else None

    def _candidates(self, a: str, b: str, trials: Trials) -> list[np.ndarray]:
        """All products of the levels where cells tell their variance; the product of the places."""
        points = trials.points
        found, cells = [], pd.crosstab(points[a], points[b]).to_numpy()
        if (cells == 0).mean() <= 0.2 and (trials.df or cells[cells > 0].min() >= 3):
            found.append(np.asarray(dmatrix(f"0 + C({a}):C({b})", points)))
        places = [_places(points[one]) for one in (a, b)]
        if all(one is not None for one in places) and max(cells.shape) > 2:
            found.append((places[0] * places[1])[:, None])
        return found

    @cached_property
    def pairs(self) -> dict[tuple[str, str, str], tuple[float, float]]:
        """p and share of every pair that is tested."""
        wanted = product(combinations(self.free, 2), self.metrics)
        tested = {(a, b, metric): self.pair(a, b, metric) for (a, b), metric in wanted}
        return {key: one for key, one in tested.items() if one is not None}

    @cached_property
    def q(self) -> dict[tuple[str, ...], float]:
        """Benjamini and Yekutieli's, of (setting, metric) and (setting, setting, metric)."""
        p: dict[tuple[str, ...], float] = {
            (name, metric): self.p_effect(name, metric)
            for name in self.free
            for metric in self.metrics
            if self.model(metric)[0].noises
        }
        p |= {key: one[0] for key, one in self.pairs.items()}
        return dict(
            zip(p, stats.false_discovery_control(list(p.values()), method="by"), strict=True)
        )


def _places(levels: pd.Series) -> np.ndarray | None:
    """Levels as centred numbers, logarithms where they span much; None for several categories."""
    if not is_numeric_dtype(levels):
        codes = pd.factorize(levels)[0]
        return codes - 0.5 if codes.max() == 1 else None
    wide = levels.min() > 0 and levels.max() >= 4 * levels.min()
    numbers = np.log10(levels) if wide else levels.astype(float)
    return (numbers - numbers.drop_duplicates().mean()).to_numpy()
