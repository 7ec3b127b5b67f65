"""How the programs end, also where Paddle is missing."""

import os
import subprocess
import sys

import pytest

import paddle_csrl
from helpers import tiny_runs
from paddle_csrl.errors import UserError


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
