"""Whether the sweep's L0 is right, by how alike its decoder rows are (arXiv:2508.16560)."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.page.blocks import Block
from analysis.page.markdown import counted, escaped, number, table
from analysis.study import configurations
from analysis.study.table import Study
from sae_sweep.records import METRICS

NAME = "decoder_cosine"
FEWEST = 4
"""Values of l0 below which nothing is pointed to."""


@dataclass(frozen=True)
class PointsTo:
    """The l0 with the lowest decoder cosine, for one architecture and width."""

    kind_of_sae: str
    n_latents: int
    levels: int
    lowest: float
    """Value of l0 with the lowest mean decoder cosine."""
    low: float | None
    """The next lower value of l0 whose cosine is told apart; None where there is none."""
    high: float | None
    below: int
    """Configurations with l0 below the range."""
    above: int
    n: int

    @property
    def words(self) -> str:
        """The sentence."""
        which = f"**{escaped(self.kind_of_sae)}, {counted(self.n_latents, 'latent')}:**"
        found = f"decoder_cosine is lowest at l0 {number(self.lowest)} of {self.levels:,} values"
        match self.low, self.high:
            case None, None:
                return f"{which} {found}, and no other is told from it."
            case None, high:
                place = f"the l0 it points to lies below {number(high)} and may be below all"
            case low, None:
                place = f"the l0 it points to lies above {number(low)} and may be above all"
            case low, high:
                place = f"the l0 it points to lies between {number(low)} and {number(high)}"
        most = ""
        for side, count in (("below", self.below), ("above", self.above)):
            if 2 * count > self.n:
                most = f"; **most of the sweep lies {side}**"
        return (
            f"{which} {found}; {place}; {self.below:,} of {counted(self.n, 'configuration')} "
            f"{'lies' if self.below == 1 else 'lie'} at or below that range and {self.above:,} at "
            f"or above it{most}."
        )


def right_l0(context: ReportContext) -> list[Block]:
    """A row for each value of l0, by architecture and width; absent below four values."""
    study = context.study
    if NAME not in study.ranked or "l0" not in study.ranked or study.configurations.empty:
        return []
    claims, rows = [], []
    for kind, n_latents, levels in _curves(study):
        claims.append(_points_to(study, kind, n_latents, levels))
        rows += [
            [
                escaped(kind),
                f"{n_latents:,}",
                *map(number, (l0, one.cosine, one.fvu)),
                str(one.n),
            ]
            for l0, one in zip(levels.index, levels.itertuples(), strict=True)
        ]
    if not claims:
        return []
    note = (
        "With too small an l0 latents mix features that occur together, and with too large a one "
        "they share the directions of several: either way the decoder rows of one dictionary are "
        "more alike than at the right l0 (arXiv:2508.16560). Means over the configurations of an "
        "l0 (two digits); values that noise between seeds does not tell from the lowest belong to "
        "the range, which ends at the next ones. It is a proxy, to be read beside fvu."
    )
    header = ["kind", "n_latents", "l0", NAME, "fvu", "configurations"]
    return ["## Is L0 right?", note, *claims, table(header, rows)]


def _curves(study: Study) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Per architecture and width the mean cosine at each l0, ascending."""
    rows = study.configurations.dropna(subset=[NAME, "l0", "n_latents"])
    kinds = [study.member(uid).trial.config.get("sae", {}).get("kind", "") for uid in rows.index]
    scaled = rows.assign(
        kind=kinds,
        level=rows["l0"].map(lambda l0: float(f"{l0:.1e}")),
        log=configurations.on_scale(rows, METRICS[NAME]),
    )
    for (kind, _), each in scaled.groupby(["kind", "n_latents"], sort=True):
        levels = each.groupby("level").agg(
            log=("log", "mean"), fvu=("fvu", "mean"), n=("log", "size"), seeds=("seeds", "sum")
        )
        if len(levels) >= FEWEST:
            yield (
                str(kind),
                int(each["n_latents"].iloc[0]),
                levels.assign(cosine=10.0 ** levels["log"]),
            )


def _points_to(study: Study, kind: str, n_latents: int, levels: pd.DataFrame) -> PointsTo:
    log, seeds = levels["log"].to_numpy(), levels["seeds"].to_numpy()
    best = int(log.argmin())
    found = noise.floor(study, METRICS[NAME])
    apart = (
        log > log[best] if found is None else log - log[best] > found.between(seeds, seeds[best])
    )
    lower = [i for i in range(best) if apart[i]]
    upper = [i for i in range(best + 1, len(levels)) if apart[i]]
    l0 = [float(one) for one in levels.index]
    counts = levels["n"].to_numpy()
    return PointsTo(
        kind,
        n_latents,
        len(levels),
        l0[best],
        l0[lower[-1]] if lower else None,
        l0[upper[0]] if upper else None,
        int(counts[: lower[-1] + 1].sum()) if lower else 0,
        int(counts[upper[0] :].sum()) if upper else 0,
        int(counts.sum()),
    )
