"""What `python -m sae_sweep` returns; 0 where every trial is done, stopped or diverged."""

FAILED = 1
"""Some trials failed, ran out of memory or were interrupted; or the disk or store has failed."""

BAD_INPUT = 2
"""Named in one message; nothing was started."""

INTERRUPTED = 130
"""Ctrl-C or SIGTERM; the same command continues."""
