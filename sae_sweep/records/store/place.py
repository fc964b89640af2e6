"""Where a command finds the store: --store, else SAE_SWEEP_STORE, else a file in --outputs."""

import argparse
import os
from pathlib import Path

VARIABLE = "SAE_SWEEP_STORE"
OUTPUTS = Path("outputs")


def default_url(outputs: Path) -> str:
    """The SQLite file that is used where no URL is given."""
    return f"sqlite:///{outputs / 'sae_sweep.db'}"


def add_options(parser: argparse.ArgumentParser, *, store: bool = True) -> None:
    """Let a command take --outputs and, where it reads one, --store."""
    parser.add_argument(
        "--outputs", metavar="DIR", type=Path, default=OUTPUTS, help="default: outputs"
    )
    if store:
        parser.add_argument(
            "--store", metavar="URL", help=f"default: {VARIABLE}, else OUTPUTS/sae_sweep.db"
        )


def chosen_url(options: argparse.Namespace) -> str:
    """The store that a command's options name."""
    return options.store or os.environ.get(VARIABLE) or default_url(options.outputs or OUTPUTS)
