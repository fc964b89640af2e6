"""What to run next, each as a command that can be typed."""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.findings.edges import TRADED, Edge, beyond, edges
from analysis.findings.ranking import lowest, tied_with_first
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import counted, escaped, listed
from analysis.study.hyperparameters import SEEDS, Hyperparameter
from analysis.study.settings import shown
from analysis.study.table import Study
from sae_sweep.records import METRICS

PROGRAM = ["python", "-m", "sae_sweep"]
LOCAL = ("store.url", "outputs", "rerun", "dry_run")
"""Overrides that belong to one start or one machine."""
SEVERAL = 3
"""Seeds per configuration to suggest where there was one."""
MOST_TRIALS = 60
"""Further trials up to which all configurations are repeated; above it only the first three."""
MOST_CELLS = 2


@dataclass(frozen=True)
class NextRun:
    """Something worth running, why, and how."""

    reason: str
    command: str | None
    """None where the sweep was not run by this program's command line."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return f"{self.reason}." if self.command is None else f"{self.reason}: `{self.command}`"


def next_runs(study: Study) -> list[Claim]:
    """The runs that would answer what this sweep leaves open; unfinished ones first."""
    parts = (_ended_badly, _seeds, _wider, _empty_cells)
    return [one for part in parts for one in part(study)]


def command(study: Study, changes: Mapping[str, str]) -> str | None:
    """The sweep's own command with some overrides given anew."""
    try:
        words = shlex.split(study.run.command)
    except ValueError:
        return None
    if words[: len(PROGRAM)] != PROGRAM:
        return None
    overrides: dict[str, str] = {}
    rest = iter(words[len(PROGRAM) :])
    for word in rest:
        key, equals, value = word.partition("=")
        if word == "--config-dir":
            next(rest, None)
        elif equals and not key.startswith("--") and key.lstrip("+") not in LOCAL:
            overrides[key] = shown(value)
    overrides |= changes
    return " ".join([*PROGRAM, *(_quoted(f"{key}={one}") for key, one in overrides.items())])


def _quoted(word: str) -> str:
    """A word as a shell takes it; brackets stay bare, as they are written everywhere else."""
    return word if re.fullmatch(r"[\w.,:+=/\[\]-]+", word) else shlex.quote(word)


def written(value: Any) -> str:
    """A value as the command line reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def grid(values: Sequence[Any]) -> str:
    """An axis as the command line reads it."""
    return f"[{','.join(map(written, values))}]"


def _named(study: Study, suffix: str) -> dict[str, str]:
    """Another name, for a start that asks for other trials than this sweep."""
    return {"sweep.name": f"{study.run.name[:80]}_{suffix}"}


def _renamed_if_searched(study: Study) -> dict[str, str]:
    """A search keeps its space under its name; a grid may grow."""
    kind = study.run.config.get("search", {}).get("kind", "grid")
    return {} if kind == "grid" else _named(study, "wider")


def _ended_badly(study: Study) -> Iterator[NextRun]:
    counts = Counter(study.trials["status"])
    open_ = sum(counts[one] for one in ("queued", "running", "interrupted"))
    if open_ and not study.run.alive:
        yield NextRun(f"Continue {counted(open_, 'trial')} that did not end", command(study, {}))
    failed = counts["failed"] + counts["oom"]
    if failed:
        again = command(study, {"rerun": "failed"})
        yield NextRun(f"Run {counted(failed, 'failed trial')} again", again)


def _seeds(study: Study) -> Iterator[NextRun]:
    rows = lowest(study, "fvu")
    if len(rows) < 2 or any(key in _space(study) for key in SEEDS):
        return
    seeds = int(study.configurations["seeds"].max())
    tied = tied_with_first(study, METRICS["fvu"], rows)
    if noise.floor(study, METRICS["fvu"]) is None:
        wanted, reason = SEVERAL, "learn the noise"
    elif tied is not None and tied.sum() > 1:
        wanted = 2 * seeds
        reason = f"tell apart the {int(tied.sum()):,} configurations tied for lowest fvu"
    else:
        return
    further = len(rows) * (wanted - seeds)
    if further <= MOST_TRIALS:
        words = f"Give every configuration {wanted} seeds, {counted(further, 'further trial')}, to "
        yield NextRun(words + reason, command(study, {"sweep.seeds": str(wanted)}))
        return
    for i, uid in enumerate(map(str, rows.index[:3]), start=1):
        given = {k: v for k, v in study.member(uid).assignment.items() if k not in SEEDS}
        pinned = {key: written(value) for key, value in given.items()}
        changes = {**pinned, "sweep.seeds": str(wanted), **_named(study, f"seeds_{i}")}
        words = f"Give the configuration ranked {i} by fvu {wanted} seeds, to {reason}"
        yield NextRun(words, command(study, changes))


def _wider(study: Study) -> Iterator[NextRun]:
    for edge in edges(study):
        one = edge.hyperparameter
        if not _is_free(study, one):
            continue
        next_ = beyond(edge)
        word, *_ = _space(study).get(one.key, {"grid": None})
        if next_ is None or not _allowed(study, one, next_) or word not in ("grid", "loguniform"):
            continue
        if word == "grid":
            low_first = edge.end == "smallest"
            axis = grid([next_, *edge.given] if low_first else [*edge.given, next_])
        else:
            axis = _widened(study, edge)
        reason = (
            f"Widen {escaped(one.name)} beyond its {edge.end} value {edge.value:g}, "
            "where fvu still falls"
        )
        yield NextRun(reason, command(study, {one.key: axis, **_renamed_if_searched(study)}))


def _widened(study: Study, edge: Edge) -> str:
    """A drawn axis with half a decade more at one end."""
    low, high = _space(study)[edge.hyperparameter.key]["loguniform"]
    ends = (low / 10**0.5, high) if edge.end == "smallest" else (low, high * 10**0.5)
    return f"{{loguniform:[{ends[0]:.3g},{ends[1]:.3g}]}}"


def _allowed(study: Study, one: Hyperparameter, value: float) -> bool:
    """Whether the settings take a value: shares and decays end below 1, k at the width."""
    name = one.key.rsplit(".", maxsplit=1)[-1]
    if name == "k":
        return value <= study.trials["n_latents"].min()
    if name in ("beta1", "beta2", "aux_target", "l0_target") or "fraction" in name:
        return value < 1
    return one.key in TRADED or one.key.startswith(("train.", "sae."))


def _space(study: Study) -> dict[str, Any]:
    return study.run.config.get("sweep", {}).get("space", {})


def _is_free(study: Study, one: Hyperparameter) -> bool:
    """Whether the axis stands for itself: not tied to others, not under a condition."""
    sweep = study.run.config.get("sweep", {})
    tied = {key for group in sweep.get("zip", []) for key in group["keys"]}
    conditional = {key for when in sweep.get("when", []) for key in when["space"]}
    return one.key not in tied | conditional


def _empty_cells(study: Study) -> Iterator[NextRun]:
    """Pairs of levels that nobody asked for, of axes that stand for themselves."""
    plain = [one for one in study.hyperparameters if one.kind == "numeric" and _is_free(study, one)]
    plain = [one for one in plain if len(set(map(str, one.given))) == len(one.order)]
    found = []
    for one, other in itertools.combinations(plain, 2):
        asked = set(zip(one.given, other.given, strict=True))
        pairs = itertools.product(sorted(set(one.given)), sorted(set(other.given)))
        found += [[(one, a), (other, b)] for a, b in pairs if (a, b) not in asked]
    for i, cell in enumerate(found[:MOST_CELLS], start=1):
        levels = listed([f"{escaped(one.name)} {value:g}" for one, value in cell])
        pinned = {one.key: written(value) for one, value in cell}
        changes = {**pinned, **_named(study, f"cell_{i}")}
        yield NextRun(f"Fill the empty cell of {levels}", command(study, changes))


def next_steps(context: ReportContext) -> list[Block]:
    """What to run next, as commands."""
    study = context.study
    found: Sequence[Claim] = next_runs(study)
    if not found:
        return []
    note = (
        "Trials that are done are not trained again. A store, an `outputs` folder or a "
        "`--config-dir` that the run's own command named is left out here: add it."
    )
    return ["## What to run next", note, *found]
