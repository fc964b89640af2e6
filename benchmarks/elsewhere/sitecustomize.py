"""Makes a driver one of another host, with another clock; Python imports this when it starts.

ELSEWHERE is the name of the host, which takes drivers that it has not heard of for STALE_SECONDS
for dead. CLOCK_SKEW seconds are added to what its clock says.
"""

import os
import socket
import time
from pathlib import Path


def _move() -> None:
    name, real = os.environ["ELSEWHERE"], time.time
    skew = float(os.environ.get("CLOCK_SKEW", "0"))
    socket.gethostname = lambda: name
    time.time = lambda: real() + skew
    from sae_sweep.records.store import owner, writer

    owner.STALE_SECONDS = float(os.environ.get("STALE_SECONDS", "60"))
    writer.HEARTBEAT_SECONDS = owner.STALE_SECONDS / 6


if "ELSEWHERE" in os.environ and b"sae_sweep" in Path("/proc/self/cmdline").read_bytes():
    _move()
