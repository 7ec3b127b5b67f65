"""Look for what, in an installation and a config, is in the way of a training.

Nothing of Paddle's is imported here: it may be what is missing or broken. `doctor.config`, which
needs it, runs in a process of its own, whose crash is a finding like another.
"""

import glob
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import NamedTuple, TextIO

from paddle_csrl import mkl

try:
    from packaging.requirements import Requirement
    from packaging.version import Version
except ImportError:  # is a finding of `examine`
    pass

OK, WARNING, PROBLEM = "ok", "warning", "problem"

PYTHONS = ((3, 10), (3, 12))
TESTED_PADDLES = ("3.3.1", "2.6.2")
GET_PADDLE = (f"pip install paddlepaddle=={TESTED_PADDLES[0]}, or paddlepaddle-gpu for NVIDIA GPUs "
              f"(2.6.2 from PyPI, 3.x from PaddlePaddle's site)")

#: The newest paddlepaddle-gpu on PyPI, and the compute capabilities that it has kernels for (CUDA
#: 11.8), from Pascal to Ampere. Those of 8.6 run on 8.9 (Ada), too, as CUDA promises within a major
#: number; nothing runs on 9.0 (Hopper).
PYPI_GPU_BUILD, PYPI_GPU_CAPABILITIES = "2.6.2", ((6, 1), (8, 6))

_SAME_MODULE = {"opencv-python": ("opencv-python", "opencv-python-headless",
                                  "opencv-contrib-python", "opencv-contrib-python-headless")}
_PADDLES = ("paddlepaddle", "paddlepaddle-gpu")
_FEW_BYTES = 2 << 30
_PERIOD = 0.1  # seconds between two looks at what the check-up has found
_PROGRAM = "import sys; from paddle_csrl.doctor.config import main; main(sys.argv[1])"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PYPROJECT = os.path.join(_ROOT, "pyproject.toml")  # of a checkout


class Finding(NamedTuple):
    """One line of the doctor's report.

    Attributes:
        status (str): ``OK``, ``WARNING`` or ``PROBLEM``.
        subject (str): what was looked at.
        text (str): what was found.
        advice (str): what to do; for a status that is not ``OK``, where ``text`` does not say.
    """
    status: str
    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.status:<8} {self.subject:<13} {self.text}"
        return f"{text}\n{'':<22} -> {self.advice}" if self.advice else text


def examine(config: str | None = None, opts: Sequence[str] = (),
            data: str | None = None) -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is known.

    Args:
        config: a config to be looked at as well, with its data, words, weights and disk.
        opts: overrides of it, as for ``ZeroShotConfig``.
        data: a folder with the data set in the place of its own, as for ``data_opts``.
    """
    yield check_python()
    if installed("packaging"):
        yield from check_packages()
        yield from check_paddle_build()
        yield from check_optional()
    else:  # it compares versions
        yield Finding(PROBLEM, "packaging", "is not installed", "pip install packaging")
    yield check_cpu()
    yield check_memory()
    for finding in run_checkup(config, opts, data):
        yield finding
        yield from check_gpus(finding)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    low, high = ("{}.{}".format(*bound) for bound in PYTHONS)
    if PYTHONS[0] <= tuple(version) <= PYTHONS[1]:
        return Finding(OK, "Python", platform.python_version())
    return Finding(PROBLEM, "Python", "{}.{}".format(*version),
                   f"install Python {low} to {high}, for which Paddle has wheels")


def requirements(extra: str = "") -> list[str]:
    """Return what the package requires, such as ``numpy>=1.24,<2``, or what its ``extra`` adds.

    A checkout goes by its own list, for another version may be installed beside it.
    """
    if os.path.isfile(_PYPROJECT):
        with open(_PYPROJECT, encoding="utf-8") as file:
            listed = re.search(rf"^{extra or 'dependencies'} = \[(.*?)\]", file.read(), re.M | re.S)
        return re.findall('"(.+?)"', listed[1]) if listed else []
    every = map(Requirement, metadata.requires("paddle_csrl") or [])
    return [f"{item.name}{item.specifier}" for item in every
            if (item.marker.evaluate({"extra": extra}) if item.marker else not extra)]


def check_packages() -> list[Finding]:
    """Look for what the package requires, in a version that will do."""
    return list(map(_check_package, requirements()))


def _check_package(requirement: str) -> Finding:
    name, advice = Requirement(requirement).name, f'pip install "{requirement}"'
    version = next(filter(None, map(installed, _SAME_MODULE.get(name, (name,)))), None)
    if version is None:
        return Finding(PROBLEM, name, "is not installed", advice)
    if Version(version).is_devrelease:
        return Finding(WARNING, name, f"{version}, on which the tests are not run",
                       f"if something fails, {advice}")
    if not satisfies(version, requirement):
        return Finding(PROBLEM, name, f"{version} does not do, {requirement} is needed", advice)
    return Finding(OK, name, version)


def check_paddle_build() -> list[Finding]:
    """Tell which of Paddle's packages is installed."""
    found = {name: version for name in _PADDLES if (version := installed(name))}
    if not found:
        return [Finding(PROBLEM, "paddle", "is not installed", GET_PADDLE)]
    if len(found) > 1:
        return [Finding(PROBLEM, "paddle", f"{' and '.join(found)} are both installed and "
                                           f"overwrite each other",
                        f"pip uninstall {' '.join(found)}, then install one")]
    (name, version), = found.items()
    if name == "paddlepaddle-gpu" and version == PYPI_GPU_BUILD:
        low, high = ("{}.{}".format(*bound) for bound in PYPI_GPU_CAPABILITIES)
        return [Finding(OK, "paddle", f"{name} {version}, on PyPI built for GPUs of compute "
                                      f"capability {low} to {high}")]
    if Version(version).base_version in TESTED_PADDLES:
        return [Finding(OK, "paddle", f"{name} {version}")]
    return [Finding(WARNING, "paddle", f"{name} {version}, on which the tests are not run",
                    f"if something fails, install {' or '.join(TESTED_PADDLES)}")]


def check_capability(gpu: str, capability: tuple[int, int]) -> list[Finding]:
    """Warn of a GPU that PyPI's build of Paddle, if it is installed, has no kernels for."""
    low, high = PYPI_GPU_CAPABILITIES
    fits = low <= tuple(capability) and capability[0] <= high[0]
    if installed("paddlepaddle-gpu") != PYPI_GPU_BUILD or fits:
        return []
    return [Finding(PROBLEM, "device", "{} has compute capability {}.{}, for which PyPI's build of "
                    "Paddle {} has no kernels".format(gpu, *capability, PYPI_GPU_BUILD),
                    "install 3.x from PaddlePaddle's site")]


def check_cpu() -> Finding:
    """Name the CPU and the setting of its MKL."""
    name, setting = mkl.cpu("model name") or platform.processor() or "unknown", mkl.setting()
    text = f"{name}, {os.cpu_count()} logical; {setting.text}"
    if "slower" not in setting.text:
        return Finding(OK, "CPU", text)
    return Finding(WARNING, "CPU", text,
                   f"unset {mkl.SWITCH}, and import paddle_csrl before paddle")


def check_memory(meminfo: str = "/proc/meminfo") -> Finding:
    free = available_memory(meminfo)
    if free is None:
        return Finding(OK, "memory", "the system does not say how much is free")
    if free >= _FEW_BYTES:
        return Finding(OK, "memory", f"{size(free)} free")
    return Finding(WARNING, "memory", f"{size(free)} free",
                   "end other programs; training a real segmentor needs several GB")


def available_memory(meminfo: str = "/proc/meminfo") -> int | None:
    """Return the bytes that can be had without swapping; None where the system does not say."""
    try:
        with open(meminfo, encoding="ascii") as file:
            found = re.search(r"^MemAvailable:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return found and 1024 * int(found.group(1))


def check_optional() -> list[Finding]:
    """Look for what single tools need beyond the package's requirements."""
    paddle = next(filter(None, map(installed, _PADDLES)), "")
    return [_check_extra("tools/convert_zs3.py", "convert"),
            _check_extra("configs/csrl_custom.yml", "photos"),
            _check_extra("tools/export.py --format onnx",
                         "onnx-paddle26" if paddle.startswith("2.") else "onnx")]


def _check_extra(tool: str, extra: str) -> Finding:
    needed = requirements(extra)
    versions = {name: installed(name) for name in (Requirement(text).name for text in needed)}
    missing = [name for name, version in versions.items() if version is None]
    bad = [f"{name} {version}" for (name, version), text in zip(versions.items(), needed)
           if version and not satisfies(version, text)]
    advice = " ".join(["pip install", *(f'"{text}"' for text in needed)])
    if missing:
        return Finding(OK, "optional", f"{', '.join(missing)} not installed; only {tool} needs it: "
                                       f"{advice}")
    if bad:
        return Finding(WARNING, "optional", f"{', '.join(bad)} does not do for {tool}", advice)
    there = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(OK, "optional", f"{there}, for {tool}")


def nvidia_gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver shows, of use to Paddle or not."""
    found = []
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        with open(path, encoding="utf-8", errors="replace") as file:
            model = re.search(r"^Model:\s*(.+)$", file.read(), re.MULTILINE)
        found.append(model.group(1).strip() if model else "NVIDIA GPU")
    return found or ["NVIDIA GPU" for path in glob.glob("/dev/nvidia[0-9]*")]


def check_gpus(device: Finding) -> list[Finding]:
    """Warn where the ``device`` that Paddle has found leaves a GPU idle."""
    gpus = nvidia_gpus()
    if not gpus or device.subject != "device" or not device.text.startswith("CPU"):
        return []
    return [Finding(WARNING, "GPU", f"{', '.join(gpus)}: not used, Paddle is a build for CPUs",
                    "pip uninstall paddlepaddle and install paddlepaddle-gpu (2.6.2 from PyPI, "
                    "3.x from PaddlePaddle's site)")]


def run_checkup(config: str | None = None, opts: Sequence[str] = (),
                data: str | None = None) -> Iterator[Finding]:
    """Yield what `doctor.config` finds, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile(
            "w+", encoding="utf-8", errors="replace") as errors:
        path = os.path.join(folder, "findings")
        with open(path, "w+", encoding="utf-8") as findings:
            task = {"path": path, "config": config, "opts": list(opts), "data": data,
                    "terminal": os.ttyname(2) if os.isatty(2) else None}
            process = subprocess.Popen([sys.executable, "-c", _PROGRAM, json.dumps(task)],
                                       env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            try:
                yield from _follow(process, findings)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            errors.seek(0)
            yield _crash(process.returncode, errors.read())


def _follow(process: subprocess.Popen, file: TextIO) -> Iterator[Finding]:
    """Yield the findings in ``file``, one a line, until the process that writes them has ended."""
    begun, has_ended = "", False
    while not has_ended:
        has_ended = process.poll() is not None  # before reading, so that nothing is missed
        begun += file.read()
        *whole, begun = begun.split("\n")
        for line in whole:
            yield Finding(*json.loads(line))
        if not has_ended:
            time.sleep(_PERIOD)


def _crash(status: int, stderr: str) -> Finding:
    """The finding that the process of the check-up ended early."""
    if status < 0:
        return Finding(PROBLEM, "import",
                       f"Paddle ended its process by signal {signal.Signals(-status).name}",
                       "install Paddle anew, in a build for this CPU (with AVX) and this CUDA")
    last = (stderr.strip().splitlines() or [f"exit status {status}"])[-1].strip()
    return Finding(PROBLEM, "import",
                   f"Paddle or a package it needs cannot be imported: {last}",
                   "mend what is said to be missing above, or install paddlepaddle anew")


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(version: str, requirement: str) -> bool:
    """Return whether ``version`` is one that a requirement such as ``numpy>=1.24,<2`` admits."""
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def free_disk(folder: str) -> tuple[str, int]:
    """Return the nearest folder above ``folder`` that is there, and the bytes free on its disk."""
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place, shutil.disk_usage(place).free


def size(number: float) -> str:
    """Write bytes in words, such as 3.2 GB."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
