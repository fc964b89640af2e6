"""The fronts, with what noise makes of them, what they cover, and where they bend."""

from dataclasses import dataclass

import pandas as pd

from analysis import hypervolume, noise
from analysis.blocks import Block
from analysis.fronts import Front, chances, costs, fronts, standings
from analysis.markdown import code, counted, number
from analysis.sections.best import MOST_SETTINGS, trials_table
from analysis.sections.pictures import picture
from analysis.study import Study
from sae_sweep.records import METRICS

MOST_ON_FRONT = 30


@dataclass(frozen=True)
class OnFront:
    """How many are on a front, near it, and beaten."""

    objectives: str
    n: int
    on_front: int
    within_noise: int | None
    """None where noise is unknown."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        verb = "is" if self.on_front == 1 else "are"
        what = (
            f"Pareto front ({self.objectives}): {self.on_front:,} of "
            f"{counted(self.n, 'configuration')} {verb} on it"
        )
        rest = self.n - self.on_front
        if self.within_noise is None:
            return f"{what}, {rest:,} beaten; noise unknown."
        beaten = rest - self.within_noise
        return f"{what}, {self.within_noise:,} within noise of it, {beaten:,} clearly beaten."


@dataclass(frozen=True)
class Volume:
    """The share of objective space that a front of two objectives covers."""

    objectives: str
    volume: float
    bounds: tuple[tuple[str, float, float], ...]
    """Metric, and the values that are brought to 0 and 1, in its unit."""
    reference: float

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        spans = ", ".join(
            f"{name} {number(low)} to {number(high)} ({METRICS[name].scale})"
            for name, low, high in self.bounds
        )
        return (
            f"Hypervolume of ({self.objectives}): {number(self.volume)}, between {spans} as 0 to 1 "
            f"and the reference {self.reference:g}; comparable only with the same."
        )


@dataclass(frozen=True)
class Bend:
    """Where a front bends, on the metrics' scales and as they stand."""

    objectives: str
    label: str | None
    distance: float | None
    """From the line between the front's ends, both objectives as 0 to 1; None without a knee."""
    linear_label: str | None
    linear_distance: float | None

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        if self.label is None or self.distance is None:
            what = f"The front ({self.objectives}) has no knee on its scales"
        else:
            what = (
                f"Knee of ({self.objectives}): {code(self.label)}, {number(self.distance, 3)} "
                "from the line between the ends"
            )
        if self.linear_label is None or self.linear_distance is None:
            return f"{what}; on linear axes there is none."
        same = "the same" if self.linear_label == self.label else code(self.linear_label)
        return f"{what}; on linear axes it is {same}, {number(self.linear_distance, 3)}."


def pareto_front(study: Study) -> list[Block]:
    """The fronts with their objectives, and the configurations on them."""
    found = fronts(study)
    if not found:
        return []
    note = (
        "A configuration is on a front when no other is as good in every objective and better in "
        "one, by their means over seeds; l0 counts to four digits. Clearly beaten: one on the "
        "front is better by more than the least detectable difference somewhere and nowhere worse "
        "by more; within noise: neither. `P(on front)`: share of draws, with the noise between "
        "seeds added anew (normal, pooled sd, seed 0; fewer draws for large fronts), that leave "
        "it unbeaten. `adds`: hypervolume that would be lost without it. A knee is farther than "
        f"{hypervolume.FLAT:g} from the line between the ends of a front of three or more."
    )
    parts: list[Block] = ["## Pareto front", note]
    for i, front in enumerate(found):
        parts += [f"### {front.name}", on_front(study, front), *_shape(study, front)]
        parts.append(_table(study, front))
        parts += picture(study, "pareto_frontier", f"Pareto front: {front.name}") if i == 0 else []
    if any(len(front.uids) > MOST_ON_FRONT for front in found):
        parts.append(
            f"The first {MOST_ON_FRONT} of each; all in `data/pareto_optimal_configs.json`."
        )
    return parts


def on_front(study: Study, front: Front) -> OnFront:
    """How the configurations stand to a front."""
    known = _is_noise_known(study, front)
    near = int((standings(study, front) == "within noise").sum()) if known else None
    return OnFront(front.name, front.n, len(front.uids), near)


def _is_noise_known(study: Study, front: Front) -> bool:
    measured = [one for one in front.objectives if one.kind != "cost"]
    return all(noise.floor(study, one) is not None for one in measured)


def _shape(study: Study, front: Front) -> list[Block]:
    """Hypervolume and knee, of a front of two objectives whose values have a range."""
    points = costs(study, front)
    edges = hypervolume.bounds(points.to_numpy())
    if edges is None or len(front.objectives) != 2:
        return []
    scaled = pd.DataFrame(edges.normalised(points.to_numpy()), index=points.index)
    names = [one.name for one in front.objectives]
    raw = study.configurations.loc[points.index, names]
    spans = tuple((name, float(raw[name].min()), float(raw[name].max())) for name in names)
    volume = hypervolume.hypervolume(scaled.to_numpy())
    claims: list[Block] = [Volume(front.name, volume, spans, hypervolume.REFERENCE)]
    linear = (raw - raw.min()) / (raw.max() - raw.min())
    if len(front.uids) > 2:
        claims.append(Bend(front.name, *_knee(study, front, scaled), *_knee(study, front, linear)))
    return claims


def _knee(
    study: Study, front: Front, normalised: pd.DataFrame
) -> tuple[str, float] | tuple[None, None]:
    """Label of the knee and its distance."""
    found = hypervolume.knee(normalised.loc[front.uids].to_numpy())
    if found is None:
        return None, None
    return study.member(front.uids[found.place]).trial.label, found.distance


def _table(study: Study, front: Front) -> str:
    main = {one.name for one in study.main_metrics}
    shown = {one.name for one in study.hyperparameters[:MOST_SETTINGS]}
    rows = study.configurations.loc[front.uids]
    extra = {
        one.name: {uid: number(float(rows[one.name][uid])) for uid in front.uids}
        for one in front.objectives
        if one.name not in main | shown
    }
    found = chances(study, front)
    if found is not None:
        share, draws = found
        extra[f"P(on front), {draws:,} draws"] = {uid: f"{share[uid]:.2f}" for uid in front.uids}
    points = costs(study, front)
    edges = hypervolume.bounds(points.to_numpy())
    if edges is not None and len(front.objectives) == 2:
        added = hypervolume.contributions(edges.normalised(points.loc[front.uids].to_numpy()))
        extra["adds"] = {uid: number(one, 3) for uid, one in zip(front.uids, added, strict=True)}
    return trials_table(study, rows.head(MOST_ON_FRONT), extra)
