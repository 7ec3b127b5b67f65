"""The import contracts of pyproject.toml hold, and notice what breaks them."""

import os
import shutil
import subprocess
import sys

import pytest

from helpers.tiny_runs import ROOT


@pytest.fixture
def lint(tmp_path):
    """``lint({path: line})``: exit status and report for a copy with lines added to its files."""

    def run(added):
        shutil.copytree(os.path.join(ROOT, "paddle_csrl"), tmp_path / "paddle_csrl",
                        ignore=shutil.ignore_patterns("__pycache__", "assets"))
        shutil.copy(os.path.join(ROOT, "pyproject.toml"), tmp_path)
        for path, line in added.items():
            with open(tmp_path / "paddle_csrl" / path, "a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")
        ended = subprocess.run(
            [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; "
                                   "sys.exit(lint_imports(cache_dir=None))"],
            cwd=tmp_path, text=True, capture_output=True, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)})
        return ended.returncode, ended.stdout

    return run


def test_the_package_keeps_its_contracts(lint):
    status, report = lint({})
    assert status == 0, report


@pytest.mark.parametrize("added, broken", [
    ({"losses/functional.py": "from paddle_csrl.stages import fit"}, "Imports go downwards"),
    ({"utils/io.py": "def late():\n    import paddle_csrl.cli.train"}, "Imports go downwards"),
    ({"losses/functional.py": "import paddle_csrl.losses.mmd_loss"}, "No circles"),
    ({"attic.py": "import os"}, "Imports go downwards"),
])
def test_what_breaks_a_contract_is_told(lint, added, broken):
    status, report = lint(added)
    assert status == 1 and broken in report.split("BROKEN")[0].splitlines()[-1], report
