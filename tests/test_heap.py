"""What a process keeps of the memory that it frees."""

import ctypes
import os
import subprocess
import sys

import pytest

from paddle_csrl import heap

# 5 MB each, which malloc takes from the system and gives back unless it is told otherwise.
COUNT = """
import resource
import paddle_csrl
import paddle
x = paddle.ones([8, 256, 24, 24])

def add(times):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        x + x
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

add(5)
print(add(20))
"""


def new_pages(**environ: str) -> int:
    return int(subprocess.run([sys.executable, "-W", "ignore", "-c", COUNT], check=True, text=True,
                              capture_output=True, env={**os.environ, **environ}).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
def test_memory_is_kept_unless_the_user_says_otherwise():
    pages_of_one = 8 * 256 * 24 * 24 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert new_pages() < pages_of_one / 4
    assert new_pages(MALLOC_TRIM_THRESHOLD_="131072") > 10 * pages_of_one


@pytest.mark.parametrize("name", heap.VARIABLES)
def test_a_users_setting_is_left_alone(monkeypatch, name):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail("the heap was changed"))
    monkeypatch.setenv(name, "1")
    assert heap.apply() is False


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def load(path):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert heap.apply() is False
