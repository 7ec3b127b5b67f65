"""One process at a time in a folder."""

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import make_folder, read_json

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none, and no lock here
    fcntl = None

#: The file that says who is at work in its folder.
LOCK_FILE = "run.lock"
#: What a file system answers that knows no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FolderInUse(UserError):
    """Another process is at work in the folder."""


class _Held:
    """An open lock file, and how often this process is inside."""

    def __init__(self, file: Any):
        self.file, self.times = file, 0


#: By process, for a forked one inherits none of them, and by real path.
_held: dict[tuple[int, str], _Held] = {}


@contextlib.contextmanager
def hold(folder: str) -> Iterator[bool]:
    """Have a folder for this process alone, among all that hold it; it is made if need be.

    It is a lock of the system's, on a file that says whose it is: it ends with the process,
    however that ends, and forked loader processes do not inherit it. Nothing is locked where the
    system or the file system knows no such locks. A folder that was made and stayed empty is
    taken away again.

    Yields:
        bool: whether this process, which may hold a folder several times, did not do so before.

    Raises:
        FolderInUse: another process holds it; the message tells which.
        UserError: it cannot be written to.
    """
    made = _missing(folder)
    make_folder(folder, "save_dir")
    key = os.getpid(), os.path.realpath(folder)
    held = _held.get(key)
    if held is None:
        held = _held[key] = _Held(_take(folder))
    held.times += 1
    try:
        yield held.times == 1
    finally:
        held.times -= 1
        if not held.times:
            del _held[key]
            with contextlib.suppress(OSError):
                if held.file:
                    os.remove(os.path.join(key[1], LOCK_FILE))  # before it is anyone else's
                    held.file.close()
                for path in made:
                    os.rmdir(path)


def _missing(folder: str) -> list[str]:
    """Return the folders that making ``folder`` will make, the innermost first."""
    missing, path = [], os.path.abspath(folder)
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _take(folder: str) -> Any:
    """Return the open, locked file; None where there are no locks."""
    if fcntl is None:
        return None
    path = os.path.join(folder, LOCK_FILE)
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in _NO_LOCKS:
                return None
            raise FolderInUse(f"{folder} is in use by {_holder(path)}; wait for it or choose "
                              f"another --save_dir") from None
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        file.close()  # who held it has just taken the file away
    with contextlib.suppress(OSError):  # an empty file locks as well
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(),
                   "command": shlex.join(sys.argv), "since": time.strftime("%Y-%m-%d %H:%M:%S")},
                  file)
        file.flush()
    return file


def _holder(path: str) -> str:
    """Say what the lock file at ``path`` tells of its process."""
    found = read_json(path)
    if not isinstance(found, dict):
        return "another process"
    host = found.get("host")
    where = "" if host == socket.gethostname() else f" on {host}"
    return f"process {found.get('pid')}{where} ({found.get('command')}) since {found.get('since')}"
