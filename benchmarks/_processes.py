"""Sides of a comparison, each in a process of its own, that are measured in turns.

What `import paddle_csrl` sets for a whole process, MKL's code path and what malloc keeps, speeds
up everything in it. A side may thus start without, as a user of PaddleSeg alone has it.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any
from unittest import mock

#: The environment of a process without the settings of `import paddle_csrl`.
AS_IT_COMES = {"PADDLE_CSRL_MKL": "off", "MKL_DEBUG_CPU_TYPE": None, "GLIBC_TUNABLES": ""}


class Side:
    """A process with a function that is run, and timed there, on request.

    Args:
        make (Callable): a module's own function; returns what is to be run.
        arguments: for ``make``.
        environ (dict): variables that are set in the process; None takes one away.
    """

    def __init__(self, make: Callable[..., Callable[..., object]], *arguments: Any,
                 environ: Mapping[str, str | None] | None = None):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        environ = environ or {}
        with mock.patch.dict(os.environ, {k: v for k, v in environ.items() if v is not None}):
            for name in (name for name, value in environ.items() if value is None):
                os.environ.pop(name, None)
            self.process.start()
        theirs.close()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)
        self.process.join()

    def seconds(self, *arguments: Any) -> float:
        """Return how long one call takes; an EOFError says that the process has ended."""
        self.connection.send(arguments)
        return self.connection.recv()


def turns(sides: Sequence[Side], arguments: Sequence[tuple]) -> list[list[float]]:
    """Seconds of every side for each of ``arguments`` but the first, which warms up."""
    return [[side.seconds(*each) for side in sides] for each in arguments][1:]


def _serve(connection: Connection, make: Callable, arguments: tuple) -> None:
    with open(os.devnull, "w", encoding="utf-8") as silent, contextlib.redirect_stdout(silent):
        function = make(*arguments)
        while (call := connection.recv()) is not None:
            start = time.perf_counter()
            function(*call)
            connection.send(time.perf_counter() - start)
