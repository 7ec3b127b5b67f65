"""Fingerprints of files by their contents, which are read once for as long as they stay."""

import contextlib
import functools
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path, progress
from paddle_csrl.utils.arrays import read_npz
from paddle_csrl.utils.io import require_written_out

#: Image and label of every sample, or the image alone.
FileList = Sequence[Sequence[str]]

_THREADS = 8
_BATCH = 8  # files of a task, whose own cost is that of a small file
_IN_FLIGHT = 1024  # tasks; a waiting one takes a hundred times the memory of its results
_BLOCK = 1 << 20
# A file written again within a tick of the file system's clock looks unchanged, so that a digest
# is kept only of one that has rested for longer.
_REST_NS = 2 * 10**9


def fingerprint(file_list: FileList, cache_dir: str | None = None) -> str:
    """SHA-256 (hex) over the names and contents of all files, in order.

    Names count relative to the deepest common folder, so that a data set may be moved or copied.
    A file is read when it is first met, and again once its size, modification time, inode or
    change time is another; nobody can set the last one, so that no change is missed. The digests
    are kept in ``cache_folder(cache_dir)``. Of several processes the first one looks.

    Raises:
        UserError: a file is missing or cannot be read, naming it.
    """
    digest = _of_contents(file_list, cache_dir) if parallel.is_first() else b""
    return parallel.from_first(np.frombuffer(digest, np.uint8)).tobytes().hex()


def fingerprint_by_times(file_list: FileList) -> str:
    """The fingerprint in records of 0.1.0: names, sizes and modification times."""
    digest = _of_times(file_list) if parallel.is_first() else b""
    return parallel.from_first(np.frombuffer(digest, np.uint8)).tobytes().hex()


def shared_images(train: FileList, val: FileList, cache_dir: str | None = None) -> list[str]:
    """Paths of the images of ``val`` whose contents an image of ``train`` has, whatever its name.

    Of several processes the first one looks, and the others are told of none. Errors and
    ``cache_dir`` as for ``fingerprint``.
    """
    if not parallel.is_first():
        return []
    trained = set(_of_images(train, cache_dir).values())
    return [path for path, digest in _of_images(val, cache_dir).items() if digest in trained]


def cache_folder(cache_dir: str | None = None) -> str:
    """The folder of what is known of files: as given, as the environment says, or the default."""
    require_written_out(cache_dir or "", "zero_shot.cache_dir")
    return cache_dir or os.environ.get("PADDLE_CSRL_CACHE") or os.path.join(
        ".cache", "paddle_csrl")


def file_status(path: str, kind: str) -> os.stat_result:
    """``os.stat`` of a file, an image or a label as ``kind`` says; or ``UserError``."""
    try:
        status = os.stat(path)
        reason = "" if stat.S_ISREG(status.st_mode) else "no regular file"  # some never end
    except (OSError, ValueError) as error:  # the latter of a zero byte
        reason = str(getattr(error, "strerror", error))
    if reason:
        advice = ("write / for \\ in the list of files" if "\\" in path and os.sep == "/"
                  else "check `dataset_root` and the list of files")
        raise UserError(f"no {kind} at {path} ({reason}); {advice}")
    return status


def in_threads(function: Callable, items: Sequence, title: str, threads: int = 0) -> Iterator:
    """Give ``function`` of all items in order, with progress; 0 threads for 8.

    For what releases the interpreter, as reading, hashing and decoding do.
    """
    threads = threads or _THREADS
    # Every thread has at least as many tasks, so that all are done at about the same time.
    size = max(1, min(_BATCH, len(items) // (_BATCH * threads)))
    batches = [items[start:start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(threads) as pool:
        parts = (pool.map(lambda batch: [function(item) for item in batch],
                          batches[start:start + _IN_FLIGHT])
                 for start in range(0, len(batches), _IN_FLIGHT))
        results = chain.from_iterable(chain.from_iterable(parts))
        yield from progress(results, title, len(items))


def _files(file_list: FileList) -> tuple[str, list[tuple[str, str]]]:
    """The deepest common folder, and every file as a name below it and what it is."""
    files = [(os.path.abspath(path), kind) for pair in file_list
             for path, kind in zip(pair, ("image", "label")) if path]
    root = os.path.commonpath([path for path, _ in files]) if files else ""
    return root, [(path[len(root):], kind) for path, kind in files]


def _of_times(file_list: FileList) -> bytes:
    root, files = _files(file_list)
    statuses = ((name, file_status(root + name, kind)) for name, kind in files)
    return _sha256("".join(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
                           for name, status in statuses))


def _of_contents(file_list: FileList, cache_dir: str | None) -> bytes:
    root, files = _files(file_list)
    digests = _digests(root, files, cache_dir)
    return _sha256("".join(f"{name}\0{digests[name]}\n" for name, _ in files))


def _of_images(file_list: FileList, cache_dir: str | None) -> dict[str, str]:
    root, files = _files(file_list)
    digests = _digests(root, files, cache_dir)  # of labels, too, for their cache is one
    return {root + name: digests[name] for name, kind in files if kind == "image"}


def _digests(root: str, files: Sequence[tuple[str, str]], cache_dir: str | None
             ) -> dict[str, str]:
    """Find the digest of every file by its name, in the cache where it is known there."""
    cache = os.path.join(cache_folder(cache_dir), f"contents_{_sha256(root).hex()[:20]}.npz")
    now, known = time.time_ns(), _known(cache)
    statuses = {name: file_status(root + name, kind) for name, kind in files}
    marks = {name: _mark(status) for name, status in statuses.items()}
    digests = {name: known[name][1] for name, mark in marks.items()
               if name in known and known[name][0] == mark}
    missing = [name for name in marks if name not in digests]
    digests.update(zip(missing, in_threads(lambda name: _hash(root + name), missing,
                                           "reading files")))
    fresh = {name: (marks[name], digests[name]) for name in missing
             if statuses[name].st_ctime_ns < now - _REST_NS}
    if fresh:
        _keep({**{name: entry for name, entry in known.items()
                  if _is_unchanged(root + name, entry[0])}, **fresh}, cache)
    return digests


def _mark(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}"


def _is_unchanged(path: str, mark: str) -> bool:
    with contextlib.suppress(OSError):
        return _mark(os.stat(path)) == mark
    return False


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:  # a large block needs no other
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions, or "
                        f"take it out of the list of files") from None
    return digest.hexdigest()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _known(cache: str) -> dict[str, tuple[str, str]]:
    """Mark and digest by name; empty where ``cache`` is not there or not whole."""
    try:
        return _read(cache, _mark(os.stat(cache)))
    except (OSError, ValueError, KeyError):
        return {}


@functools.lru_cache(maxsize=4)
def _read(cache: str, _: str) -> dict[str, tuple[str, str]]:
    parts = read_npz(cache)["entries"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    return {name: (mark, digest) for name, mark, digest in zip(
        parts[::3], parts[1::3], parts[2::3])}


def _keep(known: dict[str, tuple[str, str]], cache: str) -> None:
    text = "\0".join(part for name, entry in known.items() for part in (name, *entry))
    try:
        with atomic_path(cache) as temporary:
            np.savez_compressed(temporary, entries=np.frombuffer(
                text.encode("utf-8", "surrogateescape"), np.uint8))
    except OSError as error:
        _tell_unwritable(os.path.dirname(cache), str(error.strerror))


@functools.cache
def _tell_unwritable(folder: str, reason: str) -> None:
    logger.warning(f"what the data hold cannot be kept in {folder} ({reason}) and is read again "
                   f"next time; set `zero_shot.cache_dir` to a folder you may write to")
