"""Every setting of the tool; mirrors conf/."""

from sae_sweep.config.activations import ActivationsConfig, SyntheticConfig
from sae_sweep.config.check import nearest, settings, validate
from sae_sweep.config.run import (
    RESERVED_NAMES,
    ExecutorConfig,
    RunConfig,
    SearchConfig,
    SweepConfig,
    TrialConfig,
)
from sae_sweep.config.sae import L1Config, SaeConfig, TopKConfig
from sae_sweep.config.train import TrainConfig
from sae_sweep.config.trial import Source, Trial, resolve, risks

__all__ = [
    "RESERVED_NAMES",
    "ActivationsConfig",
    "ExecutorConfig",
    "L1Config",
    "RunConfig",
    "SaeConfig",
    "SearchConfig",
    "Source",
    "SweepConfig",
    "SyntheticConfig",
    "TopKConfig",
    "TrainConfig",
    "Trial",
    "TrialConfig",
    "nearest",
    "resolve",
    "risks",
    "settings",
    "validate",
]
