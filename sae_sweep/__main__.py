"""`python -m sae_sweep`."""

import sys

from sae_sweep.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
