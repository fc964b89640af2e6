"""Sweeps that were run elsewhere: their tables as records, to be reported like our own."""

from analysis.foreign.sweep import Request, import_sweep

__all__ = ["Request", "import_sweep"]
