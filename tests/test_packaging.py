"""What `pip install .` puts in place, and that its requirements and extras fit the tests' pins."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import paddle
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import paddle_csrl
from helpers.tiny_runs import ROOT
from paddle_csrl.cli import predict, train
from paddle_csrl.doctor import installation as doctor

#: The extra of the Paddle that runs the tests.
EXTRA = "onnx-paddle26" if paddle.__version__ < "3" else "onnx"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel of a copy of the package, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(os.path.join(ROOT, "paddle_csrl"), folder / "paddle_csrl",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(os.path.join(ROOT, name), folder)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
                    "--no-build-isolation", "--wheel-dir", "dist", "."], cwd=folder, check=True)
    [path] = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def package(wheel):
    """The wheel's metadata and entry points."""
    [name] = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()
              if ".dist-info/" in name}
    return metadata.PathDistribution(zipfile.Path(wheel, f"{name}/"))


@pytest.fixture(scope="module")
def required(package):
    """``required(extra)``: requirements of the package with that extra, or with none."""
    every = list(map(Requirement, package.requires))
    return lambda extra="": [item for item in every
                             if not item.marker or item.marker.evaluate({"extra": extra})]


def pins():
    """Requirements of requirements.txt by name."""
    lines = Path(ROOT, "requirements.txt").read_text("utf-8").splitlines()
    lines = [Requirement(line.strip()) for line in lines if not line.startswith("#")]
    return {folded(item.name): item.specifier for item in lines}


def folded(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements):
    """Every requirement that follows from ``requirements`` in this environment."""
    waiting, seen = list(requirements), []
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in map(str, seen):
            continue
        seen.append(requirement)
        waiting += [item for item in map(Requirement, metadata.requires(requirement.name) or [])
                    if not item.marker or item.marker.evaluate({"extra": ""})]
    return seen


def test_every_file_of_the_package_is_installed(wheel):
    there = {os.path.relpath(os.path.join(folder, name), ROOT)
             for folder, _, names in os.walk(os.path.join(ROOT, "paddle_csrl")) for name in names
             if "__pycache__" not in folder}
    assert {"paddle_csrl/assets/paper_tables.yml", "paddle_csrl/stages/fit.py"} <= there
    assert there == {name for name in zipfile.ZipFile(wheel).namelist()
                     if ".dist-info/" not in name}


def test_the_version_is_that_of_the_package(package):
    with open(os.path.join(ROOT, "CITATION.cff"), encoding="utf-8") as file:
        assert package.version == paddle_csrl.__version__ == yaml.safe_load(file)["version"]


def test_every_tool_is_a_program(package, monkeypatch):
    called = []
    for entry in package.entry_points:
        tool = entry.name.removeprefix("csrl-").replace("-", "_")
        monkeypatch.setattr(importlib.import_module(f"paddle_csrl.cli.{tool}"), "main",
                            lambda: called.append(tool))
        entry.load()()
        assert called.pop() == tool
    assert sorted(package.entry_points.names) == sorted(
        f"csrl-{name[:-3].replace('_', '-')}" for name in os.listdir(os.path.join(ROOT, "tools"))
        if name.endswith(".py"))


@pytest.mark.parametrize("extra", [EXTRA, "demo"])
def test_what_the_extra_needs_is_installed_in_versions_that_agree(required, extra):
    """pip's resolution of the extra with the package's own requirements, checked as it stands."""
    wrong = [f"{requirement} but {metadata.version(requirement.name)} is here"
             for requirement in closure(required(extra))
             if not requirement.specifier.contains(metadata.version(requirement.name),
                                                   prereleases=True)]
    assert wrong == []


def test_everything_keeps_numpy_below_2(required):
    """NumPy 2 breaks the pinned OpenCV; nothing may ask for it."""
    asking = [item for item in closure(required(EXTRA)) if item.name == "numpy"]
    assert asking and all(item.specifier.contains("1.26.4") for item in asking)
    assert metadata.version("numpy").startswith("1.")


def test_the_page_needs_nothing_that_the_package_does_not_bring(required):
    """So that it neither moves a version nor adds a package to an installation."""
    brought = {folded(item.name) for item in closure(required())}
    needed = {folded(item.name) for item in closure(required("demo"))}
    assert "flask" in needed and needed <= brought


@pytest.mark.parametrize("extra", ["", "onnx", "demo"])
def test_the_pins_of_the_tests_fit_the_package(required, extra):
    pinned = pins()
    for requirement in required(extra):
        [version] = [item.version for item in pinned[folded(requirement.name)]
                     if item.operator in ("==", ">=")]
        assert requirement.specifier.contains(version), requirement


def test_what_the_tests_run_with_is_what_is_pinned():
    for name, specifier in pins().items():
        if EXTRA == "onnx" or name not in ("paddlepaddle", "paddle2onnx"):
            assert specifier.contains(metadata.version(name)), name


@pytest.mark.parametrize("extra", ["", "convert", "onnx", "onnx-paddle26"])
def test_the_doctor_looks_for_what_the_package_requires(monkeypatch, package, required, extra):
    """In a checkout, and where the package is installed."""
    wanted = {item.name: item.specifier for item in required(extra)
              if bool(item.marker) == bool(extra)}

    def read():
        return {item.name: item.specifier for item in map(Requirement, doctor.requirements(extra))}

    assert read() == wanted
    monkeypatch.setattr(doctor, "_PYPROJECT", "absent")
    monkeypatch.setattr(doctor.metadata, "requires", {"paddle_csrl": package.requires}.get)
    assert read() == wanted


def test_the_doctor_knows_the_pythons(package):
    pythons = SpecifierSet(package.metadata["Requires-Python"])
    for version in ((3, 9), *doctor.PYTHONS, (3, 13)):
        assert (doctor.check_python(version).status == doctor.OK) == (
            "{}.{}".format(*version) in pythons)


def make(*arguments):
    """What make ends with, also where a make runs these tests."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=alone, capture_output=True,
                          text=True, check=False)


def test_the_demo_on_photographs_tells_how_its_folder_must_look_before_it_installs_anything():
    done = make("demo-photos", "VENV=/nowhere/venv")
    assert done.returncode == 2 and done.stdout == ""
    assert "*** say DIR=FOLDER and UNSEEN=" in done.stderr and done.stderr.count("\n") == 1


def test_the_demo_on_photographs_trains_and_predicts_on_the_folder(tmp_path):
    data = str(tmp_path / "my photos")
    done = make("-n", "demo-photos", f"DIR={data}", "UNSEEN=cow, red chair")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    tools = {name: shlex.split(line.partition(f"tools/{name}.py")[2])
             for name in ("train", "predict") for line in lines if f"tools/{name}.py" in line}
    trained, predicted = train.parse_args(tools["train"]), predict.parse_args(tools["predict"])
    assert (trained.data, trained.opts) == (data, ["zero_shot.unseen=cow, red chair"])
    assert predicted.run == trained.save_dir
    assert predicted.image_path == os.path.join(data, "val.txt")
    assert os.path.isfile(os.path.join(ROOT, trained.config))
