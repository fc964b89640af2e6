"""Where a command finds the store: --store, else SAE_SWEEP_STORE, else a file in --outputs."""

import argparse
import os
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.remote import local_folder, remote_of

VARIABLE = "SAE_SWEEP_STORE"
OUTPUTS = Path("outputs")


def default_url(outputs: Path) -> str:
    """The SQLite file that is used where no URL is given."""
    return f"sqlite:///{outputs / 'sae_sweep.db'}"


def add_options(parser: argparse.ArgumentParser, *, store: bool = True) -> None:
    """Let a command take --outputs and, where it reads one, --store."""
    parser.add_argument(
        "--outputs",
        metavar="DIR",
        type=_outputs,
        default=OUTPUTS,
        help="a folder or the URL of one; default: outputs",
    )
    if store:
        parser.add_argument(
            "--store", metavar="URL", help=f"default: {VARIABLE}, else OUTPUTS/sae_sweep.db"
        )


def chosen_url(options: argparse.Namespace) -> str:
    """The store that a command's options name.

    Raises:
        BadInput: none, and outputs are remote: no SQLite file can lie there.
    """
    given = options.store or os.environ.get(VARIABLE)
    outputs = options.outputs or OUTPUTS
    remote = None if given else remote_of(outputs)
    if remote is not None:
        raise BadInput(
            f"--outputs {remote.url} holds no store: name its PostgreSQL with --store or {VARIABLE}"
        )
    return given or default_url(outputs)


def _outputs(text: str) -> Path:
    """The folder of outputs on this machine."""
    try:
        return local_folder(text)
    except BadInput as error:  # argparse shows the words of this type only
        raise argparse.ArgumentTypeError(str(error)) from None
