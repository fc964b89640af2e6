"""One training step of many autoencoders at once, in Triton.

`reference` says what every operation means. Nothing here adds with float atomics, and nothing
reduces across members: a member's bits are the same whoever shares the table with it.
"""

import os

# Triton 3.10 will not fuse products and sums by default any more: the same bits before and after
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
