"""The setting for a wanted L0: k itself, or an l1_alpha from past trials with its interval."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from analysis.page.markdown import counted, listed, number
from analysis.study.settings import text
from sae_sweep.errors import BadInput
from sae_sweep.records import COUNTS, L0_SETTINGS, TrialRecord
from sae_sweep.rules import history, response
from sae_sweep.rules.response import Observation, Posterior

LEAST_ALPHAS = 4
"""Distinct l1_alpha without which there is no curve."""
LEAST_WIDTHS, LEAST_ALPHAS_A_WIDTH = 3, 3
"""Without which the power of the width has no degrees of freedom."""
FARTHEST = 0.5
"""Decades beyond what was trained from which an answer is refused."""
LAST = 3
"""Trials nearest to the target that are named."""


class Wanted(NamedTuple):
    """The requested target."""

    target: float
    """Share of active latents."""
    d: int
    n_latents: int
    activations: str | None
    """Beginning of a fingerprint."""
    kind: str = "l1"
    """Architecture."""


def suggest(records: Sequence[TrialRecord], wanted: Wanted) -> str:
    """Answer in a few lines.

    Raises:
        BadInput: what was trained does not say; the message says why.
    """
    if not 0 < wanted.target < 1:
        share = wanted.target / wanted.n_latents
        raise BadInput(
            f"--target-l0={wanted.target:g} is no share of the latents between 0 and 1: a count of "
            f"{wanted.target:g} in {wanted.n_latents:,} is --target-l0 {share:.3g}"
        )
    if wanted.kind not in L0_SETTINGS:
        raise BadInput(f"--kind={wanted.kind}: choose one of {', '.join(L0_SETTINGS)}")
    moves = L0_SETTINGS[wanted.kind][0]
    if moves in COUNTS:
        count = max(1, round(wanted.target * wanted.n_latents))
        return (
            f"sae.{moves} = {count}, for l0_fraction {wanted.target:g} of {wanted.n_latents:,} "
            f"latents: {wanted.kind} is told its L0, and no past trial is asked"
        )
    penalised = filter(history.is_usable, records)
    of_kind = [one for one in penalised if one.config["sae"].get("kind") == wanted.kind]
    usable = _of_activations(of_kind, wanted)
    past = history.comparable(usable, history.curves(usable)[0][0].config)
    known = past.observations
    _refuse_too_few(known)
    exponent_known = _refuse_unknown_width(known, wanted)
    alphas = [one.l1_alpha for one in known]
    posterior = response.fit(known, wanted.n_latents, (min(alphas), max(alphas)))
    answer = _answer(posterior, known, wanted)
    lines = [answer, *_why(past, wanted), *_nearest(past.records, wanted)]
    lines.append(_exponent(posterior, wanted, known=exponent_known))
    if left_out := history.left_out_in_words(past.left_out):
        lines.append(left_out)
    return "\n".join(lines)


def _of_activations(usable: list[TrialRecord], wanted: Wanted) -> list[TrialRecord]:
    """The trials of the one source of activations that is meant."""
    of_width = [one for one in usable if one.config["activations"].get("d") == wanted.d]
    if not of_width:
        widths = sorted({one.config["activations"].get("d") for one in usable})
        there = f"there are d = {listed(list(map(str, widths)))}" if widths else "there is none"
        raise BadInput(
            f"--d={wanted.d}: no finished trial of kind {wanted.kind} has activations of this "
            f"width ({there}): run one first, e.g. python -m sae_sweep +sweep=target_l0"
        )
    found: dict[str, list[TrialRecord]] = {}
    for one in of_width:
        found.setdefault(one.config["activations"]["fingerprint"], []).append(one)
    named = [one for one in found if wanted.activations and one.startswith(wanted.activations)]
    chosen = named if wanted.activations else list(found)
    if len(chosen) == 1:
        return found[chosen[0]]
    shown = "; ".join(f"{one} ({_source(trials)})" for one, trials in found.items())
    given = f"--activations={wanted.activations}: " if wanted.activations else ""
    raise BadInput(
        f"{given}trials of {len(found)} sources have d = {wanted.d}: {shown}; choose one with "
        "--activations FINGERPRINT"
    )


def _source(trials: list[TrialRecord]) -> str:
    said = trials[0].config["activations"]
    names = [f"{key} {text(said[key])}" for key in ("model", "layer", "files") if key in said]
    return ", ".join([*names, counted(len(trials), "trial")])


def _refuse_too_few(known: list[Observation]) -> None:
    alphas = {one.l1_alpha for one in known}
    if len(alphas) < LEAST_ALPHAS:
        raise BadInput(
            f"{counted(len(alphas), 'distinct l1_alpha')} among comparable trials, and a curve "
            f"needs {LEAST_ALPHAS}: run more, e.g. python -m sae_sweep +sweep=target_l0"
        )
    contradiction = response.rise(known)
    if contradiction is not None:
        lower, higher = contradiction
        raise BadInput(
            f"the response is not monotone: l0_fraction {number(lower.l0_fraction)} at "
            f"l1_alpha {lower.l1_alpha:g} (n_latents {lower.n_latents:,}) and "
            f"{number(higher.l0_fraction)} at {higher.l1_alpha:g} ({higher.n_latents:,}), where it "
            "should fall: no curve follows from these trials; find out which of them went wrong"
        )


def estimable(known: list[Observation]) -> list[int]:
    """The widths with enough l1_alpha to count for the width's power."""
    alphas: dict[int, set[float]] = {}
    for one in known:
        alphas.setdefault(one.n_latents, set()).add(one.l1_alpha)
    return sorted(m for m, found in alphas.items() if len(found) >= LEAST_ALPHAS_A_WIDTH)


def _refuse_unknown_width(known: list[Observation], wanted: Wanted) -> bool:
    """Refuse a width that nothing speaks of; returns whether its power can be estimated."""
    enough = estimable(known)
    can = len(enough) >= LEAST_WIDTHS
    widths = sorted({one.n_latents for one in known})
    if wanted.n_latents in widths:
        return can
    shown = listed([f"{m:,}" for m in widths])
    if not can:
        raise BadInput(
            f"--n-latents={wanted.n_latents}: not run yet, and how l1_alpha changes with the width "
            f"cannot be estimated from {counted(len(enough), 'width')} (< {LEAST_WIDTHS}) with "
            f"{LEAST_ALPHAS_A_WIDTH} l1_alpha or more; there are {shown}. Let a search find it, "
            f"which learns from these: +sweep=target_l0 sae.expansion_factor=null "
            f"sae.n_latents={wanted.n_latents}"
        )
    decades = _beyond(widths, wanted.n_latents)
    if decades > FARTHEST:
        raise BadInput(
            f"--n-latents={wanted.n_latents} is {decades:.1f} decades beyond the widths that were "
            f"run ({shown}), and beyond {FARTHEST:g} nothing is said: run a width in between"
        )
    return can


def _beyond(widths: Sequence[int], n_latents: int) -> float:
    """Decades by which a width lies outside of others; 0 or less inside."""
    return max(math.log10(min(widths) / n_latents), math.log10(n_latents / max(widths)))


def _answer(posterior: Posterior, known: list[Observation], wanted: Wanted) -> str:
    low, middle, high = posterior.interval(wanted.target)
    here = [one for one in known if one.n_latents == wanted.n_latents] or known
    first, last = min(one.l1_alpha for one in here), max(one.l1_alpha for one in here)
    met = 0 < middle < math.inf
    beyond = max(math.log10(first / middle), math.log10(middle / last)) if met else math.inf
    if beyond > FARTHEST:
        where = f"near {middle:.3g}" if met else "that no curve reaches"
        raise BadInput(
            f"--target-l0={wanted.target:g} would need an l1_alpha {where}, more than "
            f"{FARTHEST:g} decades beyond the {first:g} to {last:g} that were trained: nothing is "
            "said there; run trials nearer to it"
        )
    wider = _beyond([one.n_latents for one in known], wanted.n_latents)
    farther = {"the l1_alpha that were trained": beyond, "the widths that were run": wider}
    banner = "".join(
        f"\nEXTRAPOLATION: {decades:.2f} decades beyond {what}"
        for what, decades in farther.items()
        if decades > 0
    )
    return (
        f"sae.l1_alpha = {middle:.3g}, 95 % interval {low:.3g} to {high:.3g}, for l0_fraction "
        f"{wanted.target:g} ({wanted.target * wanted.n_latents:.4g} of {wanted.n_latents:,} "
        f"latents){banner}"
    )


def _why(past: history.Past, wanted: Wanted) -> list[str]:
    config = past.records[0].config
    sae, train, source = config["sae"], config["train"], config["activations"]
    alphas = [one.l1_alpha for one in past.observations]
    counts = Counter(one.n_latents for one in past.observations)
    widths = listed([f"{m:,} ({n})" for m, n in sorted(counts.items())])
    tokens = train.get("steps", 0) * train.get("batch_size", 0)
    wobble = sorted(one.oscillation for one in past.observations)[len(alphas) // 2]
    return [
        f"from {counted(len(alphas), 'trial')}, l1_alpha {min(alphas):g} to {max(alphas):g}, at "
        f"n_latents {widths}; activations {source['fingerprint']}, d = {wanted.d}, "
        f"{tokens:,} training tokens at lr {text(train.get('lr'))}, l1_norm {sae.get('l1_norm')}",
        f"the interval contains l0's own oscillation over the last half of training "
        f"({100 * wobble:.1f} % in the median)",
    ]


def _nearest(records: list[TrialRecord], wanted: Wanted) -> list[str]:
    """The trials whose L0 is nearest, at this width where there are some."""

    def distance(record: TrialRecord) -> tuple[bool, float]:
        one = history.observation(record)
        off = abs(math.log(max(one.l0_fraction, 1e-9) / wanted.target))
        return one.n_latents != wanted.n_latents, off

    return [
        f"nearest: {record.label} ({record.uid}): l0_fraction {number(record.final['l0_fraction'])}"
        f" at l1_alpha {record.config['sae']['l1_alpha']:g}, fvu {number(record.final.get('fvu'))}"
        for record in sorted(records, key=distance)[:LAST]
    ]


def _exponent(posterior: Posterior, wanted: Wanted, *, known: bool) -> str:
    if not known:
        return (
            f"width: how l1_alpha changes with n_latents cannot be estimated (< {LEAST_WIDTHS} "
            f"widths with {LEAST_ALPHAS_A_WIDTH} l1_alpha or more)"
        )
    low, middle, high = posterior.exponent(wanted.target)
    return (
        f"width: at this l0_fraction l1_alpha goes as n_latents to the power {middle:.2f}, 95 % "
        f"interval {low:.2f} to {high:.2f}"
    )
