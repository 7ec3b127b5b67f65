"""The CPU setting: on AMD CPUs alone, before Paddle, and as the user says."""

import os
import subprocess
import sys

import pytest
from paddleseg.utils import logger

from helpers import tiny_runs
from paddle_csrl import cli, mkl
from paddle_csrl.doctor import installation as doctor
from paddle_csrl.utils.provenance import how_made

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7B13 \n\nprocessor\t: 1\n"
INTEL = AMD.replace("AuthenticAMD", "GenuineIntel")


@pytest.fixture
def cpuinfo(tmp_path):
    """Writes a description of a CPU and returns its path."""
    def write(text):
        (tmp_path / "cpuinfo").write_text(text)
        return str(tmp_path / "cpuinfo")

    return write


@pytest.fixture
def without_paddle(monkeypatch):
    monkeypatch.delitem(sys.modules, "paddle")


@pytest.mark.parametrize("text, environ, value, says", [
    (AMD, {}, "5", "PADDLE_CSRL_MKL=off leaves it out"),
    (AMD, {"PADDLE_CSRL_MKL": "on"}, "5", "fast code"),
    (AMD, {"PADDLE_CSRL_MKL": "Off"}, None, "PADDLE_CSRL_MKL=Off: slower"),
    (AMD, {"PADDLE_CSRL_MKL": "0"}, None, "slower"),
    (AMD, {"MKL_DEBUG_CPU_TYPE": "4"}, None, "MKL_DEBUG_CPU_TYPE=4, as found"),
    (AMD, {"MKL_DEBUG_CPU_TYPE": "5", "PADDLE_CSRL_MKL": "off"}, None, "as found"),
    (INTEL, {}, None, "helps AMD CPUs alone"),
    (INTEL, {"PADDLE_CSRL_MKL": "on"}, None, "helps AMD CPUs alone"),
    (INTEL, {"MKL_DEBUG_CPU_TYPE": "5"}, None, "as found"),
    ("Features: fp asimd\n", {}, None, "helps AMD CPUs alone")])
def test_the_decision(cpuinfo, without_paddle, text, environ, value, says):
    setting = mkl.decide(environ, cpuinfo(text))
    assert setting.value == value and says in setting.text
    assert setting.is_notable == ("alone" not in setting.text)


def test_nothing_is_set_once_paddle_is_there(cpuinfo):
    setting = mkl.decide({}, cpuinfo(AMD))
    assert setting.value is None and "imported before paddle_csrl: slower" in setting.text


def test_systems_without_that_file(tmp_path, without_paddle):
    missing = str(tmp_path / "nothing")
    assert mkl.decide({}, missing).value is None
    assert mkl.cpu("vendor_id", missing) is None


def test_the_cpu_is_read(cpuinfo):
    found = [mkl.cpu(name, cpuinfo(AMD)) for name in ("vendor_id", "model name")]
    assert found == ["AuthenticAMD", "AMD EPYC 7B13"]


# Runs as a process that has not imported anything yet; the file stands in for the kernel's.
PROGRAM = """
import builtins, importlib.util, os, sys
def opened(path, *args, original=open, **kwargs):
    return original({cpuinfo!r} if path == "/proc/cpuinfo" else path, *args, **kwargs)
builtins.open = opened
sys.path.insert(0, {root!r})
import paddle_csrl
from paddle_csrl import cli, mkl
import numpy as np, paddle
a, b = np.random.default_rng(0).normal(size=(2, 32, 32)).astype("float32")
product = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(b)).numpy()
close = np.allclose(product, a.astype("float64") @ b, atol=1e-4)
cli.run(lambda: print("RESULT", os.environ.get(mkl.VARIABLE), close))
"""


@pytest.mark.parametrize("switch, value, line", [
    ("on", "5", "CPU: MKL_DEBUG_CPU_TYPE=5, MKL's fast code"),
    ("off", None, "CPU: MKL_DEBUG_CPU_TYPE is not set, for PADDLE_CSRL_MKL=off")])
def test_a_program_sets_it_before_paddle_and_says_so(cpuinfo, switch, value, line):
    environ = {name: content for name, content in os.environ.items()
               if name not in (mkl.VARIABLE, mkl.SWITCH)}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c",
         PROGRAM.format(cpuinfo=cpuinfo(AMD), root=tiny_runs.ROOT)],
        env={**environ, mkl.SWITCH: switch}, capture_output=True, text=True, check=False)
    assert f"RESULT {value} True" in ended.stdout, ended.stderr
    assert line in ended.stdout


@pytest.mark.parametrize("text, is_notable, status", [
    ("MKL_DEBUG_CPU_TYPE=5, as a test says", True, doctor.OK),
    ("not set: slower", True, doctor.WARNING),
    ("not set", False, doctor.OK)])  # what makes no difference is not told
def test_tools_doctor_and_record_show_it(monkeypatch, text, is_notable, status):
    lines = []
    monkeypatch.setattr(logger, "info", lines.append)
    monkeypatch.setattr(mkl, "_applied", mkl.Setting(None, text, is_notable))
    cli.run(lambda: None)
    assert lines == [f"CPU: {text}"] * is_notable
    assert how_made(1.0, 0).get("mkl") == (text if is_notable else None)
    finding = doctor.check_cpu()
    assert text in finding.text and finding.status == status
    assert (mkl.SWITCH in finding.advice) == (status == doctor.WARNING)
