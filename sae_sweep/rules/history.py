"""Past trials that inform the response of L0 to a penalty."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from sae_sweep.records import PENALTIES, TrialRecord, l0_setting
from sae_sweep.rules.response import Observation

FREE = {
    "sae": {*PENALTIES, "n_latents"},
    "train": {"seed_init", "seed_data", "dead_window_tokens"},
}
"""Settings that may differ: the curve's own axes, replicates, and what is only measured."""

ABSENT = object()


class Past(NamedTuple):
    """Comparable trials, and what was left out."""

    records: list[TrialRecord]
    left_out: Counter[str]
    """How many other trials with a penalty there are, by the first setting that differs."""

    @property
    def observations(self) -> list[Observation]:
        """One per trial."""
        return [observation(record) for record in self.records]


def is_usable(record: TrialRecord) -> bool:
    """Whether a trial has a penalty above 0 that sets its L0, and a measured L0."""
    moves = l0_setting(record.config.get("sae", {}))
    penalised = moves is not None and not moves.is_count and (moves.value or 0) > 0
    return penalised and record.status == "done" and record.final.get("l0_fraction") is not None


def observation(record: TrialRecord) -> Observation:
    """A usable trial as a point of the curve."""
    sae, final = record.config["sae"], record.final
    # an imported trial need not name its kind
    moves = l0_setting({"kind": "l1", **sae})
    assert moves is not None
    assert moves.value is not None
    l0 = final["l0_fraction"]
    assert l0 is not None
    mean, sd = final.get("l0_fraction_last_half"), final.get("l0_fraction_last_half_sd")
    return Observation(moves.value, sae["n_latents"], l0, sd / mean if mean and sd else 0.0)


def curves(usable: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Usable trials in groups within which `difference` is None, the largest first."""
    found: dict[Any, list[TrialRecord]] = {}
    for one in usable:
        fixed = [
            frozenset(
                (key, value) for key, value in one.config.get(group, {}).items() if key not in free
            )
            for group, free in FREE.items()
        ]
        source = one.config.get("activations", {}).get("fingerprint")
        found.setdefault((source, *fixed), []).append(one)
    return sorted(found.values(), key=len, reverse=True)


def comparable(records: Iterable[TrialRecord], like: dict[str, Any]) -> Past:
    """Choose the usable trials that differ from settings in the penalty, width and seeds alone.

    Args:
        records: past trials of any kind.
        like: resolved settings, as a trial's record keeps them.
    """
    chosen, left_out = [], Counter[str]()
    for record in filter(is_usable, records):
        different = difference(record.config, like)
        if different is None:
            chosen.append(record)
        else:
            left_out[different] += 1
    return Past(chosen, left_out)


def difference(config: dict[str, Any], like: dict[str, Any]) -> str | None:
    """The first setting that makes two curves incomparable; None where they are one curve."""
    ours, theirs = config.get("activations", {}), like.get("activations", {})
    if ours.get("fingerprint") != theirs.get("fingerprint"):
        keys = [key for key in {**theirs, **ours} if key != "fingerprint"]
        changed = [key for key in keys if ours.get(key, ABSENT) != theirs.get(key, ABSENT)]
        return f"activations.{changed[0]}" if changed else "activations"
    for group, free in FREE.items():
        ours, theirs = config.get(group, {}), like.get(group, {})
        for key in {**theirs, **ours}:
            if key not in free and ours.get(key, ABSENT) != theirs.get(key, ABSENT):
                return f"{group}.{key}"
    return None


def left_out_in_words(left_out: Counter[str]) -> str:
    """How many were left out, and why; empty where none were."""
    parts = [f"{n} with another {key}" for key, n in left_out.most_common()]
    return f"left out: {', '.join(parts)}" if parts else ""
