"""scripts/soak.py: trainings that are killed and started again, in short."""

import os
import re
import subprocess
import sys

from helpers.tiny_runs import ROOT


def test_killed_trainings_end_as_if_nobody_had_killed_them(tmp_path):
    """In the first three stages; a process of its own, for it forks before Paddle has threads."""
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "soak.py"), "--kills", "3",
         "--out", str(tmp_path / "soak")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 killed runs ended as the one that nobody killed" in done.stdout
    killed_in = re.findall(r"^\| (\w+) +\| \d", done.stdout, re.MULTILINE)
    assert killed_in == ["segmentor", "features", "generator"]
    assert sorted(os.listdir(tmp_path / "soak"))[:3] == ["000", "000.log", "001"]
