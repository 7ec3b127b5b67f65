"""Reading archives and unpacked folders alike, without ever writing where an archive says."""

import hashlib
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path, progress

#: Far above any image or label, far below what memory holds.
_MOST_BYTES = 1 << 27
_BLOCK = 1 << 22
_TORN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


class Member(NamedTuple):
    """A file in an archive or folder.

    Attributes:
        name (str): its path with ``/``, in a folder beginning with the folder's own name.
        size (int): in bytes.
        read (callable): gives the content, bytes.
    """
    name: str
    size: int
    read: Callable[[], bytes]


def walk(path: str, title: str) -> Iterator[Member]:
    """The regular files of a folder, a tar archive (compressed or not) or a zip archive.

    Links and special files of an archive are passed over, and so are hidden files.

    Raises:
        UserError: the archive is torn, is none, or has a member that points outside of it.
    """
    try:
        for member in progress(_members(path), title):
            if not member.name.rsplit("/", 1)[-1].startswith("."):
                yield member
    except _TORN as error:
        raise _torn(path, error) from None


def _torn(path: str, error: Exception) -> UserError:
    return UserError(f"{path} is not a whole archive or folder ({error}); get it again")


def _members(path: str) -> Iterator[Member]:
    if os.path.isdir(path):
        return _folder_members(path)
    if zipfile.is_zipfile(path):
        return _zip_members(path)
    return _tar_members(path)


def _folder_members(path: str) -> Iterator[Member]:
    """Linked folders are followed, for they are the user's own, but none twice."""
    base, visited = os.path.dirname(os.path.abspath(path)), set()
    for folder, folders, names in os.walk(os.path.abspath(path), followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in sorted(names):
            full = os.path.join(folder, name)
            if os.path.isfile(full):
                size = os.path.getsize(full)
                yield _member(path, os.path.relpath(full, base).replace(os.sep, "/"), size,
                              lambda full=full: open(full, "rb"))


def _tar_members(path: str) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            name = _inside(path, info.name)
            if info.isreg():
                yield _member(path, name, info.size, lambda info=info: archive.extractfile(info))


def _zip_members(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _inside(path, info.filename)
            is_regular = (info.external_attr >> 28) in (0, 8)  # a link or device has another type
            if is_regular and not info.is_dir():
                yield _member(path, name, info.file_size, lambda info=info: archive.open(info))


def _member(path: str, name: str, size: int, open_it: Callable) -> Member:
    def read() -> bytes:
        if size > _MOST_BYTES:
            raise UserError(f"{path} holds {name} with {size} bytes, which is no image, label or "
                            f"list; download it from the official place")
        try:
            with open_it() as file:
                return file.read(size)
        except _TORN as error:
            raise _torn(path, error) from None

    return Member(name, size, read)


def _inside(path: str, name: str) -> str:
    """The member's name without a leading ``./``.

    Raises:
        UserError: the name is absolute or climbs out of the archive.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name \
            or re.match(r"[A-Za-z]:", name):
        raise UserError(f"{path} holds {name!r}, a name that points outside of it: no official "
                        f"archive does; download it from the official place")
    return "/".join(parts)


def copy_member(member: Member, path: str) -> bool:
    """Write the member to ``path`` unless a file of its size is there; whether it was written."""
    if os.path.isfile(path) and os.path.getsize(path) == member.size:
        return False
    content = member.read()
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)
    return True


def require_input(path: str, option: str, advice: str) -> None:
    """Raise ``UserError`` with ``advice`` unless there is a file or folder at ``path``."""
    if not os.path.exists(path):
        raise UserError(f"nothing at `{option} {path}`: {advice}, or name the archive or the "
                        f"unpacked folder with {option}")


def require_md5(path: str, expected: str) -> None:
    """Check a downloaded file; folders have no checksum.

    Raises:
        UserError: the MD5 checksum is another one.
    """
    if os.path.isdir(path):
        return
    digest = hashlib.md5()
    with open(path, "rb") as file:
        blocks = -(-os.path.getsize(path) // _BLOCK)
        for block in progress(iter(lambda: file.read(_BLOCK), b""),
                              f"checksum of {os.path.basename(path)}", blocks):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise UserError(f"{path} has the MD5 checksum {digest.hexdigest()}, the official file has "
                        f"{expected}; download it again, or give --no_checksum if you trust it")
