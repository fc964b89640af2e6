"""The contract between training and analysis: metrics, trial records, identity, store."""

from sae_sweep.records.metrics import METRICS, MOST_PREFIXES, Metric
from sae_sweep.records.sparsity import L0_SETTINGS, L0Setting, l0_setting
from sae_sweep.records.trial import FINAL, STATUSES, Outcome, Row, Status, TrialRecord
from sae_sweep.records.uid import canonical, digest

__all__ = [
    "FINAL",
    "L0_SETTINGS",
    "METRICS",
    "MOST_PREFIXES",
    "STATUSES",
    "L0Setting",
    "Metric",
    "Outcome",
    "Row",
    "Status",
    "TrialRecord",
    "canonical",
    "digest",
    "l0_setting",
]
