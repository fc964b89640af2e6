"""The SQL store: one writer, the driver of a sweep, and any number of readers."""

from sae_sweep.records.store.reader import Event, Member, Reader, Run, Sweep
from sae_sweep.records.store.url import default_url
from sae_sweep.records.store.writer import Place, Store

__all__ = ["Event", "Member", "Place", "Reader", "Run", "Store", "Sweep", "default_url"]
