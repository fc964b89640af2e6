"""Where axes may be written: in the sweep, at a setting's own key, on the command line."""

from typing import Any

from sae_sweep.config import TrialConfig, settings
from sae_sweep.search.axes import distinct, tied_levels

SECTIONS = frozenset(
    setting.key.rsplit(".", depth)[0]
    for setting in settings(TrialConfig)
    for depth in range(1, setting.key.count(".") + 1)
)
"""Keys of groups of settings, such as sae and activations.synthetic: a dict there is no axis."""


def take_axes(groups: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Take the axes that stand at a trial setting's own key out of (nested) settings.

    No setting is itself a list or a dict, so either is an axis. Other groups than a trial's are
    left alone.
    """
    axes: dict[str, dict[str, Any]] = {}
    for name, value in list(groups.items()):
        key = prefix + name
        if key.split(".")[0] not in SECTIONS:
            continue
        if isinstance(value, dict) and key in SECTIONS:
            axes |= take_axes(value, key + ".")
        elif isinstance(value, dict | list):
            axes[key] = _in_words(groups.pop(name))
    return axes


def with_axes_in_words(sweep: dict[str, Any]) -> dict[str, Any]:
    """Spell a plain list in the sweep's axes as a grid; leave malformed parts to validation."""
    spelled = dict(sweep)
    if isinstance(space := sweep.get("space"), dict):
        spelled["space"] = {key: _in_words(value) for key, value in space.items()}
    if isinstance(when := sweep.get("when"), list):
        spelled["when"] = [
            with_axes_in_words(one) if isinstance(one, dict) else one for one in when
        ]
    return spelled


def replace_axis(sweep: dict[str, Any], key: str, axis: dict[str, Any] | None) -> None:
    """Put an axis in place of the sweep's own of that key, or, with None, only take that out.

    A conditional axis stays conditional. A tied key leaves its group, whose other keys stay
    tied; points that have become equal are merged, and a group of one key becomes a grid.
    """
    conditional = [one["space"] for one in sweep["when"]]
    places = [space for space in [sweep["space"], *conditional] if key in space]
    for space in places:
        if axis is None:
            del space[key]
        else:
            space[key] = axis
    sweep["when"] = [one for one in sweep["when"] if one["space"]]
    groups = [_without(tied, key) for tied in sweep["zip"]]
    sweep["zip"] = [tied for tied in groups if len(tied["keys"]) > 1]
    for tied in groups:
        if len(tied["keys"]) == 1:
            sweep["space"][tied["keys"][0]] = {"grid": [value for [value] in tied["values"]]}
    if axis is not None and not places:
        sweep["space"][key] = axis


def _without(tied: dict[str, Any], key: str) -> dict[str, Any]:
    if key not in tied["keys"]:
        return tied
    keys = [one for one in tied["keys"] if one != key]
    levels = tied_levels(tied["keys"], tied["values"])
    return {"keys": keys, "values": distinct([[level[one] for one in keys] for level in levels])}


def _in_words(value: Any) -> Any:
    return {"grid": value} if isinstance(value, list) else value
