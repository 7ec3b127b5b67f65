"""Progress: a bar with the time left in a terminal, whole lines with it in a log."""

import fcntl
import os
import pty
import struct
import sys
import termios
import time
from types import SimpleNamespace

import pytest
from paddleseg.utils import logger

from paddle_csrl.utils.progress import line, progress

# `paddle_csrl.utils.progress` is the function; the module of that name is only to be had here.
module = sys.modules["paddle_csrl.utils.progress"]


@pytest.mark.parametrize("done, total, seconds, text", [
    (10, 40, 20.0, "features: 10 of 40 (25 %), 00:20, 01:00 left"),
    (2, 3, 7200.0, "features: 2 of 3 (66 %), 2:00:00, 1:00:00 left"),
    (7, None, 61.0, "features: 7, 01:01"),
    (0, 5, 12.0, "features: 0 of 5, 00:12"),
])
def test_a_line_says_what_is_done_and_left(done, total, seconds, text):
    assert line("features", done, total, seconds) == text


@pytest.fixture
def logged(monkeypatch):
    """The lines of the log, one at every item."""
    lines = []
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    monkeypatch.setattr(logger, "info", lines.append)
    return lines


def test_a_log_gets_whole_lines_and_no_bar(logged, capfd):
    assert list(progress("abc", "cells")) == ["a", "b", "c"]
    assert [text.split(",")[0] for text in logged] == [
        "cells: 0 of 3", "cells: 1 of 3 (33 %)", "cells: 2 of 3 (66 %)"]
    assert all("left" in text for text in logged[1:])
    assert "\r" not in "".join(capfd.readouterr())


def test_a_total_is_taken_where_the_length_is_unknown(logged):
    assert list(progress(iter("ab"), "labels", total=2)) == ["a", "b"]
    assert list(progress(iter("ab"), "words")) == ["a", "b"]
    assert [text.split(",")[0] for text in logged] == [
        "labels: 0 of 2", "labels: 1 of 2 (50 %)", "words: 0", "words: 1"]


def test_a_line_comes_only_after_the_interval(monkeypatch, logged):
    monkeypatch.setattr(module, "INTERVAL", 10.0)
    clock = iter([0.0, 4.0, 9.0, 14.0, 19.0, 25.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(progress(range(5), "features")) == [0, 1, 2, 3, 4]
    assert logged == ["features: 2 of 5 (40 %), 00:14, 00:21 left",
                      "features: 4 of 5 (80 %), 00:25, 00:06 left"]


@pytest.mark.parametrize("size", [(24, 100), (0, 0)])  # 0: a terminal that does not know
def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch, size):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
    os.set_blocking(master, False)  # an empty terminal is to fail, not to be waited for
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        for _ in progress(range(3), "features"):
            time.sleep(0.12)  # tqdm draws a tenth of a second after it last did
        terminal.flush()
        shown = os.read(master, 65536).decode()
    os.close(master)
    assert shown.count("\r") > 2
    assert "features:  33%" in shown and "1/3 [00:00<00:" in shown
