"""Reading archives and unpacked folders alike, without ever writing where an archive says."""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from paddle_csrl import limits
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.utils import atomic_path, progress

#: Far above any image or label, far below what memory holds.
_MOST_BYTES = 1 << 27
#: VOC 2012, the largest, has 37,000.
_MOST_MEMBERS = 200_000
#: Context's labels would be 15 GB as plain doubles, and shrink to a five-hundredth.
_MOST_UNPACKED, _RATIO = 1 << 34, 600
_LONGEST_PATH = 1000
_MOST_READ = 1 << 27
_BLOCK = 1 << 22
_OPENERS: dict[bytes, Callable[[str], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


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
        UserError: the archive is torn, is none, unpacks to more than its size lets expect, or has
            a member that points outside of it.
    """
    try:
        for member in progress(_members(path), title):
            if not member.name.rsplit("/", 1)[-1].startswith("."):
                yield member
    except UserError:
        raise
    except Exception as error:  # the readers of archives raise many types for crafted ones
        raise _torn(path, error) from None


def _torn(path: str, error: Exception) -> UserError:
    reason = one_line(error)[:120] or type(error).__name__
    return UserError(f"{path} is not a whole archive or folder ({reason}); get it again")


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
    with open(path, "rb") as file:
        head = file.read(8)
    unpack = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    with unpack(path) if unpack else open(path, "rb") as unpacked:
        with tarfile.open(fileobj=_SmallReads(unpacked), mode="r:") as archive:  # type: ignore
            for count, info in enumerate(archive, 1):
                name = _inside(path, info.name)
                _require_likely(path, count, info.offset_data + info.size)
                if info.size < 0:
                    raise tarfile.ReadError(f"{name} has a size below 0")
                if info.isreg():
                    yield _member(path, name, info.size,
                                  lambda info=info: archive.extractfile(info))


class _SmallReads:
    """A file of which no large part is read at once: a tar header may ask for all of the memory."""

    def __init__(self, file: Any):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _zip_members(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        unpacked = 0
        for count, info in enumerate(archive.infolist(), 1):
            name = _inside(path, info.filename)
            unpacked += info.file_size
            _require_likely(path, count, unpacked)
            is_regular = (info.external_attr >> 28) in (0, 8)  # a link or device has another type
            if is_regular and not info.is_dir():
                yield _member(path, name, info.file_size, lambda info=info: archive.open(info))


def _require_likely(path: str, count: int, unpacked: int) -> None:
    """Raise ``UserError`` if ``count`` members or ``unpacked`` bytes are more than data have."""
    most = min(limits.most_unpacked(path, _RATIO), _MOST_UNPACKED)
    if count > _MOST_MEMBERS or unpacked > most:
        raise UserError(f"{path} of {os.path.getsize(path)} bytes unpacks to {unpacked} and more, "
                        f"in {count} files so far, which no data set does; download it from the "
                        f"official place")


def _member(path: str, name: str, size: int, open_it: Callable) -> Member:
    def read() -> bytes:
        if size > _MOST_BYTES:
            raise UserError(f"{path} holds {name} with {size} bytes, which is no image, label or "
                            f"list; download it from the official place")
        try:
            with open_it() as file:
                content = file.read(size)
        except Exception as error:  # as in ``walk``
            raise _torn(path, error) from None
        if len(content) != size:
            raise _torn(path, EOFError(f"{name} has {len(content)} of its {size} bytes"))
        return content

    return Member(name, size, read)


def _inside(path: str, name: str) -> str:
    """The member's name without a leading ``./``.

    Raises:
        UserError: the name is absolute, climbs out of the archive, or cannot be printed.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise UserError(f"{path} holds {name[:99]!r}, a name that points outside of it: no "
                        f"official archive does; download it from the official place")
    if not name.isprintable() or len(name) > _LONGEST_PATH:
        raise UserError(f"{path} holds {name[:99]!r}, which is no name of an official archive; "
                        f"download it from the official place")
    return "/".join(parts)


class Targets:
    """The files that members of the archive at ``path`` become.

    A folder is the user's own and may well hold a data set twice.
    """

    def __init__(self, path: str):
        self.path, self._is_archive = path, os.path.isfile(path)
        self._taken: set[str] = set()
        self._bytes = 0

    def claim(self, target: str, size: int = 0) -> str:
        """Return ``target``, the relative name of a file of ``size`` that is about to be written.

        Raises:
            UserError: another member has become it, or would where upper case does not count, or
                all of them are larger than images in an archive of this size can be.
        """
        if self._is_archive:
            if target.casefold() in self._taken:
                raise UserError(f"{self.path} holds {target} twice, of which only one can be "
                                f"right; download it from the official place")
            self._taken.add(target.casefold())
            self._bytes += size
            if self._bytes > limits.most_unpacked(self.path):
                raise UserError(f"{self.path} of {os.path.getsize(self.path)} bytes holds images "
                                f"of {self._bytes} and more, which shrink to no such size; "
                                f"download it from the official place")
        return target


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
