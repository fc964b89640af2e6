"""The section on effects, raw and adjusted."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.effect_tests import Effect, Effects
from analysis.page import style, wording
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, counted, escaped, listed, table
from analysis.statistics.adjusted import Change
from analysis.statistics.correlations import PERMUTED_UP_TO, Correlation
from analysis.statistics.fits import FEWEST_RESIDUAL
from analysis.statistics.resampling import FEWEST, RESAMPLES
from analysis.study import scales
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from analysis.topics.effects import claims
from sae_sweep.records import Metric


def effects(context: ReportContext) -> list[Block]:
    """Two tables per main metric, raw and adjusted, and the claims from them."""
    study = context.study
    title = "## Effects of the hyperparameters"
    if not study.hyperparameters:
        return [f"{title}\n\nNo setting varies in this sweep."]
    if study.ranked.empty:
        return [f"{title}\n\nNo trial is ranked yet."]
    estimates = effect_tests.estimate(study)
    parts: list[Block] = [title, _note(study, estimates), *claims.general(estimates)]
    for metric in effect_tests.outcomes(study):
        better = "higher" if metric.direction == "up" else "lower"
        found = estimates.of(metric)
        parts += [
            f"### {metric.name} ({better} is better)",
            *claims.of_metric(metric, estimates),
            *_tables(found),
            *context.picture(f"effects_{metric.name}", f"{metric.name} by hyperparameter"),
            *context.picture(f"forest_{metric.name}", f"{metric.name}: raw and adjusted changes"),
        ]
    return parts


def _note(study: Study, estimates: Effects) -> str:
    logs = [one.name for one in study.hyperparameters if one.is_log]
    scale = f", of {escaped(listed(logs))} the logarithm" if logs else ""
    lines = [
        "An observation is a configuration: the mean of its ranked seeds on the metric's scale"
        f"{scale}; seeds that several configurations share are blocks. Each q is a p-value "
        f"adjusted for its family (Benjamini-Yekutieli): {estimates.raw_tests} correlations; "
        f"{estimates.tests} effects and interactions together. Where no setting "
        "matters, the chance that this page claims any of these is at most 5 %.",
    ]
    if len(study.hyperparameters) > 1:
        lines.append(
            "**Alone:** plain correlations; other settings may differ between the levels. In "
            f"brackets: 95 % intervals by bootstrap over configurations ({RESAMPLES} draws; none "
            f"below {FEWEST}). p by permutation of the ranks (by the t distribution above "
            f"{PERMUTED_UP_TO} configurations), Kruskal-Wallis for categories. **Others held:** "
            "an additive model of all hyperparameters' levels; the change from the first level to "
            "the last, with the widest of its 95 % intervals. p is the largest of several F-tests: "
            "with equal variances and with unequal ones (HC3); the noise between seeds is their "
            "denominator where there are seeds, and what the model leaves where there are none or "
            f"the design is not balanced. They need {FEWEST_RESIDUAL} degrees of freedom. An "
            "effect is claimed at q < 0.05. It turns inside where a fall and a rise are "
            "significant (Holm)."
        )
    return "\n\n".join(lines)


def _tables(found: list[Effect]) -> Iterator[str]:
    rows = [_alone(one) for one in found]
    single = len(found) == 1
    title = [] if single else ["**Alone**"]
    yield from title
    yield table(["hyperparameter", "n", "Pearson", "Spearman", "q", "note"], rows)
    if any(one.adjusted is not None for one in found):
        yield from [] if single else ["**Others held**"]
        header = ["hyperparameter", "from, to", "raw", "adjusted", "F", "partial η²", "q", "note"]
        yield table(header, [_held(one) for one in found])


def _alone(one: Effect) -> list[str]:
    found = one.correlation
    return [
        escaped(one.hyperparameter.name),
        f"{found.n:,}",
        wording.correlation(found.pearson) + wording.bracketed(found.pearson_interval),
        wording.correlation(found.spearman) + wording.bracketed(found.spearman_interval),
        wording.probability(one.raw_q),
        "; ".join(_remarks(one, found)),
    ]


def _remarks(one: Effect, found: Correlation) -> Iterator[str]:
    if found.remark:
        yield found.remark
    if found.epsilon_squared == found.epsilon_squared:
        yield f"categories: ε² = {found.epsilon_squared:.2f}"
    if one.hyperparameter.kind == "conditional" and not found.remark:
        yield "where active"
    if found.disagree:
        yield "the two disagree: outliers or shape, trust Spearman"


def _held(one: Effect) -> list[str]:
    held = one.adjusted
    name = escaped(one.hyperparameter.name)
    if held is None:
        return [name, *[MISSING] * 6, one.reason]
    test = [
        f"{held.f:.3g} ({held.df}, {held.residual_df})",
        f"{held.partial_eta_squared:.2f}",
        wording.probability(one.q),
        _held_remark(one),
    ]
    if held.change is None:
        return [
            name,
            counted(len(held.means), "category").replace("ys", "ies"),
            *[MISSING] * 2,
            *test,
        ]
    move = held.change
    return [
        name,
        f"{escaped(move.first)}, {escaped(move.last)}",
        scales.change(one.metric, move.raw)
        + wording.change_interval(one.metric, move.raw_interval),
        scales.change(one.metric, move.adjusted)
        + wording.change_interval(one.metric, move.adjusted_interval),
        *test,
    ]


def _held_remark(one: Effect) -> str:
    shown = {"bent": "turns inside", "flat": "flat at one end", "unheld": "not when held"}
    if one.raw_disagrees:
        return "**raw disagrees**"
    return one.reason or shown.get(one.finding, "")


COLUMNS = 3
FOREST = "raw and adjusted changes with their intervals"


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One figure per main metric; none where nothing varies or nothing is ranked."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    drawn = [_draw(study, metric, folder) for metric in study.main_metrics]
    return drawn + [
        one for metric in effect_tests.outcomes(study) for one in _forest(study, metric, folder)
    ]


def _draw(study: Study, metric: Metric, folder: Path) -> style.Drawn:
    n = len(study.hyperparameters)
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    figure, panels = style.new(rows, columns, (1 + 3.4 * columns, 0.4 + 2.9 * rows))
    for axes, hyperparameter in zip(panels, study.hyperparameters, strict=False):
        _panel(study, metric, hyperparameter, axes)
    for axes in panels[n:]:
        axes.set_axis_off()
    title = f"{metric.name}: a dot a ranked trial, a bar each level's median"
    if len(study.trials[study.where("diverged") | study.worse_than_mean]):
        title += ", x at the edge: diverged or fvu >= 1"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    if handles := style.width_legend(study):
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    return style.save(
        figure, folder, f"effects_{metric.name}", "every trial over each hyperparameter"
    )


def _panel(study: Study, metric: Metric, hyperparameter: Hyperparameter, axes: Axes) -> None:
    order = hyperparameter.order
    places = np.array([order.index(level) for level in hyperparameter.levels], dtype=float)
    values = study.trials[metric.name].to_numpy(dtype=np.float64)
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    # spread by golden ratio: dots of one level do not cover each other, and always lie the same
    spread = (np.arange(len(places)) * 0.618 % 1 - 0.5) * 0.5
    size, alpha = (14, 0.6) if counted.sum() < 300 else (4, 0.3)
    dots = (places + spread)[counted]
    shades = style.shades(study, study.trials["n_latents"][counted])
    axes.scatter(dots, values[counted], s=size, color=shades, alpha=alpha)
    for i, level in enumerate(order):
        inside = values[counted & hyperparameter.at(level)]
        if len(inside):
            axes.hlines(np.median(inside), i - 0.36, i + 0.36, color=style.BLACK, linewidth=2)
    axes.margins(y=0.1)
    style.metric_axis(axes, metric, bool((values[counted] > 0).all()))
    lost = study.where("diverged") | study.worse_than_mean
    axes.scatter(
        (places + spread)[lost],
        np.full(lost.sum(), 0.98),
        transform=axes.get_xaxis_transform(),
        s=20,
        marker="x",
        color=style.RED,
    )
    slanted = max(map(len, order)) * len(order) > 34
    axes.set_xticks(
        range(len(order)), order, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_xlabel(hyperparameter.name)


def _forest(study: Study, metric: Metric, folder: Path) -> list[style.Drawn]:
    """One row per hyperparameter: the change from its first to its last level, raw and adjusted."""
    effects = effect_tests.estimate(study).of(metric)
    rows = [
        (one.hyperparameter.name, one.adjusted.change)
        for one in effects
        if one.adjusted is not None and one.adjusted.change is not None
    ]
    if len(rows) < 2:
        return []
    figure, (axes,) = style.new(1, 1, (6.4, 1.6 + 0.55 * len(rows)))
    for i, (_, change) in enumerate(rows):
        style.interval_bar(axes, i - 0.13, change.raw, change.raw_interval, style.GREY)
        style.interval_bar(
            axes, i + 0.13, change.adjusted, change.adjusted_interval, style.COLOURS[0]
        )
    axes.axvline(0, color=style.BLACK, linewidth=1)
    axes.set_yticks(range(len(rows)), [_row_name(name, change) for name, change in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _change_ticks(axes, metric)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"change of {metric.name} from the first to the last level")
    change = rows[0][1]
    for name, value, up, colour in (
        ("nothing held", change.raw, 9, "#77777c"),
        ("other settings held", change.adjusted, -9, style.COLOURS[0]),
    ):
        place = (value, 0.13 if up < 0 else -0.13)
        axes.annotate(
            name,
            place,
            (0, up),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=colour,
        )
    return [style.save(figure, folder, f"forest_{metric.name}", FOREST)]


FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5)
FACTORS_UP = (2, 3, 5, 10, 20, 50, 100)
"""Changes of a metric of log scale at which an axis may have a tick."""


def _change_ticks(axes: Axes, metric: Metric) -> None:
    """Ticks of an axis of changes, in percent or points; of a log scale those with room."""
    axes.xaxis.set_major_formatter(
        lambda value, _: wording.percent(metric, value) if abs(value) > 1e-9 else "0"
    )
    if metric.scale != "log":
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return
    low, high = axes.get_xlim()
    ticks: list[float] = [0.0]
    for place in sorted(np.log10([*FACTORS, *FACTORS_UP]), key=abs):
        if low <= place <= high and min(abs(place - one) for one in ticks) > (high - low) / 9:
            ticks.append(float(place))
    axes.set_xticks(ticks)


def _row_name(name: str, change: Change) -> str:
    return f"{name}\n{change.first} to {change.last}"
