"""Every setting of the tool; mirrors conf/."""

from sae_sweep.config.activations import ActivationsConfig, SyntheticConfig
from sae_sweep.config.check import settings, validate
from sae_sweep.config.names import in_words, nearest
from sae_sweep.config.run import (
    EvaluateConfig,
    ExecutorConfig,
    RunConfig,
    SweepConfig,
    TrialConfig,
)
from sae_sweep.config.sae import (
    ARCHITECTURES,
    AnySae,
    Architecture,
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    SaeConfig,
    TopKConfig,
)
from sae_sweep.config.search import Constraint, SearchConfig, read_constraint
from sae_sweep.config.stop import StopConfig
from sae_sweep.config.train import TrainConfig
from sae_sweep.config.trial import Source, Trial, resolve, risks

__all__ = [
    "ARCHITECTURES",
    "ActivationsConfig",
    "AnySae",
    "Architecture",
    "BatchTopKConfig",
    "Constraint",
    "EvaluateConfig",
    "ExecutorConfig",
    "GatedConfig",
    "JumpReluConfig",
    "L1Config",
    "MatryoshkaConfig",
    "RunConfig",
    "SaeConfig",
    "SearchConfig",
    "Source",
    "StopConfig",
    "SweepConfig",
    "SyntheticConfig",
    "TopKConfig",
    "TrainConfig",
    "Trial",
    "TrialConfig",
    "in_words",
    "nearest",
    "read_constraint",
    "resolve",
    "risks",
    "settings",
    "validate",
]
