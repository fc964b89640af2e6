"""Whether trials were chosen adaptively, from earlier results."""

import numpy as np

from analysis.statistics.draws import is_gathered
from analysis.study.table import Study, once

ADAPTIVE = ("optuna", "target")
"""Kinds of search that choose by results."""
BLIND = ("random", "qmc")
"""Samplers that do not use results."""


@once
def adaptive(study: Study) -> tuple[str, ...]:
    """The settings whose draws follow the results, by name; empty for a design.

    A search of this program says so itself. Imported draws are looked at: see `is_gathered`.
    """
    search = study.run.config.get("search", {})
    if search.get("kind") in ADAPTIVE and search.get("sampler") not in BLIND:
        return tuple(one.name for one in study.hyperparameters)
    if study.imported is None or "fvu" not in study.scaled:
        return ()
    good = -study.scaled["fvu"].to_numpy()
    return tuple(
        one.name
        for one in study.hyperparameters
        if one.kind != "categorical"
        and is_gathered(np.array([np.nan if v is None else float(v) for v in one.given]), good)
    )
