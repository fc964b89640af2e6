"""Whether another seed finds the same latents: matched cosines of decoder rows between seeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

from analysis.context import ReportContext
from analysis.findings.fronts import fronts
from analysis.findings.ranking import picks
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, counted, number, table
from analysis.study.table import Study, trial_folder

EXACT = 4096
"""Latents up to which rows are matched by an exact assignment."""
MOST_WORK = 4e10
"""Sum of n_latents^3 over the pairs of seeds that a report compares; one pair always is."""
BANDS = ((0.0, 0.001), (0.001, 0.01), (0.01, 1.01))
"""Frequencies of latents, from and to below which they are taken together; dead ones apart."""


@dataclass(frozen=True)
class Stability:
    """How alike the dictionaries of a configuration's seeds are."""

    label: str
    uid: str
    """Of its first trial."""
    pairs: int
    """Pairs of seeds that were compared."""
    of: int
    """Pairs of seeds that there are."""
    matched: float
    """Mean over pairs of the mean cosine of matched rows (PW-MCC)."""
    lowest: float
    highest: float

    @property
    def words(self) -> str:
        """The sentence."""
        spread = f", {number(self.lowest)} to {number(self.highest)}" if self.pairs > 1 else ""
        return (
            f"{code(self.label)} ({code(self.uid)}): matched cosine {number(self.matched)}{spread}"
            f", over {self.pairs:,} of {counted(self.of, 'pair')} of seeds."
        )


def stability(context: ReportContext) -> list[Block]:
    """A row for each recommended configuration and each on the first front with several seeds."""
    study = context.study
    claims: list[Block] = []
    rows = []
    left = MOST_WORK
    for uids in _configurations(study):
        pairs = list(combinations(uids, 2))
        n_latents = int(study.value(uids[0], "n_latents"))
        affordable = int(left / n_latents**3)
        compared = pairs[: affordable if claims else max(1, affordable)]
        if not compared:
            break
        left -= len(compared) * n_latents**3
        cosines = [matched(_rows(study, a), _rows(study, b)) for a, b in compared]
        means = [float(one.mean()) for one in cosines]
        label = study.member(uids[0]).trial.label
        mean = float(np.mean(means))
        claims.append(
            Stability(label, uids[0], len(compared), len(pairs), mean, min(means), max(means))
        )
        frequencies = [_frequency(study, a) for a, _ in compared]
        bands = _by_frequency(np.concatenate(cosines), np.concatenate(frequencies))
        how = "exact" if n_latents <= EXACT else "mutual nearest"
        rows.append([code(label), f"{n_latents:,}", how, number(mean), *bands])
    if not claims:
        return []
    note = (
        "Decoder rows of two seeds are matched one to one so that the sum of their cosines is "
        "largest, and the mean cosine of the matched rows is told (PW-MCC, arXiv:2505.20254): 1 is "
        f"the same dictionary. Exact assignment to {EXACT:,} latents; above, rows that are each "
        "other's nearest, 0 for the others. By frequency: of the first seed's latents, the share "
        "of validation tokens that they fire on."
    )
    names = [f"{low:g} to {high:g}" for low, high in BANDS[:-1]] + [f"from {BANDS[-1][0]:g}"]
    header = ["trial", "n_latents", "matching", "matched cosine", "dead", *names]
    return ["## Stability over seeds", note, *claims, table(header, rows, left=3)]


def matched(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " m"]:
    """The cosine of each row of `a` with the row of `b` that it is matched with.

    Exactly up to `EXACT` rows; above, 0 where two rows are not each other's nearest.
    """
    unit, other = (
        one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in (a, b)
    )
    if len(a) <= EXACT:
        cosine = unit @ other.T
        rows, columns = linear_sum_assignment(cosine, maximize=True)
        return cosine[rows, columns]
    nearest, value = _nearest(unit, other)
    back, _ = _nearest(other, unit)
    return np.where(back[nearest] == np.arange(len(a)), value, 0.0)


def _nearest(
    unit: Float[np.ndarray, "m d"], other: Float[np.ndarray, "m d"]
) -> tuple[Int64[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Each row's nearest among others and its cosine, a block of rows at a time."""
    parts = [unit[start : start + 1024] @ other.T for start in range(0, len(unit), 1024)]
    return (
        np.concatenate([one.argmax(axis=1) for one in parts]),
        np.concatenate([one.max(axis=1) for one in parts]),
    )


def _configurations(study: Study) -> Iterator[list[str]]:
    """The trials of each shown configuration, one per seed, where two or more have weights."""
    chosen = [pick.uid for pick in picks(study)]
    chosen += [uid for one in fronts(study)[:1] for uid in one.uids]
    ranked = study.ranked
    for uid in dict.fromkeys(chosen):
        alike = ranked[ranked["configuration"] == ranked["configuration"].loc[uid]]
        seeds = alike.drop_duplicates("seed").index
        kept = [str(one) for one in seeds if _has_weights(study, str(one))]
        if len(kept) > 1:
            yield kept


def _has_weights(study: Study, uid: str) -> bool:
    folder = trial_folder(study, uid)
    if folder is None or not (folder / "latents.parquet").exists():
        return False
    try:
        return "w_dec" in load_file(folder / "sae.safetensors")
    except (OSError, SafetensorError):
        return False


def _rows(study: Study, uid: str) -> Float[np.ndarray, "m d"]:
    folder = trial_folder(study, uid)
    assert folder is not None
    return load_file(folder / "sae.safetensors")["w_dec"].astype(np.float32)


def _frequency(study: Study, uid: str) -> Float[np.ndarray, " m"]:
    folder = trial_folder(study, uid)
    assert folder is not None
    table = pd.read_parquet(folder / "latents.parquet", columns=["id", "frequency"])
    return table.sort_values("id")["frequency"].to_numpy(dtype=float)


def _by_frequency(cosine: Float[np.ndarray, " n"], frequency: Float[np.ndarray, " n"]) -> list[str]:
    """Mean matched cosine of dead latents and of each band of frequency."""
    alive = frequency > 0
    masks = [~alive, *(alive & (frequency >= low) & (frequency < high) for low, high in BANDS)]
    return [number(float(cosine[one].mean())) if one.any() else MISSING for one in masks]
