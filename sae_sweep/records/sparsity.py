"""Which setting moves L0, by architecture: what search, rules and report need to know of each."""

from collections.abc import Mapping
from typing import Any, NamedTuple

L0_SETTINGS: dict[str, tuple[str, ...]] = {
    "topk": ("k",),
    "l1": ("l1_alpha",),
    "batchtopk": ("k",),
    "jumprelu": ("target_l0", "l0_coeff"),
    "matryoshka": ("k",),
    "gated": ("l1_alpha",),
}
"""Name below `sae.` by kind; of several the first that is given acts."""

COUNTS = frozenset({"k", "target_l0"})
"""Of these L0 is the value itself; the others are weights of a penalty: larger is sparser."""

PENALTIES: tuple[str, ...] = tuple(
    dict.fromkeys(name for names in L0_SETTINGS.values() for name in names if name not in COUNTS)
)
"""Weights of a penalty that set L0, each once."""


class L0Setting(NamedTuple):
    """The setting of a trial that moves its L0."""

    name: str
    """Below `sae.`."""
    value: float | None
    """None where the record does not hold it."""

    @property
    def is_count(self) -> bool:
        """Whether L0 is the value itself, up to latents that do not fire."""
        return self.name in COUNTS


def l0_setting(sae: Mapping[str, Any]) -> L0Setting | None:
    """Find the setting that moves L0; None for a kind that is not known.

    Args:
        sae: settings of the autoencoder, as a trial's record keeps them.

    Example:
        >>> l0_setting({"kind": "topk", "k": 32})
        L0Setting(name='k', value=32)
    """
    names = L0_SETTINGS.get(sae.get("kind", "topk"), ())
    given = [name for name in names if sae.get(name) is not None]
    found = [*given, *names]
    return L0Setting(found[0], sae.get(found[0])) if found else None
