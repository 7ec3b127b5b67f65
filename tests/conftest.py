"""Finished runs that the end-to-end tests share."""

import functools
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import hypothesis
import pytest

import paddle_csrl  # noqa: F401  before any test imports paddle: see compat.check_zlib
from helpers import tiny_runs
from helpers.tiny_runs import Finished

pytest_plugins = ["helpers.browser"]

# The same examples in every run, however slow the machine, and nothing kept between runs.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None,
                                     max_examples=60)
hypothesis.settings.load_profile("tests")

#: By name: how the recipe of a run is made from a folder for its data and one for its cache.
RECIPES = {
    "shapes": tiny_runs.shapes,
    "voc": tiny_runs.voc,
    "context": tiny_runs.context,
    "custom": tiny_runs.custom,
    "spnet": functools.partial(tiny_runs.custom, name="spnet/spnet_custom"),
    "segdevise": functools.partial(tiny_runs.shapes, name="segdevise/segdevise_shapes"),
    "zs3net": tiny_runs.zs3net,
}


@pytest.fixture(scope="session", autouse=True)
def impatient_trainer():
    """PaddleSeg's trainer waits a second at its end for loader processes; there are none here."""
    trainer = sys.modules["paddleseg.core.train"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: None))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What configs name no cache for is kept in a folder of these tests, of which more may run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE_CSRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Callable[[str], Finished]:
    """``finished(name)``: a run of ``RECIPES[name]``, made at the first call. Not to be changed."""
    runs: dict[str, Finished] = {}

    def get(name: str) -> Finished:
        if name not in runs:
            base = tmp_path_factory.mktemp(name)
            recipe = RECIPES[name](str(base / "data"), str(base / "cache"))
            runs[name] = tiny_runs.run_all(recipe, base / "run", drawn=True)
        return runs[name]

    return get


def pytest_ignore_collect(collection_path, config):
    """Leave out ``*_torch.py`` and ``*_browser.py``, which need more, unless ``-m`` names them."""
    extra = collection_path.stem.rsplit("_", 1)[-1]
    return True if extra in ("torch", "browser") and extra not in config.option.markexpr else None
