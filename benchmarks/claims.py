"""What the report claims of sweeps whose truth is known: how often wrongly, how often at all.

    python -m benchmarks.claims

No training: final metrics are drawn (`benchmarks/planted.py`). The table stands in
benchmarks/README.md.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.page.blocks import Claim
from analysis.statistics.multiplicity import CLAIMED
from analysis.topics.effects.claims import Goes
from analysis.topics.interactions import Interacts
from benchmarks import readme
from benchmarks.claims_kinds import NOTHING, PLANTED, Kind, outside, said, study_of
from benchmarks.planted import Planted, any_noise, claimed, sweep
from benchmarks.step_table import markdown

HERE = Path(__file__).parent


class Case(NamedTuple):
    """Sweeps of one make, and what counts as a true claim of them."""

    name: str
    make: Callable[[np.random.Generator], Planted]
    sweeps: int
    is_true: Callable[[Claim], bool]


def _nothing(_claim: Claim) -> bool:
    return False


def _of_lr(claim: Claim) -> bool:
    return getattr(claim, "hyperparameter", None) == "lr" and getattr(claim, "metric", "") == "fvu"


def _falls(claim: Claim) -> bool:
    """Any sentence on lr and fvu, but a direction only if it is the right one."""
    return _of_lr(claim) and not (isinstance(claim, Goes) and claim.sign > 0)


def _joint(claim: Claim) -> bool:
    if not isinstance(claim, Interacts) or claim.metric != "fvu":
        return False
    return {claim.first, claim.second} == {"lr", "expansion_factor"}


def _fixed(planted: Planted) -> Callable[[np.random.Generator], Planted]:
    return lambda _: planted


def cases(noise_sweeps: int, sweeps: int) -> list[Case]:
    """Noise of every kind, then effects of several sizes, tied settings and interactions."""
    found = [Case("nothing", any_noise, noise_sweeps, _nothing)]
    for size in (1.0, 2.0, 3.0, 5.0):
        planted = Planted(effect=size, seeds=2)
        found.append(Case(f"lr, {size:g} sd", _fixed(planted), sweeps, _falls))
    for tie in (0.6, 0.9):
        planted = Planted(effect=5.0, confounding=tie, seeds=2)
        name = f"lr, 5 sd; width follows lr in {tie:.0%}"
        found.append(Case(name, _fixed(planted), sweeps, _falls))
    for size in (4.0, 8.0):
        planted = Planted(effect=4.0, interaction=size, seeds=2)
        name = f"lr, 4 sd; lr with width, {size:g} sd"
        found.append(Case(name, _fixed(planted), sweeps, lambda one: _falls(one) or _joint(one)))
    return found


def run(case: Case) -> list[str]:
    """A row: sweeps in which each planted thing is found, and sweeps with a false claim."""
    effect = joint = false = 0
    for seed in range(case.sweeps):
        rng = np.random.default_rng(seed)
        told = claimed(sweep(case.make(rng), rng))
        effect += any(map(_falls, told))
        joint += any(map(_joint, told))
        false += any(not case.is_true(one) for one in told)
    plants = [case.is_true is not _nothing, "with width" in case.name]
    cells = [
        _share(count, case.sweeps) if planted else ""
        for count, planted in zip((effect, joint), plants, strict=True)
    ]
    return [case.name, f"{case.sweeps:,}", *cells, _share(false, case.sweeps)]


def _share(count: int, n: int) -> str:
    bounds = stats.binomtest(count, n).proportion_ci(method="wilson")
    return f"{100 * count / n:.1f} % [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}]"


def run_kind(kind: Kind, sweeps: int) -> list[str]:
    """A row of a misleading kind: found, contradicted; false claims in and outside the families."""
    found = wrong = false = beside = 0
    for seed in range(sweeps):
        study = study_of(kind.make(np.random.default_rng(seed)))
        told = said(study)
        if kind.found is None:
            false += bool(told)
            beside += bool(outside(study))
        else:
            found += any(map(kind.found, told))
            wrong += any(map(kind.wrong, told))
    if kind.found is None:
        cells = ["", "", _share(false, sweeps), _share(beside, sweeps)]
    else:
        cells = [_share(found, sweeps), _share(wrong, sweeps), "", ""]
    return [kind.name, f"{sweeps:,}", *cells]


def render(rows: list[list[str]], options: str) -> str:
    """Write the section of noise and single effects."""
    header = ["planted", "sweeps", "effect found", "interaction found", "something false claimed"]
    return (
        f"{_stated(options)}; declared rate of false claims: {CLAIMED:.0%} of the sweeps where "
        f"nothing has an effect.\n\n{markdown(header, rows)}"
    )


def render_kinds(rows: list[list[str]], options: str) -> str:
    """Write the section of the kinds that mislead."""
    header = ["kind", "sweeps", "found", "contradicted", "false claim", "false statement beside"]
    return f"{_stated(options)}.\n\n{markdown(header, rows)}"


def _stated(options: str) -> str:
    today = datetime.now(UTC).date().isoformat()
    return f"`python -m benchmarks.claims{options}`, {today}; in brackets 95 % Wilson intervals"


def main() -> None:
    """Draw, count, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--noise-sweeps", type=int, default=600)
    parser.add_argument("--sweeps", type=int, default=60, help="of each other row")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    parser.add_argument("--null-sweeps", type=int, default=200, help="of each misleading kind")
    parser.add_argument("--planted-sweeps", type=int, default=40, help="of each planted kind")
    arguments = parser.parse_args()
    given = [
        f" --{name.replace('_', '-')} {value}"
        for name, value in vars(arguments).items()
        if value != parser.get_default(name)
    ]
    kinds, rows = [], []
    for kind in [*NOTHING, *PLANTED]:
        n = arguments.null_sweeps if kind.found is None else arguments.planted_sweeps
        kinds.append(run_kind(kind, n))
        print(kinds[-1], flush=True)
    for case in cases(arguments.noise_sweeps, arguments.sweeps):
        if case.sweeps:
            rows.append(run(case))
            print(rows[-1], flush=True)
    readme.replace(arguments.readme, "claims-kinds", render_kinds(kinds, "".join(given)))
    if rows:
        readme.replace(arguments.readme, "claims", render(rows, "".join(given)))


if __name__ == "__main__":
    main()
