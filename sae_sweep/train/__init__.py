"""Training: an engine that advances many trials, their state, schedules and evaluation."""

from sae_sweep.train.checkpoint import State
from sae_sweep.train.device import require_device
from sae_sweep.train.engine import Engine, NoRoom
from sae_sweep.train.evaluation import Evaluation, evaluate, report
from sae_sweep.train.source import ActivationSource

__all__ = [
    "ActivationSource",
    "Engine",
    "Evaluation",
    "NoRoom",
    "State",
    "evaluate",
    "report",
    "require_device",
]
