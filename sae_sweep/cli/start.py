"""The console script `sae-sweep`, and `python -m sae_sweep`."""

import sys
from typing import NoReturn

from sae_sweep import process
from sae_sweep.cli.main import main


def start() -> NoReturn:
    """Run this process's command line and leave with its exit code."""
    process.run(main, endless=sys.argv[1:2] == ["watch"])
