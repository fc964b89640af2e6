"""The process of a command: how it is interrupted, and what it prints to."""

import atexit
import errno
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

INTERRUPTED = 130


def run(main: Callable[[list[str]], int], *, endless: bool = False) -> NoReturn:
    """Run a command line and leave with its exit code.

    Args:
        main: takes the arguments and returns the exit code.
        endless: whether the command ends when nobody reads its output any more; others go on.
    """
    collect_rarely()
    ended: list[int] = []
    atexit.register(_skip_teardown, ended)  # registered first, so it runs after all others
    signal.signal(signal.SIGINT, _leave_at_once(signal.getsignal(signal.SIGINT)))
    sys.stdout = _unbreakable(sys.stdout, 1, endless=endless)
    sys.stderr = _unbreakable(sys.stderr, 2, endless=False)
    try:
        code = main(sys.argv[1:])
    except BrokenPipeError:
        code = 0
    except SystemExit as error:  # argparse's: the usage or an error has been printed
        code = error.code if isinstance(error.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    written = getattr(sys.stdout, "buffer", None)
    full = isinstance(written, io.BufferedWriter) and getattr(written.raw, "full", False)
    ended.append(code or int(full))
    sys.exit(ended[0])


def _skip_teardown(ended: list[int]) -> None:
    """Leave without the interpreter's teardown: 2 to 4 s once torch and its users are loaded."""
    if ended:  # else an exception's traceback is still to be printed
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(ended[0])


def collect_rarely() -> None:
    """Raise the garbage collector's threshold from some hundred new objects to 50,000.

    A full collection walks the million that libraries make at import: they took a sixth of the
    processor time that a sweep takes beside its training.
    """
    gc.set_threshold(50_000)


def interruptible() -> None:
    """From here on Ctrl-C and SIGTERM raise KeyboardInterrupt; before, they leave at once."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def startable_threads(most: int) -> int:
    """How many threads can be started here at once, tried up to `most`."""
    over = threading.Event()
    begun: list[threading.Thread] = []
    before = threading.stack_size(2**20)
    try:
        for _ in range(most):
            thread = threading.Thread(target=over.wait)
            thread.start()
            begun.append(thread)
    except RuntimeError:
        pass  # at the limit
    finally:
        over.set()
        threading.stack_size(before)
    for thread in begun:
        thread.join()
    return len(begun)


class _Unbreakable(io.FileIO):
    """A standard stream that stays usable when its reader is gone or its disk is full."""

    endless = False
    full = False

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.full = error.errno != errno.EPIPE
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.endless:
                raise BrokenPipeError from None
            return len(memoryview(data).cast("B"))  # type: ignore[arg-type]


def _unbreakable(stream: TextIO | None, number: int, *, endless: bool) -> TextIO:
    if stream is None:  # closed by the shell, as by `>&-`
        return Path(os.devnull).open("w", encoding="utf-8")
    raw = _Unbreakable(number, "w", closefd=False)
    raw.endless = endless
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty() or number == 2,
    )


def _leave_at_once(before: object) -> Callable[[int, FrameType | None], None] | signal.Handlers:
    """End a start-up: nothing has begun, and imports may swallow a KeyboardInterrupt."""
    if before is signal.SIG_IGN:
        return signal.SIG_IGN

    def leave(_number: int, _frame: FrameType | None) -> None:
        os.write(2, b"\nstopped; nothing was started\n")
        os._exit(INTERRUPTED)

    return leave
