"""l0 over l1_alpha with the fitted curves of every width, and what meets the target."""

from pathlib import Path

import numpy as np

from analysis import response
from analysis.figures import style
from analysis.study import Study

NAME = "response"
FEWEST = 3
"""Points without a fit that make a figure."""


def draw(study: Study, folder: Path) -> list[str]:
    """Draw the curve of most trials: points, median, 95 % band, the l1_alpha for a target."""
    found = [one for one in response.curves(study, most=1).shown if one.known]
    if not found:
        return []
    curve, colours = found[0], style.widths(study)
    if not curve.fits and len(curve.known) < FEWEST:
        return []
    figure, (axes,) = style.new(1, 1, (8.2, 4.8))
    shades = [colours[one.n_latents] for one in curve.known]
    alphas, shares = zip(*((one.l1_alpha, one.l0_fraction) for one in curve.known), strict=True)
    axes.scatter(alphas, shares, s=22, color=shades)
    for fit in curve.fits:
        colour, posterior = colours[fit.n_latents], fit.posterior
        ends = np.log([fit.known[0].l1_alpha, fit.known[-1].l1_alpha])
        inside = (posterior.grid >= ends[0] - 0.7) & (posterior.grid <= ends[1] + 0.7)
        low, middle, high = np.exp(np.quantile(posterior.paths, [0.025, 0.5, 0.975], axis=0))
        along = np.exp(posterior.grid[inside])
        axes.plot(along, middle[inside], color=colour, label=f"n_latents {fit.n_latents:,}")
        axes.fill_between(along, low[inside], high[inside], color=colour, alpha=0.15, linewidth=0)
        target = response.target(study, fit.n_latents)
        if target is None:
            continue
        axes.axhline(target, color=style.GREY, linestyle=":", linewidth=1)
        if (alpha := fit.alpha(target)) is not None:
            axes.plot([alpha[0], alpha[2]], [target, target], color=colour, linewidth=4, alpha=0.6)
            axes.plot(alpha[1], target, "D", color="white", markeredgecolor=colour, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.plain_ticks(axes, "x")
    style.plain_ticks(axes, "y")
    axes.set_xlabel("l1_alpha")
    axes.set_ylabel("l0_fraction (share)")
    name = f" ({curve.name})" if curve.name else ""
    axes.set_title(f"Response of l0 to l1_alpha{name}; band: 95 %", loc="left")
    if curve.fits:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return [style.save(figure, folder, NAME)]
