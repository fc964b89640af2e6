"""Trains in this process, one slot after another: for tests, laptops and debugging."""

import time

from sae_sweep.tune.channel import Item, Orders
from sae_sweep.tune.driver import Driver
from sae_sweep.tune.slot import train_slot

IDLE_SECONDS = 0.2


class DirectChannel:
    """A slot and the driver in one thread."""

    def __init__(self, driver: Driver, slot: int) -> None:
        self._driver = driver
        self._slot = slot

    def push(self, items: list[Item]) -> None:
        """Hand items over."""
        self._driver.push(self._slot, items)

    def pull(self) -> Orders:
        """Fetch orders."""
        return self._driver.pull(self._slot)


def execute(driver: Driver) -> None:
    """Run slots until the driver has no more; errors outside single trials propagate."""
    while not driver.finished:
        job = driver.next_job()
        if job is None:
            time.sleep(IDLE_SECONDS)
            continue
        train_slot(job, DirectChannel(driver, job.slot))
        driver.left(job.slot)
