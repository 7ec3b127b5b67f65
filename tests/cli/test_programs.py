"""What `pip install .` puts in place: programs and assets."""

import importlib
import os
import subprocess
import sys
from distutils.core import run_setup

import pytest
import setuptools  # noqa: F401  before distutils, which Python 3.12 has none of

import paddle_csrl
from helpers import tiny_runs
from paddle_csrl.errors import UserError


@pytest.fixture(scope="module")
def distribution():
    """setup.py's, unbuilt."""
    before = os.getcwd()
    os.chdir(tiny_runs.ROOT)
    try:
        yield run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(before)


def programs(distribution):
    lines = distribution.entry_points["console_scripts"]
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def test_every_tool_is_a_program(distribution):
    tools = [name[:-3] for name in os.listdir(os.path.join(tiny_runs.ROOT, "tools"))
             if name.endswith(".py")]
    assert sorted(programs(distribution)) == sorted(f"csrl-{tool.replace('_', '-')}"
                                                    for tool in tools)


def test_each_program_calls_the_main_of_its_tool(distribution, monkeypatch):
    for name, target in programs(distribution).items():
        module, function = target.split(":")
        called = []
        tool = name[len("csrl-"):].replace("-", "_")
        monkeypatch.setattr(importlib.import_module(f"paddle_csrl.cli.{tool}"), "main",
                            lambda: called.append(tool))
        getattr(importlib.import_module(module), function)()
        assert called == [tool]


def test_a_program_ends_as_its_tool_does(monkeypatch, capsys):
    from paddle_csrl.cli import programs, val

    def refuse():
        raise UserError("no config at nowhere.yml")

    monkeypatch.setattr(val, "main", refuse)
    with pytest.raises(SystemExit) as ended:
        programs.val()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no config at nowhere.yml\n"


@pytest.mark.parametrize("tool", sorted(
    name[:-3] for name in os.listdir(os.path.join(tiny_runs.ROOT, "tools"))
    if name.endswith(".py") and name != "doctor.py"))
def test_without_paddle_a_tool_says_what_to_install(tool, tmp_path):
    """As on a computer on which nothing but `pip install .` was run."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['paddle'] = None\n")
    ended = subprocess.run(
        [sys.executable, os.path.join(tiny_runs.ROOT, "tools", f"{tool}.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True, capture_output=True,
        check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: Paddle is not installed: pip install paddlepaddle==")
    assert ended.stderr.count("\n") == 1


def test_without_paddle_the_package_tells_its_version(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['paddle'] = None\n")
    program = (f"import sys; sys.path.insert(0, {tiny_runs.ROOT!r}); import paddle_csrl; "
               f"print(paddle_csrl.__version__)")
    ended = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True,
                           env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True)
    assert ended.stdout == f"{paddle_csrl.__version__}\n"


def test_all_assets_are_installed(distribution):
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    command.manifest_files = {}  # package_data alone, whatever an earlier build left
    source = os.path.dirname(paddle_csrl.__file__)
    installed = {os.path.relpath(path, "paddle_csrl")
                 for path in command.find_data_files("paddle_csrl", "paddle_csrl")}
    assets = {os.path.relpath(os.path.join(folder, name), source)
              for folder, _, names in os.walk(os.path.join(source, "assets")) for name in names}
    assert assets and assets <= installed
