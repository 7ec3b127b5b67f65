"""The examples of the Python API do what they show."""

import doctest
import importlib
import inspect
import os
import re
import shutil

import numpy as np
import pytest

import paddle_csrl
from helpers import tiny_runs


class StatementsMayLog(doctest.OutputChecker):
    """Lines of the log count where a value is shown, and not behind an assignment."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A folder as the examples take it for granted, with a finished run in output/demo."""
    run = finished("shapes").copy(tmp_path / "output" / "demo")
    os.makedirs(tmp_path / "photos")
    for image, *_ in run.builder().val_dataset.file_list[:2]:
        shutil.copy(image, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    with tiny_runs.undrawn():
        yield run


@pytest.mark.parametrize("name", paddle_csrl.__all__)
def test_the_example_of(name, here):
    """A config of the name that the examples give has the settings of the tiny run."""
    os.makedirs("configs")
    shutil.copy(here.path("config.yml"), "configs/csrl_shapes.yml")
    thing = getattr(paddle_csrl, name)
    module = importlib.import_module(thing.__module__)
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(thing), vars(module) | {name: thing}, name, module.__file__, 0)
    assert test.examples and "SKIP" not in test.docstring
    result = doctest.DocTestRunner(StatementsMayLog(), optionflags=doctest.ELLIPSIS).run(test)
    assert not result.failed


def test_the_example_from_training_to_export(here):
    os.symlink(os.path.join(tiny_runs.ROOT, "configs"), "configs")
    with open(os.path.join(tiny_runs.ROOT, "docs", "api.md"), encoding="utf-8") as file:
        *_, code = re.findall(r"^```python\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)
    found = {"__name__": "example"}
    exec(compile(code, "api.md", "exec"), found)
    assert found["scores"]["hiou"] == found["metrics"]["hiou"]
    seen, unseen = len(found["run"].classes.seen_ids), len(found["run"].classes.unseen_ids)
    assert found["features"].shape == (unseen, 100, found["bank"].feature_dim)
    assert np.isfinite(found["features"]).all()
    assert found["generated"].shape == found["semantic"].shape == [unseen, seen]
    assert found["done"]["predicted"] == 2
    assert found["change"].classes == [*found["run"].classes.names, "flag"]
    assert found["exported"]["config"] == "output/api_paddle/deploy.yaml"
    assert os.path.isfile(found["exported"]["config"])


def test_the_document_tells_of_every_name_and_argument():
    with open(os.path.join(tiny_runs.ROOT, "docs", "api.md"), encoding="utf-8") as file:
        rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", file.read(), re.MULTILINE))
    assert {name.split(".")[0] for name in rows} == set(paddle_csrl.__all__)
    for name, text in rows.items():
        thing = paddle_csrl.Run.open if name == "Run.open" else getattr(paddle_csrl, name)
        optional = {parameter.name for parameter in inspect.signature(thing).parameters.values()
                    if parameter.default is not parameter.empty}
        assert set(re.findall(r"`(\w+)`", text)) == optional, name
