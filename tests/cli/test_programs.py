"""How the programs end, also where Paddle is missing."""

import json
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest

import help_pages
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


def test_pages_of_help_are_what_the_parsers_print():
    """`python scripts/help_pages.py` writes them anew."""
    pages = help_pages.pages()
    assert {f"{name}.txt" for name in pages} == set(os.listdir(programs.HELP_PAGES))
    for name, text in pages.items():
        with open(os.path.join(programs.HELP_PAGES, f"{name}.txt"), encoding="utf-8") as file:
            assert file.read() == text, name


@pytest.mark.parametrize("argv, page", [
    (["--help"], "train"), (["-c", "a.yml", "-h"], "train"), (["-c", "a.yml"], None),
    ([], None)])
def test_help_is_asked_for_by_its_flag(argv, page):
    assert programs.help_page("train", argv) == (page and help_pages.page(page))


def test_a_subcommand_has_its_own_page():
    assert programs.help_page("visualize", ["report", "-h"]) == help_pages.page(
        "visualize", "report")
    assert programs.help_page("visualize", ["--help"]) == help_pages.page("visualize")


def test_help_imports_no_paddle():
    code = ("import runpy, sys; sys.argv = [sys.argv[1], '--help']; "
            "runpy.run_path(sys.argv[0], run_name='__main__'); "
            "sys.stderr.write(str({'paddle', 'numpy', 'cv2'} & set(sys.modules)))")
    ended = subprocess.run(
        [sys.executable, "-c", code, os.path.join(tiny_runs.ROOT, "tools", "train.py")],
        text=True, capture_output=True, check=False)
    assert ended.stdout == help_pages.page("train") and ended.stderr == "set()"


#: In a Python without a command line, as one that another program holds: what comes in when.
IMPORTS = """if True:
    import json, sys
    sys.argv = []
    def show():
        print(json.dumps([name for name in ("paddle", "visualdl", "jinja2", "matplotlib",
                                            "matplotlib.pyplot") if name in sys.modules]))
    import paddle_csrl.cli.train
    show()
    from paddle_csrl import core, visualize
    show()
    visualize.relation_panel([[1.0]], [[1.0]], ["a"], ["b"])
    show()
"""


def test_what_only_some_runs_need_is_imported_by_those():
    """VisualDL forks as it is imported; a run that is finished writes neither records nor pages.

    And only a picture needs matplotlib, though not what manages its windows.
    """
    ended = subprocess.run([sys.executable, "-c", IMPORTS], cwd=tiny_runs.ROOT, text=True,
                           capture_output=True, check=True)
    train, core, picture = map(json.loads, ended.stdout.splitlines()[-3:])
    assert train == ["paddle"] and "matplotlib" not in core
    assert "matplotlib" in picture and "matplotlib.pyplot" not in picture


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
    path = os.path.join(tiny_runs.ROOT, "tools", f"{tool}.py")
    ended = without_paddle(path, "--help")
    assert ended.returncode == 0 and ended.stdout.startswith(f"usage: {tool}.py")
    ended = without_paddle(path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: Paddle is not installed: pip install paddlepaddle==")
    assert ended.stderr.count("\n") == 1


def test_without_paddle_the_package_tells_its_version(without_paddle):
    ended = without_paddle("-c", f"import sys; sys.path.insert(0, {tiny_runs.ROOT!r}); "
                                 "import paddle_csrl; print(paddle_csrl.__version__)")
    assert ended.stdout == f"{paddle_csrl.__version__}\n"
