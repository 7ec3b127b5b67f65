"""Time and memory of this process, and which targets it has missed."""

import os
import time
from collections.abc import Callable
from typing import Any

_missed: list[str] = []


def at_most(value: float, limit: float) -> str:
    """Say the target of a value, and remember whether it is missed."""
    return _target(f"target <= {limit}", value <= limit)


def at_least(value: float, limit: float) -> str:
    """Say the target of a value, and remember whether it is missed."""
    return _target(f"target >= {limit}", value >= limit)


def status() -> int:
    """Return the exit status of a benchmark: 1 if it has missed a target."""
    return int(bool(_missed))


def _target(text: str, is_met: bool) -> str:
    if not is_met:
        _missed.append(text)
    return text


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What ``call`` returns, and how many seconds it takes."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def seconds(call: Callable[[], Any]) -> float:
    """How many seconds ``call`` takes."""
    return timed(call)[1]


def peak_memory() -> int:
    """Bytes of the most memory that the process had."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def resident() -> int:
    """Bytes of resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
