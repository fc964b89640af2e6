"""A sweep's axes, read and checked: blocks of axes and the conditions on which they exist."""

import itertools
from typing import Any, NamedTuple, get_args

from sae_sweep.config import SaeConfig, SweepConfig, TrialConfig, nearest, settings
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search.axes import Axis, read_axis, tied_levels

GROUPS = tuple(TrialConfig.model_fields)
SEEDS = ("train.seed_init", "train.seed_data")
FIELDS_OF_KIND = {
    model.model_fields["kind"].default: frozenset(model.model_fields)
    for model in get_args(get_args(SaeConfig)[0])
}
ABSENT = object()


class Point(NamedTuple):
    """One configuration of a sweep."""

    assignment: dict[str, Any]
    """What the axes say: dotted setting to value."""
    settings: dict[str, Any]
    """The groups activations, sae and train with the assignment applied; not yet validated."""


Condition = dict[str, frozenset[str]]
"""Settings, and the values (as canonical JSON) of which each must have one."""


class Block(NamedTuple):
    """Axes that a point takes together where a condition holds."""

    condition: Condition
    levels: list[list[dict[str, Any]]]
    """For each axis that is not drawn, its assignments."""
    drawn: list[Axis]

    @property
    def keys(self) -> list[str]:
        """Settings that the block sets."""
        return [*(key for level in self.levels for key in level[0]), *(a.key for a in self.drawn)]


def read_blocks(base: dict[str, Any], sweep: SweepConfig) -> list[Block]:
    """Read the axes of a sweep: those that always hold first, then conditional ones, then seeds.

    Raises:
        BadInput: for axes that make no sense, alone or together.
    """
    blocks = _blocks(sweep)
    if sweep.seeds > 1:
        _refuse_other_seeds(blocks, base, sweep.seeds)
        seeds = [dict.fromkeys(SEEDS, seed) for seed in range(sweep.seeds)]
        blocks.append(Block({}, [seeds], []))
    excluded = read_exclusions(sweep)
    _refuse_unknown(blocks, excluded, sweep.about.settings)
    _refuse_overlap(blocks)
    _refuse_unset(blocks, excluded, base)
    return blocks


def read_exclusions(sweep: SweepConfig) -> list[Condition]:
    """Read which points are left out."""
    return [_condition(one) for one in sweep.exclude]


def trial_groups(base: dict[str, Any]) -> dict[str, Any]:
    """The groups of settings that make a trial, empty where the base has none."""
    return {group: base.get(group) or {} for group in GROUPS}


def _blocks(sweep: SweepConfig) -> list[Block]:
    tied = [tied_levels(one.keys, one.values) for one in sweep.zip]
    first = _block({}, sweep.space)
    rest = [_block(_condition(one.if_), one.space) for one in sweep.when]
    return [first._replace(levels=[*first.levels, *tied]), *rest]


def _block(condition: Condition, space: dict[str, dict[str, Any]]) -> Block:
    axes = [read_axis(key, written) for key, written in space.items()]
    levels = [[{axis.key: value} for value in axis.values] for axis in axes if not axis.drawn]
    return Block(condition, levels, [axis for axis in axes if axis.drawn])


def _condition(written: dict[str, Any]) -> Condition:
    try:
        return {
            key: frozenset(map(canonical, wanted if isinstance(wanted, list) else [wanted]))
            for key, wanted in written.items()
        }
    except ValueError as error:
        raise BadInput(f"{written} in sweep.when or sweep.exclude: {error}") from None


def apply(base: dict[str, Any], assignment: dict[str, Any]) -> dict[str, Any]:
    """Put values into a copy of the base; base settings that another kind lacks are left out."""
    applied = {group: dict(base[group]) for group in GROUPS}
    kind = assignment.get("sae.kind")
    if kind in FIELDS_OF_KIND and kind != base["sae"].get("kind"):
        known = FIELDS_OF_KIND[kind]
        applied["sae"] = {name: one for name, one in applied["sae"].items() if name in known}
    for key, value in assignment.items():
        *path, name = key.split(".")
        group = applied
        for part in path:
            group[part] = dict(group.get(part) or {})
            group = group[part]
        group[name] = value
    return applied


def holds(condition: Condition, applied: dict[str, Any]) -> bool:
    """Whether settings have the values that a condition asks for."""
    for key, wanted in condition.items():
        value = look_up(applied, key)
        if value is ABSENT or canonical(value) not in wanted:
            return False
    return True


def look_up(groups: dict[str, Any], key: str, default: Any = ABSENT) -> Any:
    """Find the value of a dotted setting in nested groups."""
    found: Any = groups
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def _refuse_unknown(blocks: list[Block], excluded: list[Condition], about: list[str]) -> None:
    known = [setting.key for setting in settings(TrialConfig)]
    conditions = [block.condition for block in blocks] + excluded
    keys = itertools.chain.from_iterable([*(block.keys for block in blocks), *conditions])
    for key in [*keys, *about]:
        if key not in known:
            raise BadInput(f"{key} in the sweep: no such setting; {nearest(key, known)}")


def _refuse_overlap(blocks: list[Block]) -> None:
    """Refuse a key twice; keys of two conditions are compared where both hold."""
    first, *rest = blocks
    for block in [first._replace(levels=[], drawn=[]), *rest]:
        keys = first.keys + block.keys
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise BadInput(
                f"{twice[0]}: two axes set it in sweep.space, sweep.zip or sweep.when; keep one"
            )


def _refuse_unset(blocks: list[Block], excluded: list[Condition], base: dict[str, Any]) -> None:
    """Refuse conditions on what nothing sets before them: they would silently never hold."""
    axes: set[str] = set()
    for block in blocks:
        _refuse_unset_in("sweep.when", block.condition, axes, base)
        axes.update(block.keys)
    for condition in excluded:
        _refuse_unset_in("sweep.exclude", condition, axes, base)


def _refuse_unset_in(name: str, condition: Condition, axes: set[str], base: dict[str, Any]) -> None:
    for key in condition:
        if key not in axes and look_up(base, key) is ABSENT:
            raise BadInput(
                f"{name} asks for {key}, which neither an axis before it nor the base sets; "
                f"set it, e.g. {key}=VALUE, or drop the condition"
            )


def _refuse_other_seeds(blocks: list[Block], base: dict[str, Any], seeds: int) -> None:
    axes = {key for block in blocks for key in block.keys}
    for key in SEEDS:
        if key in axes or look_up(base, key) is not ABSENT:
            raise BadInput(
                f"sweep.seeds={seeds} sets {key}, and so does the base or an axis: keep one of them"
            )
