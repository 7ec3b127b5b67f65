"""Finished runs that the end-to-end tests share."""

import fcntl
import functools
import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from helpers.tiny_runs import Finished

pytest_plugins = ["helpers.browser"]

#: A folder that is memory, and the bytes that have to be free there for the tests to use it.
MEMORY, ROOM = "/dev/shm", 4 << 30

# The same examples in every run, however slow the machine, and nothing kept between runs.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None,
                                     max_examples=60)
hypothesis.settings.load_profile("tests")

#: Files that take longest. They come first, so that the processes of `make test`, each of which
#: takes a file at a time, end together.
LONGEST = (
    "core/test_train.py", "compare/test_compare.py", "core/test_resume.py", "core/test_leaks.py",
    "add_class/test_add_class.py", "scripts/test_soak.py", "core/test_parallel.py",
    "test_compat.py", "core/test_bad_input.py", "test_run_folder.py", "core/test_inputs.py",
    "deploy/test_export.py", "tuning/test_tuning.py", "stages/test_self_training.py",
    "doctor/test_doctor.py", "demo/test_demo_page.py", "models/test_segmentors.py",
    "core/test_pretraining_runs.py", "visualize/test_figures.py", "test_docs_code.py")


def pytest_configure(config):
    """Choose where files go, and import Paddle unless this process only hands the tests out."""
    if "TMPDIR" not in os.environ and os.path.isdir(MEMORY) \
            and shutil.disk_usage(MEMORY).free >= ROOM:
        # Also of processes that tests start. Gigabytes that are on their way to a disk make
        # whoever synchronises a file wait for all of them, as Chromium does with its profile.
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
    if config.getoption("dist", "no") == "no":
        # Before any test imports paddle: see compat.check_zlib. And before pytest's handler of
        # signals, which tells where a process dies, is set up, for Paddle would replace it.
        import paddle_csrl  # noqa: F401
        from helpers import tiny_runs  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def impatient_trainer():
    """PaddleSeg's trainer waits a second at its end for loader processes; there are none here."""
    trainer = sys.modules["paddleseg.core.train"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: None))
        yield


@pytest.fixture(scope="session", autouse=True)
def known_machine():
    """PaddleSeg starts a compiler for its version whenever it says what it runs on: here once."""
    from paddleseg.utils.env import sys_env

    answer = functools.cache(subprocess.check_output)

    def ask(command, **kwargs):
        return answer(command if isinstance(command, str) else tuple(command), **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys_env, "subprocess", SimpleNamespace(
            check_output=ask, SubprocessError=subprocess.SubprocessError))
        yield


@pytest.fixture(scope="session", autouse=True)
def impatient_files():
    """What is written to last need not: these files do not outlive the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def unpacked_vectors():
    """The vectors of the package are unpacked once, not for every builder of the tests."""
    from paddle_csrl.embeddings import readers
    from paddle_csrl.embeddings.resolve import SHIPPED

    read = readers.read_npz

    @functools.cache
    def shipped(path: str) -> dict[str, np.ndarray]:
        arrays = read(path)
        for array in arrays.values():
            array.setflags(write=False)
        return arrays

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "read_npz", lambda path: (
            shipped if path in SHIPPED.values() else read)(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What configs name no cache for is kept in a folder of these tests, of which more may run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE_CSRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> "Callable[[str], Finished]":
    """``finished(name)``: a run of ``tiny_runs.RECIPES[name]``, made at the first call.

    Not to be changed. Processes of pytest-xdist share it.
    """
    from helpers import tiny_runs

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def make(name: str) -> "Finished":
        base = tmp_path_factory.mktemp(name)
        recipe = tiny_runs.RECIPES[name](str(base / "data"), str(base / "cache"))
        return tiny_runs.run_all(recipe, base / "run", drawn=True)

    return functools.cache(lambda name: made_once(folder / name, lambda: make(name)))


def made_once(path: Path, make: "Callable[[], Finished]") -> "Finished":
    """Return what the first of the processes that ask for it makes, and keeps beside ``path``."""
    kept = path.with_suffix(".pickle")
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make()))
        return pickle.loads(kept.read_bytes())


def pytest_collection():
    """Imports of tests make no garbage that would be worth a look."""
    gc.disable()


def pytest_collection_modifyitems(items):
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish(session):
    """Spare the garbage collector what stays to the end: Paddle, matplotlib, all the tests.

    And let it look after ten thousand new objects, not after 700: every network brings thousands.
    """
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


def pytest_ignore_collect(collection_path, config):
    """Leave out ``*_torch.py`` and ``*_browser.py``, which need more, unless ``-m`` names them."""
    extra = collection_path.stem.rsplit("_", 1)[-1]
    return True if extra in ("torch", "browser") and extra not in config.option.markexpr else None
