"""How the programs end, also where Paddle is missing."""

import os
import signal
import subprocess
import sys
from unittest import mock

import pytest

import paddle_csrl
from helpers import tiny_runs
from paddle_csrl.cli import programs, val
from paddle_csrl.errors import UserError
from paddle_csrl.stopping import Stopped


@pytest.mark.parametrize("raised, status, line", [
    (UserError("no such thing;\nmend it"), 2, "error: no such thing; mend it\n"),
    (KeyboardInterrupt(), 130, "stopped\n"), (Stopped(signal.SIGTERM), 143, "stopped\n"),
    (Stopped(signal.SIGINT, "stopped at 5"), 130, "stopped at 5\n")])
def test_a_program_ends_as_its_tool_does(monkeypatch, capsys, raised, status, line):
    monkeypatch.setattr(val, "main", mock.Mock(side_effect=raised))
    with pytest.raises(SystemExit) as ended:
        programs.val()
    assert ended.value.code == status and capsys.readouterr().err == line


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(val, "main", mock.Mock(side_effect=[{}, KeyError("a bug")]))
    programs.val()  # just returns
    with pytest.raises(KeyError, match="a bug"):
        programs.val()


@pytest.fixture
def without_paddle(tmp_path):
    """Runs Python where there is no Paddle."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['paddle'] = None\n")
    return lambda *argv: subprocess.run(
        [sys.executable, *argv], env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
        capture_output=True, check=False)


@pytest.mark.parametrize("tool", sorted(
    name[:-3] for name in os.listdir(os.path.join(tiny_runs.ROOT, "tools"))
    if name.endswith(".py") and name != "doctor.py"))
def test_without_paddle_a_tool_says_what_to_install(tool, without_paddle):
    """As on a computer on which nothing but `pip install .` was run."""
    ended = without_paddle(os.path.join(tiny_runs.ROOT, "tools", f"{tool}.py"), "--help")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: Paddle is not installed: pip install paddlepaddle==")
    assert ended.stderr.count("\n") == 1


def test_without_paddle_the_package_tells_its_version(without_paddle):
    ended = without_paddle("-c", f"import sys; sys.path.insert(0, {tiny_runs.ROOT!r}); "
                                 "import paddle_csrl; print(paddle_csrl.__version__)")
    assert ended.stdout == f"{paddle_csrl.__version__}\n"
