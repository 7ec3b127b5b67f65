"""The fast code path of Intel's MKL on AMD CPUs, chosen before Paddle loads its MKL.

Upstream cause: Paddle's CPU wheels compute with MKLML, which picks its slowest code on CPUs that
are not Intel's, whatever instructions they have. ``MKL_DEBUG_CPU_TYPE=5`` makes it take its AVX2
code there: matrix products 2.6 and convolutions 1.6 times as fast on the AMD CPU it was measured
on. MKL reads the variable when it is loaded. Newer MKL releases ignore it.

This module imports nothing of Paddle's.
"""

import os
import re
import sys
from collections.abc import Mapping
from typing import NamedTuple

#: What MKL reads. A value that is there already is left alone.
VARIABLE = "MKL_DEBUG_CPU_TYPE"

#: The user's switch: ``off`` leaves ``VARIABLE`` alone.
SWITCH = "PADDLE_CSRL_MKL"

_CPUINFO = "/proc/cpuinfo"
_AVX2 = "5"
_OFF = ("off", "0", "no", "false")


class Setting(NamedTuple):
    """A decision about ``VARIABLE``, and a line that says so.

    Attributes:
        value (str or None): what it is to be set to; None to leave it as it is.
        text (str): for the user.
        is_notable (bool): whether it makes a difference on this CPU.
    """
    value: str | None
    text: str
    is_notable: bool


_applied: Setting | None = None


def apply() -> None:
    """Set ``VARIABLE`` in this process's environment, which its children inherit, where it helps.

    To be called before Paddle is imported. Only the first call of a process does something.
    """
    global _applied
    if _applied is None:
        _applied = decide()
        if _applied.value is not None:
            os.environ[VARIABLE] = _applied.value


def setting() -> Setting:
    """Return what ``apply`` has done in this process, or else what it would do."""
    return _applied or decide()


def decide(environ: Mapping[str, str] = os.environ, cpuinfo: str = _CPUINFO) -> Setting:
    """Decide what is to be done about ``VARIABLE``.

    Args:
        environ: the environment.
        cpuinfo: the kernel's description of the CPU.
    """
    if VARIABLE in environ:
        return Setting(None, f"{VARIABLE}={environ[VARIABLE]}, as found in the environment", True)
    if cpu("vendor_id", cpuinfo) != "AuthenticAMD":
        return Setting(None, f"{VARIABLE} is not set: it helps AMD CPUs alone", False)
    if environ.get(SWITCH, "").strip().lower() in _OFF:
        return Setting(None, f"{VARIABLE} is not set, for {SWITCH}={environ[SWITCH]}: slower on "
                             f"this AMD CPU", True)
    if "paddle" in sys.modules:
        return Setting(None, f"{VARIABLE} is not set, for paddle was imported before paddle_csrl: "
                             f"slower on this AMD CPU", True)
    return Setting(_AVX2, f"{VARIABLE}={_AVX2}, MKL's fast code on this AMD CPU; {SWITCH}=off "
                          f"leaves it out", True)


def cpu(name: str, cpuinfo: str = _CPUINFO) -> str | None:
    """Return a field of the CPU's description, such as ``model name``; None where there is none."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            found = re.search(rf"^{name}\s*:\s*(.+?)\s*$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return found and found[1]
