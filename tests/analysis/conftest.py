"""Stores with fixed numbers, built by the driver's own writer."""

import functools
import shutil
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and chromedriver: see .ci/packages")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    quiet = ("background-networking", "component-update", "sync", "quic", "default-apps")
    for switch in ("headless=new", "no-sandbox", "no-first-run", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{switch}")
    for feature in quiet:
        options.add_argument(f"--disable-{feature}")
    options.add_argument("--window-size=1300,2000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()
