"""Progress with an estimate of the time left: a bar in a terminal, sparse lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from paddleseg.utils import logger
from tqdm import tqdm

from paddle_csrl import parallel

#: Seconds between two lines of a log.
INTERVAL = 10.0
_COLUMNS, _ROWS = 80, 24  # of a terminal that does not know, as in some containers


def progress(iterable: Iterable, title: str, total: int | None = None) -> Iterable:
    """Wrap ``iterable`` in a progress bar named ``title``.

    In a terminal the bar redraws itself; in a log file or pipe one line of the log appears every
    ten seconds, so that short loops print nothing there.

    Args:
        iterable: what to walk over.
        title (str): what is being done.
        total (int, optional): the number of items, where ``len(iterable)`` is unknown.
    """
    if not parallel.is_first():  # one bar for all processes
        return iterable
    if sys.stderr.isatty():
        has_size = all(os.get_terminal_size(sys.stderr.fileno()))
        shape: dict[str, Any] = ({"dynamic_ncols": True} if has_size
                                 else {"ncols": _COLUMNS, "nrows": _ROWS})
        return tqdm(iterable, desc=title, total=total, leave=False, file=sys.stderr, **shape)
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return _logged(iterable, title, total)


def _logged(iterable: Iterable, title: str, total: int | None) -> Iterator:
    start = last = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if now - last >= INTERVAL:
            last = now
            logger.info(line(title, done, total, now - start))
        yield item


def line(title: str, done: int, total: int | None, seconds: float) -> str:
    """One line on ``done`` of ``total`` items, done in ``seconds``.

    The time left is that of the other items at the average speed so far.
    """
    spent = tqdm.format_interval(seconds)
    if not total or not done:
        return f"{title}: {done}{f' of {total}' if total else ''}, {spent}"
    left = tqdm.format_interval(seconds / done * (total - done))
    return f"{title}: {done} of {total} ({100 * done // total} %), {spent}, {left} left"
