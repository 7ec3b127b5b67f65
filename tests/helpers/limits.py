"""Forked processes that are killed, or that the system lets write no more than so much."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


def in_fork(action: Callable[[], Any]) -> tuple[int, str]:
    """Do ``action`` in a forked process.

    Returns its status, 1 if it raises or -N if signal N has killed it, and what it returns or
    raises as text.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        status, text = 0, ""
        try:
            text = str(action())
        except BaseException as error:
            status, text = 1, f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, text.encode())
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


def killed_before(number: int, action: Callable[[], Any]) -> bool:
    """Do ``action`` in a process that is killed before its change of files of that number, from 0.

    Returns whether it came that far.
    """
    done = []

    def watch(event: str, arguments: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or (
            event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes:
            if len(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(event)

    def watched() -> None:
        sys.addaudithook(watch)
        action()

    status, text = in_fork(watched)
    assert status in (0, -signal.SIGKILL), text
    return bool(status)


def with_file_limit(size: int, action: Callable[[], Any]) -> tuple[int, str]:
    """Do as ``in_fork``, where no file may grow beyond ``size`` bytes, as by `ulimit -f`."""

    def limited() -> Any:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)  # what is captured goes to files, too
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return action()

    return in_fork(limited)
