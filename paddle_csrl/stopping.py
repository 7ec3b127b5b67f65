"""SIGTERM and Ctrl-C end a program where it can go on later.

Only the programs of the command line install the handlers; whoever calls the library keeps their
own. A signal ends whatever runs at once, except a training, which puts it off until it has saved a
checkpoint. A second signal always ends it at once.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

#: Seconds in which a signal may come twice and mean it once: `timeout` sends it to the process and
#: to its group. Ctrl-C reaches what `paddle.distributed.launch` has started by itself and from the
#: launcher, which tells its processes once more as it ends.
_ECHO, _ECHO_OF_LAUNCHER = 0.2, 3.0


class Stopped(BaseException):
    """The program was told to stop; no ``Exception``, for nothing may go on after it."""

    def __init__(self, number: int, message: str = "stopped"):
        super().__init__(message)
        #: As shells have it.
        self.exit_status = 128 + number


class _Told:
    """The last signal that came, when, and whether the end is put off."""
    number, at, is_put_off = 0, 0.0, False


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Have SIGTERM and SIGINT raise ``Stopped`` inside the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, is_launched = os.getpid(), int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1
    echo = _ECHO_OF_LAUNCHER if is_launched else _ECHO

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker, which its parent ends
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        is_second, now = bool(_Told.number), time.monotonic()
        if is_second and now - _Told.at < echo:
            return
        _Told.number, _Told.at = number, now
        if hasattr(signal, "SIGCHLD"):  # workers may have been told, too; Paddle would raise
            # No SIG_DFL, for Python complains of one that comes as its handler goes.
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
        if is_second or not _Told.is_put_off:
            raise Stopped(number)
        os.write(2, b"stopping; a second signal stops at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    if is_launched:
        for number in before:  # Paddle takes an interrupted call for the end of another process
            signal.siginterrupt(number, False)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Told.number = 0


def told() -> int:
    """Return the number of the signal whose end is put off; 0 if none came."""
    return _Told.number


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Put the end off while the block runs, which looks at ``told`` itself."""
    with _putting_off(True):
        yield
    end_if_told()


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Do not put the end off in a part of such a block."""
    with _putting_off(False):
        end_if_told()
        yield


def end_if_told() -> None:
    """Raise ``Stopped`` if a signal came and the end is not put off.

    Python drops what a handler raises within some callbacks, so that who goes on looks again.
    """
    if _Told.number and not _Told.is_put_off:
        raise Stopped(_Told.number)


@contextlib.contextmanager
def _putting_off(value: bool) -> Iterator[None]:
    before, _Told.is_put_off = _Told.is_put_off, value
    try:
        yield
    finally:
        _Told.is_put_off = before
