"""What the report claims of sweeps whose truth is known: how often wrongly, how often at all.

    python -m benchmarks.claims

No training: final metrics are drawn (`benchmarks/planted.py`, `claims_null.py`,
`claims_planted.py`). The tables stand in benchmarks/README.md; counts by kind in
`results/claims.jsonl`, so that kinds can be run in parts.
"""

import argparse
import json
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
from benchmarks.claims_kinds import Kind, is_of_others, outside, said, study_of
from benchmarks.claims_null import NOTHING
from benchmarks.claims_planted import PLANTED
from benchmarks.planted import Planted, any_noise, claimed, sweep
from benchmarks.step_table import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "claims.jsonl"


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


class Counted(NamedTuple):
    """Sweeps of one kind, and in how many of them something happened."""

    kind: str
    date: str
    sweeps: int
    found: int
    """What was planted is told."""
    wrong: int
    """A claim contradicts it."""
    false: int
    """Something is claimed of a setting that does not matter."""
    beside: int
    """Something false is stated outside the families of tests; counted where nothing matters."""


def run_kind(kind: Kind, sweeps: int) -> Counted:
    """Draw, import and read the sweeps of one kind."""
    found = wrong = false = beside = 0
    for seed in range(sweeps):
        study = study_of(kind.make(np.random.default_rng(seed)))
        told = said(study)
        false += any(is_of_others(one, kind.settings) for one in told)
        if kind.found is None:
            beside += bool(outside(study))
        else:
            found += any(map(kind.found, told))
            wrong += any(map(kind.wrong, told))
    return Counted(kind.name, _today(), sweeps, found, wrong, false, beside)


def known() -> dict[str, Counted]:
    """The counts of each kind's last run."""
    if not RESULTS.exists():
        return {}
    rows = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {row["kind"]: Counted(**row) for row in rows}


def keep(counts: Counted) -> None:
    """Put a kind's counts in the place of its last ones."""
    rows = {**known(), counts.kind: counts}
    text = "".join(f"{json.dumps(one._asdict())}\n" for one in rows.values())
    RESULTS.write_text(text, encoding="utf-8")


def render(rows: list[list[str]], options: str) -> str:
    """Write the section of noise and single effects."""
    header = ["planted", "sweeps", "effect found", "interaction found", "something false claimed"]
    return (
        f"{_stated(options)}; declared rate of false claims: {CLAIMED:.0%} of the sweeps where "
        f"nothing has an effect.\n\n{markdown(header, rows)}"
    )


def render_kinds(options: str) -> str:
    """Write the section of the kinds that mislead."""
    rows = known()
    nothing = [
        [one.name, f"{got.sweeps:,}", _share(got.false, got.sweeps), _share(got.beside, got.sweeps)]
        for one in NOTHING
        if (got := rows.get(one.name))
    ]
    planted = [
        [
            one.name,
            f"{got.sweeps:,}",
            *(_share(count, got.sweeps) for count in (got.found, got.wrong, got.false)),
        ]
        for one in PLANTED
        if (got := rows.get(one.name))
    ]
    heads = (
        ["nothing matters", "sweeps", "false claim", "false statement beside"],
        ["planted", "sweeps", "found", "contradicted", "another setting claimed"],
    )
    return "\n\n".join(
        [f"{_stated(options)}.", markdown(heads[0], nothing), markdown(heads[1], planted)]
    )


def _stated(options: str) -> str:
    return f"`python -m benchmarks.claims{options}`, {_today()}; in brackets 95 % Wilson intervals"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def main() -> None:
    """Draw, count, renew the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--noise-sweeps", type=int, default=600)
    parser.add_argument("--sweeps", type=int, default=60, help="of each other row")
    parser.add_argument("--kinds", nargs="*", help="only these, by name, and none of the others")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="gets the table")
    parser.add_argument("--null-sweeps", type=int, default=200, help="of each kind without effects")
    parser.add_argument("--planted-sweeps", type=int, default=40, help="of each kind with one")
    arguments = parser.parse_args()
    given = [
        f" --{name.replace('_', '-')} {value}"
        for name, value in vars(arguments).items()
        if value != parser.get_default(name) and name not in ("kinds", "readme")
    ]
    for kind in [*NOTHING, *PLANTED]:
        if not arguments.kinds or kind.name in arguments.kinds:
            n = arguments.null_sweeps if kind.found is None else arguments.planted_sweeps
            keep(run_kind(kind, n))
            print(known()[kind.name], flush=True)
    readme.replace(arguments.readme, "claims-kinds", render_kinds("".join(given)))
    rows = []
    for case in [] if arguments.kinds else cases(arguments.noise_sweeps, arguments.sweeps):
        rows.append(run(case))
        print(rows[-1], flush=True)
    if rows:
        readme.replace(arguments.readme, "claims", render(rows, "".join(given)))


if __name__ == "__main__":
    main()
