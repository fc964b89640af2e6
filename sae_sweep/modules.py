"""Where a command finds modules; imports only what Python itself has loaded before."""

import os
import sys


def leave_working_folder() -> None:
    """Take the working folder out of the places of modules, unless this package lies there.

    `python -m` puts it first, so that a user's own analysis.py or random.py would be imported.
    """
    here = os.getcwd()  # noqa: PTH109  (pathlib may be a user's file here)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    if sys.path and sys.path[0] in ("", here) and not os.path.samefile(here, package):  # noqa: PTH121
        del sys.path[0]
