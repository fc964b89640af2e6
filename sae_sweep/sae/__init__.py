"""Sparse autoencoders: one final class per architecture, one interface."""

from sae_sweep.sae.base import AbstractSae, Normalisation, SaeOutput
from sae_sweep.sae.exports import LAYOUTS, export
from sae_sweep.sae.factory import build
from sae_sweep.sae.initialise import calibrate, geometric_median
from sae_sweep.sae.l1 import L1Sae
from sae_sweep.sae.topk import TopKSae
from sae_sweep.sae.weights import WEIGHTS_FILE, load, save, wrong_with

__all__ = [
    "LAYOUTS",
    "WEIGHTS_FILE",
    "AbstractSae",
    "L1Sae",
    "Normalisation",
    "SaeOutput",
    "TopKSae",
    "build",
    "calibrate",
    "export",
    "geometric_median",
    "load",
    "save",
    "wrong_with",
]
