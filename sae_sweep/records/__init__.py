"""The contract between training and analysis: metrics, trial records, identity, store."""

from sae_sweep.records.metrics import METRICS, MOST_PREFIXES, Metric
from sae_sweep.records.sparsity import COUNTS, L0_SETTINGS, PENALTIES, L0Setting, l0_setting
from sae_sweep.records.trial import (
    FINAL,
    LEFT_OUT,
    STATUSES,
    Outcome,
    Place,
    Row,
    Status,
    TrialRecord,
)
from sae_sweep.records.uid import canonical, digest

__all__ = [
    "COUNTS",
    "FINAL",
    "L0_SETTINGS",
    "LEFT_OUT",
    "METRICS",
    "MOST_PREFIXES",
    "PENALTIES",
    "STATUSES",
    "L0Setting",
    "Metric",
    "Outcome",
    "Place",
    "Row",
    "Status",
    "TrialRecord",
    "canonical",
    "digest",
    "l0_setting",
]
