"""Files that are either whole or absent."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from PIL import Image

from paddle_csrl import limits
from paddle_csrl.errors import UserError

_TEMPORARY = re.compile(r"\.(\d+)\..+", re.DOTALL)


@contextlib.contextmanager
def atomic_path(path: str, lasting: bool = False) -> Iterator[str]:
    """Yield a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name keeps the extension, because writers such as ``np.savez`` and
    ``cv2.imwrite`` look at it. A failing block leaves neither file changed; where the system
    refuses to write, its ``OSError`` names ``path``.

    Args:
        path: the file.
        lasting: wait until the content is on the disk, so that not even a power cut leaves an
            empty file under the name. For what took long to make: it costs milliseconds, which
            thousands of pictures are not worth. The rename itself may be lost then, as if the
            process had ended before it.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        if lasting:
            _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or temporary in (error.filename, error.filename2):
            error.filename, error.filename2 = path, None
        raise
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def temporary_path(path: str) -> str:
    """Return the name beside ``path`` under which this process makes it."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{os.getpid()}.{name}")


def folder_aside(folder: str) -> str:
    """Make an empty folder beside ``folder``, to be filled and given its name; return the path.

    Those that killed processes have left of the same are cleared.
    """
    parent, name = os.path.split(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    for entry in os.listdir(parent):
        if is_left_over(entry) and entry.split(".", 2)[2] == name:
            shutil.rmtree(os.path.join(parent, entry))
    aside = temporary_path(folder)
    os.mkdir(aside)
    return aside


def is_left_over(name: str) -> bool:
    """Tell whether ``name`` is a temporary one of a process that has ended.

    One of this process counts as such: processes in containers often have the same number.
    """
    found = _TEMPORARY.fullmatch(name)
    return found is not None and not _is_another(int(found[1]))


def _is_another(process: int) -> bool:
    """Tell whether there is a process of a number, and it is not this one."""
    if process == os.getpid():
        return False
    if sys.platform == "win32":  # where the call below would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _flush_to_disk(path: str) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def asset(*names: str) -> str:
    """Return the path of a file or folder that comes with the package."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets",
                        *names)


def require_written_out(path: str, option: str) -> None:
    """Raise ``UserError`` if a path to write has ``~`` or ``$HOME``, which shells alone fill in.

    A folder ``~`` would be made here, and who removes it by its name removes the home folder.
    """
    meant = os.path.expandvars(os.path.expanduser(path))
    if meant != path:
        raise UserError(f"`{option}: {path}` is a path for a shell, which fills in {meant}; write "
                        f"that")


def make_folder(folder: str, option: str) -> None:
    """Make ``folder`` unless it is there.

    Raises:
        UserError: it cannot be written to, or is not written out; the message names the ``option``
            that chose it.
    """
    require_written_out(folder, option)
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
    require_written_out(path, option)
    make_folder(os.path.dirname(os.path.abspath(path)), option)


def write_text(path: str, text: str, lasting: bool = False) -> None:
    """Write ``text`` as UTF-8, by ``atomic_path``.

    Bytes of file names that Python could not decode are written as JSON escapes them.
    """
    with atomic_path(path, lasting) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def json_number(value: float) -> float | None:
    """Return a float for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def write_json(path: str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, by ``atomic_path``, to last."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", lasting=True)


def write_image(path: str, picture: Image.Image, kind: str, **options: Any) -> None:
    """Write a picture in a format of Pillow's, with the options of its ``save``.

    Pillow itself writes JPEG files without a look at whether the disk is full.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())


def read_json(path: str) -> Any:
    """Read a JSON file; ``None`` where there is none or ``write_json`` cannot have left it so."""
    try:
        if os.path.getsize(path) > limits.MOST_JSON_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_without_repetition)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice")
    return content
