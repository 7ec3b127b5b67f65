"""Files that are either whole or absent."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from paddle_csrl import limits
from paddle_csrl.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Yield a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name keeps the extension, because writers such as ``np.savez`` and
    ``cv2.imwrite`` look at it. A failing block leaves neither file changed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.getpid()}.{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def asset(*names: str) -> str:
    """Return the path of a file or folder that comes with the package."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets",
                        *names)


def make_folder(folder: str, option: str) -> None:
    """Make ``folder`` unless it is there.

    Raises:
        UserError: it cannot be written to; the message names the ``option`` that chose it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"`{option}: {folder}` is no folder that can be written to "
                        f"({error.strerror}); choose another") from None


def make_folder_of(path: str, option: str) -> None:
    """Make the folder of a file that is to be written.

    Raises:
        UserError: it cannot be written to, or ``path`` is a folder.
    """
    if os.path.isdir(path):
        raise UserError(f"`{option}: {path}` is a folder; name a file")
    make_folder(os.path.dirname(os.path.abspath(path)), option)


def write_text(path: str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)


def write_json(path: str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str) -> Any:
    """Read a JSON file; ``None`` where there is no such file, or it is not whole or too large."""
    try:
        if os.path.getsize(path) > limits.MOST_JSON_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
