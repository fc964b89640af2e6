"""The SQL store: one writer, the driver of a sweep, and any number of readers.

A trial is written only by the driver that holds it (claims), by the clock of the database.
"""

from sae_sweep.records.store.claims import ClaimLost
from sae_sweep.records.store.place import OUTPUTS, add_options, chosen_url, default_url
from sae_sweep.records.store.reader import NOTES, Event, Member, Reader, Run, Sweep
from sae_sweep.records.store.writer import Store

__all__ = [
    "NOTES",
    "OUTPUTS",
    "ClaimLost",
    "Event",
    "Member",
    "Reader",
    "Run",
    "Store",
    "Sweep",
    "add_options",
    "chosen_url",
    "default_url",
]
