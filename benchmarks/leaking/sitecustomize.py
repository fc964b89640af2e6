"""Makes one trial leak until its process has no memory left; Python imports this when it starts.

LEAKING is the uid of the trial. When it begins, its process may take LEAKING_BYTES more than it
has; each step of the trial keeps LEAK_BYTES.
"""

import os
import resource
from pathlib import Path

LEAKING_BYTES = 1 << 30
LEAK_BYTES = 1 << 26


def _leak() -> None:
    from sae_sweep.train.solo import Solo

    init, update = Solo.__init__, Solo.update

    def begin(self, trial, *rest, **options) -> None:
        init(self, trial, *rest, **options)
        self.kept = None
        if trial.uid == os.environ["LEAKING"]:
            self.kept = []
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + LEAKING_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def step(self, number: int) -> None:
        if self.kept is not None:
            self.kept.append(b"x" * LEAK_BYTES)
        update(self, number)

    Solo.__init__, Solo.update = begin, step


command = Path("/proc/self/cmdline").read_bytes()
if "LEAKING" in os.environ and (b"sae_sweep" in command or b"default_worker" in command):
    _leak()
