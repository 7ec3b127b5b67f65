"""The extras of the package can be installed together with what it requires."""

import os
import re
from importlib import metadata
from unittest import mock

import paddle
import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import paddle_csrl  # noqa: F401  before paddle: see paddle_csrl.compat.check_zlib
from helpers import tiny_runs
from paddle_csrl.doctor import installation as doctor

#: The extra of the Paddle that runs the tests, and the requirements file with its pins.
EXTRA, PINS = (("onnx-paddle26", "requirements-paddle26.txt") if paddle.__version__ < "3"
               else ("onnx", "requirements.txt"))


@pytest.fixture(scope="module")
def arguments():
    """What setup.py gives to setuptools."""
    path = os.path.join(tiny_runs.ROOT, "setup.py")
    with mock.patch.object(setuptools, "setup") as setup, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny_runs.ROOT)
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), {"__name__": "__main__"})
    return setup.call_args.kwargs


def pins(name):
    """Requirements of a file and of those that it includes, by name."""
    with open(os.path.join(tiny_runs.ROOT, name), encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    found = {}
    for line in lines:
        if line.startswith("-r "):
            found.update(pins(line[3:]))
        else:
            requirement = Requirement(line)
            found[folded(requirement.name)] = requirement.specifier
    return found


def folded(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements):
    """Every requirement that follows from ``requirements`` in this environment."""
    waiting, seen = [Requirement(text) for text in requirements], []
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if str(requirement) in map(str, seen):
            continue
        seen.append(requirement)
        waiting += map(Requirement, metadata.requires(requirement.name) or [])
    return seen


@pytest.mark.parametrize("extra", [EXTRA, "demo"])
def test_what_the_extra_needs_is_installed_in_versions_that_agree(arguments, extra):
    """pip's resolution of the extra with the package's own requirements, checked as it stands."""
    requirements = [*arguments["install_requires"], *arguments["extras_require"][extra]]
    wrong = [f"{requirement} but {metadata.version(requirement.name)} is here"
             for requirement in closure(requirements)
             if not requirement.specifier.contains(metadata.version(requirement.name),
                                                   prereleases=True)]
    assert wrong == []


def test_the_extra_keeps_numpy_below_2(arguments):
    """NumPy 2 breaks the pinned OpenCV; nothing that ONNX needs may ask for it."""
    asking = [item for item in closure(arguments["extras_require"][EXTRA])
              if item.name == "numpy"]
    assert asking and all(item.specifier.contains("1.26.4") for item in asking)
    assert metadata.version("numpy").startswith("1.")


def test_the_page_needs_nothing_that_the_package_does_not_bring(arguments):
    """So that it neither moves a version nor adds a package to an installation."""
    brought = {folded(item.name) for item in closure(arguments["install_requires"])}
    needed = {folded(item.name) for item in closure(arguments["extras_require"]["demo"])}
    assert "flask" in needed and needed <= brought


@pytest.mark.parametrize("extra, name", [("onnx", "requirements.txt"),
                                         ("demo", "requirements.txt"),
                                         ("demo", "requirements-paddle26.txt"),
                                         ("onnx-paddle26", "requirements-paddle26.txt")])
def test_the_pins_of_the_tests_fit_the_package(arguments, extra, name):
    pinned = pins(name)
    for text in (*arguments["install_requires"], *arguments["extras_require"][extra]):
        requirement = Requirement(text)
        [version] = [item.version for item in pinned[folded(requirement.name)]
                     if item.operator in ("==", ">=")] or [None]
        assert version and requirement.specifier.contains(version), text


def test_the_tests_run_with_the_pinned_onnx_packages():
    pinned = pins(PINS)
    for name in ("paddle2onnx", "onnxruntime"):
        assert pinned[name].contains(metadata.version(name)), name


def test_the_doctor_looks_for_what_the_package_requires(arguments):
    wanted = {item.name: item.specifier
              for item in map(Requirement, arguments["install_requires"])}
    assert {name: SpecifierSet(text) for name, text in doctor.REQUIRED.items()} == wanted
    extras = {item.name: item.specifier for requirements in arguments["extras_require"].values()
              for item in map(Requirement, requirements)}
    for requirements, _ in doctor.OPTIONAL.values():
        for name, text in requirements.items():
            assert not text or SpecifierSet(text) == extras[name]
            assert name in extras
    pythons = SpecifierSet(arguments["python_requires"])
    for version in ((3, 9), *doctor.PYTHONS, (3, 13)):
        assert (doctor.check_python(version).status == doctor.OK) == (
            "{}.{}".format(*version) in pythons)
