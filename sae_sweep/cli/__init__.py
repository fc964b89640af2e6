"""The command line: compose, validate, call one function; exit codes and messages are ours."""

from sae_sweep.cli.main import main

__all__ = ["main"]
