"""Progress with an estimate of the time left: a bar in a terminal, sparse lines in a log."""

import sys
from typing import Iterable, Optional

import paddle
from tqdm import tqdm


def progress(iterable: Iterable, title: str, total: Optional[int] = None) -> Iterable:
    """Wrap ``iterable`` in a progress bar named ``title``.

    In a terminal the bar redraws itself; in a log file or pipe one line appears every ten
    seconds, so that short loops print nothing there.

    Args:
        iterable: what to walk over.
        title (str): what is being done.
        total (int, optional): the number of items, where ``len(iterable)`` is unknown.
    """
    if paddle.distributed.get_rank() > 0:  # one bar for all processes
        return iterable
    interactive = sys.stderr.isatty()
    return tqdm(iterable, desc=title, total=total, leave=False, dynamic_ncols=interactive,
                mininterval=0.1 if interactive else 10.0, delay=0.0 if interactive else 5.0,
                file=sys.stderr, ascii=not interactive)
