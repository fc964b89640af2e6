"""A database server that is away for a while: the store waits for it and does the work again."""

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

PATIENCE_SECONDS = 60.0
"""How long a server may be away: a restart takes seconds."""

PAUSE_SECONDS = 0.5

AWAY = ("08", "57P")
"""How PostgreSQL's codes of lost connections, shutdowns and starts begin."""

logger = logging.getLogger(__name__)


class Outage:
    """Since when the server of a store has not answered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self) -> None:
        """It has answered."""
        self._since = None

    def wait(self, error: DBAPIError) -> bool:
        """Wait a little for the next attempt; False where that is of no use any more."""
        if not _is_away(error):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning(
                "the store does not answer: waiting up to %.0f s for it", PATIENCE_SECONDS
            )
        if now - self._since > PATIENCE_SECONDS:
            return False
        time.sleep(PAUSE_SECONDS)
        return True


class _HasOutage(Protocol):
    outage: Outage


S = TypeVar("S", bound=_HasOutage)
P = ParamSpec("P")
T = TypeVar("T")


def patient(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let a method of a store wait for the server and be done again, whole.

    Only for what may be done twice: a commit can succeed although its answer is lost.
    """

    @wraps(method)
    def repeated(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                found = method(self, *args, **kwargs)
            except DBAPIError as error:
                if not self.outage.wait(error):
                    raise
            else:
                self.outage.over()
                return found

    return repeated


def _is_away(error: DBAPIError) -> bool:
    """Whether a server cannot be reached, or is not up yet; SQLite has none."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlstate", None)
    return code is None or code.startswith(AWAY)
