"""Evaluation of finished trials, from their weights alone."""

from sae_sweep.evaluate.probing import Prober
from sae_sweep.evaluate.spliced import Evaluator, Source, can_evaluate, prepare, require

__all__ = ["Evaluator", "Prober", "Source", "can_evaluate", "prepare", "require"]
