"""``stage.json``: what a stage was made from, and the checksums of the files that it left."""

import functools
import glob
import hashlib
import itertools
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import read_json

STAGE_FILE = "stage.json"
_KINDS = {"finished": bool, "format": int, "inputs": dict, "made": dict, "outputs": dict}


def read_record(folder: str) -> dict[str, Any] | None:
    """Read the ``stage.json`` of a stage's folder; None where it is not as stages write it."""
    content = read_json(os.path.join(folder, STAGE_FILE))
    if not isinstance(content, dict) or any(
            type(content[key]) is not kind for key, kind in _KINDS.items() if key in content):
        return None
    seconds = content.get("made", {}).get("seconds", 0.0)
    files = content.get("outputs", {}).values()
    is_whole = type(seconds) in (int, float) and math.isfinite(seconds) and all(
        isinstance(file, dict) and {"bytes", "sha256"} <= set(file) for file in files)
    return content if is_whole else None


def describe_files(paths: Iterable[str], folder: str) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files by their path from ``folder``, for its record."""
    return {_key(path, folder): {"bytes": os.path.getsize(path), "sha256": checksum(path)}
            for path in paths if os.path.isfile(path)}


def difference(path: str, folder: str, record: Mapping[str, Any]) -> str | None:
    """Say how the file at ``path`` is not as the record of ``folder`` tells.

    None if it is so, or not told of, as in records of earlier versions.
    """
    told = record.get("outputs", {}).get(_key(path, folder))
    if told is None:
        return None
    if not os.path.isfile(path):
        return "is missing"
    size = os.path.getsize(path)
    if size != told["bytes"]:
        return f"has {size} bytes instead of {told['bytes']}"
    return None if checksum(path) == told["sha256"] else "has changed since its stage finished"


def require_unchanged(path: str) -> None:
    """Insist that a file is as the stage that made it has left it, where a record tells.

    The record of a stage stands beside what it leaves for others; that of the stage that made the
    final model, one of several perhaps, in a folder beside that.

    Raises:
        UserError: the file has been cut or changed since.
    """
    parent, changes = os.path.dirname(path), {}
    if not os.path.isfile(path):
        return
    for place in (os.path.join(parent, STAGE_FILE),
                  *glob.glob(os.path.join(glob.escape(parent), "*", STAGE_FILE))):
        folder = os.path.dirname(place)
        record = read_record(folder) or {}
        if record.get("finished") and _key(path, folder) in record.get("outputs", {}) \
                and not is_kept_aside(folder):
            changes[folder] = difference(path, folder, record)
    if changes and all(changes.values()):
        folder, change = changes.popitem()
        run = os.path.normpath(os.path.join(folder, ".."))
        raise UserError(f"{path} {change}; python tools/train.py -c {run}/config.yml --save_dir "
                        f"{run} makes it anew")


def name_aside(folder: str) -> str:
    """Return a free name under which the earlier result of a stage is kept beside the new one."""
    stem = f"{folder}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    names = (f"{stem}_{number}" if number else stem for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def is_kept_aside(folder: str) -> bool:
    """Tell whether a folder has a name of ``name_aside``."""
    return name_before(folder) != folder


def name_before(folder: str) -> str:
    """Return the name of a folder before it was kept aside, if it was."""
    return re.sub(r"_\d{4}(-\d\d){2}_\d\d(-\d\d){2}(_\d+)?\Z", "", folder)


def _key(path: str, folder: str) -> str:
    return os.path.relpath(path, folder or ".").replace(os.sep, "/")


def checksum(path: str) -> str:
    """SHA-256 of a file, in hexadecimal; read again only once the file has changed."""
    status = os.stat(path)
    return _checksum(path, status.st_ino, status.st_size, status.st_mtime_ns,
                     status.st_ctime_ns)


@functools.lru_cache(maxsize=1024)
def _checksum(path: str, *status: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
