"""Stores with fixed numbers, built by the driver's own writer."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Build, Load, Ran, write_store

from sae_sweep.records.store import Reader, Sweep


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Write a sweep into a store and return the store's URL."""
    return functools.partial(write_store, tmp_path)


@pytest.fixture
def load(build: Build) -> Iterator[Load]:
    """Build a store and read its sweep back."""
    readers = []

    def read(trials: Sequence[Ran], **run: Any) -> tuple[Sweep, Reader]:
        readers.append(Reader(build(trials, **run)))
        return readers[-1].sweep(), readers[-1]

    yield read
    for reader in readers:
        reader.__exit__()
