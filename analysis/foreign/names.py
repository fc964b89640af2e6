"""Settings read from a run's name, e.g. exp32_k1024_lr3e-04_aux1e+00_tgt2e-02."""

import re
from typing import NamedTuple

FLOAT = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
PARTS = {
    rf"exp({FLOAT})": "sae.expansion_factor",
    r"m(\d+)": "sae.n_latents",
    r"k(\d+)": "sae.k",
    rf"l1a({FLOAT})": "sae.l1_alpha",
    rf"lr({FLOAT})": "train.lr",
    rf"aux({FLOAT})": "sae.aux_coeff",
    rf"tgt({FLOAT})": "sae.aux_target",
    rf"l0t({FLOAT})": "train.l0_target",
    r"s(\d+)": "train.seed",
}
FEWEST = 2
"""Parts that must be understood before a name counts as settings."""


class Told(NamedTuple):
    """One setting as read from a name."""

    value: float
    text: str

    def agrees(self, value: object) -> bool:
        """Whether a setting, rounded as the name rounds, is what the name tells."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if "e" not in self.text:
            return value == self.value
        digits = len(self.text.partition("e")[0].partition(".")[2])
        return float(f"{value:.{digits}e}") == self.value


def parse(name: str) -> dict[str, Told]:
    """The settings in a name; none unless at least two of its parts are understood."""
    found = {}
    for part in re.sub(r"-[0-9a-f]{6,}$", "", name).split("_"):
        if part == "noaux":
            found["sae.aux_coeff"] = Told(0.0, "0")
        for pattern, key in PARTS.items():
            if match := re.fullmatch(pattern, part):
                found[key] = Told(float(match[1]), match[1])
    return found if len(found) >= FEWEST else {}
