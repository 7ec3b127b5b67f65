"""The command-line tools: thin parsers over the package. Each ``main(argv)`` returns results."""

import sys
from typing import Any, Callable, Optional

from paddle_csrl.errors import UserError

_WORKER_MARK = "UserError: "


def run(main: Callable[[], Any]) -> None:
    """Run ``main`` as a program: a user's mistake is one line on stderr and exit status 2.

    A result that names what ``failed`` ends with status 1.
    """
    try:
        result = main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    if isinstance(result, dict) and result.get("failed"):
        sys.exit(1)


def user_message(error: Optional[BaseException]) -> Optional[str]:
    """The one line for the user if a ``UserError`` is behind ``error``, else None.

    PaddleSeg's builder and Paddle's loader processes wrap what they catch, the latter as text.
    """
    while error is not None:
        if isinstance(error, UserError) and _WORKER_MARK not in str(error):
            return " ".join(str(error).split())
        if _WORKER_MARK in str(error):
            return str(error).rsplit(_WORKER_MARK, 1)[1].strip().splitlines()[0]
        error = error.__cause__ or error.__context__
    return None
