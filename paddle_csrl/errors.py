"""The one exception type for mistakes a user can make and mend, and how it is found again."""

import errno
import re

_WORKER_MARK = "UserError: "

_AGAIN = "and run the same command again, it goes on"
#: What the system may say to any write, and what to do then.
_UNWRITABLE = {errno.ENOSPC: f"free some space {_AGAIN}",
               errno.EDQUOT: f"free some of your quota {_AGAIN}",
               errno.EFBIG: f"raise the limit on the size of files (ulimit -f) {_AGAIN}",
               errno.EROFS: "choose a folder that can be written to"}
#: What else it refuses for reasons that lie outside of the program.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}


#: Letters of a message; a value in it may be a file's whole content.
_LONGEST = 2000
# What a terminal would act upon, such as in the name of a file.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class UserError(ValueError):
    """A mistake in a config, a file or a command-line value.

    The message is one line that names the value, where it stands and how to mend it; the
    command-line tools print it without a traceback and exit with status 2.
    """


def user_message(error: BaseException | None) -> str | None:
    """Return the one line for the user if a ``UserError`` is behind ``error``, else None.

    A full disk and the like are the user's to mend, too. PaddleSeg's builder and Paddle's loader
    processes wrap what they catch, the latter as text.
    """
    if isinstance(error, OSError):
        path = error.filename2 or error.filename or "the output or a temporary file"
        if is_unwritable(error):
            return f"cannot write {path}: {error.strerror}; {_UNWRITABLE[error.errno or 0]}"
        if error.errno in _REFUSALS:
            return f"{error.strerror}: {path}"
    while error is not None:
        if isinstance(error, UserError) and _WORKER_MARK not in str(error):
            return _shown(" ".join(line.strip() for line in str(error).splitlines()))
        if _WORKER_MARK in str(error):
            return _shown(str(error).rsplit(_WORKER_MARK, 1)[1].strip().splitlines()[0])
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException) -> str:
    """Return what another library says of a mistake, for the one line of a ``UserError``."""
    return " ".join(str(error).split())


def _shown(text: str) -> str:
    """Without control characters; of a long one the beginning and the end, which says the fix."""
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST // 2]} ... {text[-_LONGEST // 2:]}"


def is_unwritable(error: BaseException) -> bool:
    """Tell whether nothing more can be written, such as to a full disk: all else would fail, too.
    """
    return isinstance(error, OSError) and error.errno in _UNWRITABLE
