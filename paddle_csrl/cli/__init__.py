"""The command-line tools: thin parsers over the package.

Each module is a tool: its docstring is the help, ``parse_args(argv)`` takes the flags, and
``main(argv)`` runs the command line and returns results. What a user has to mend, in the flags or
in what they name, is raised as ``UserError``.
"""

import argparse
import inspect
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from paddle_csrl import mkl, stopping
from paddle_csrl.doctor.installation import GET_PADDLE
from paddle_csrl.errors import UserError, user_message

#: Seconds that ``paddle.distributed.launch`` has to find the process that failed first.
_PATIENCE = 20.0


def help_texts(doc: str | None) -> dict[str, Any]:
    """Turn a docstring into arguments of a parser: its first paragraph stands before the flags."""
    description, _, epilog = inspect.cleandoc(doc or "").partition("\n\n")
    return {"description": description, "epilog": epilog,
            "formatter_class": argparse.RawDescriptionHelpFormatter}


def make_parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a tool from its module's name and docstring."""
    return argparse.ArgumentParser(prog=f"{module.rsplit('.', 1)[-1]}.py", **help_texts(doc))


def run(main: Callable[[], Any], many: bool = False) -> None:
    """Run ``main`` as a program: a user's mistake is one line on stderr and exit status 2.

    A result that names what ``failed`` ends with status 1, SIGTERM with 143, Ctrl-C with 130.

    Args:
        main: does it all and returns results.
        many: whether it knows how to work as one of several processes.
    """
    try:
        _tell_of_mkl()
        if not many and int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1:
            raise UserError("this tool is one process: start it by itself; train.py, val.py, "
                            "predict.py and infer.py run under paddle.distributed.launch")
        with stopping.handled():
            result = main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except stopping.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_status)
    except Exception as error:
        message = user_message(error)
        if isinstance(error, ModuleNotFoundError) and error.name == "paddle":
            message = f"Paddle is not installed: {GET_PADDLE}"
        if message is None and many and "gloo" in str(error):
            # Another process has failed. The launcher shows the log of the one that ends first.
            print("another process has ended; the error is in its log", file=sys.stderr, flush=True)
            time.sleep(_PATIENCE)
            sys.exit(1)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        _let_go_of_output()
        sys.exit(2)
    if isinstance(result, dict) and result.get("failed"):
        sys.exit(1)


def _let_go_of_output() -> None:
    """Have Python end quietly, with our status, where its output went to a disk that is full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_of_mkl() -> None:
    """One line on the CPU setting, where it makes a difference and something computes."""
    if mkl.setting().is_notable and sys.modules.get("paddle"):
        from paddleseg.utils import logger

        logger.info(f"CPU: {mkl.setting().text}")
