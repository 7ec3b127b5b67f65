"""The tools as the programs that `pip install` puts on the path: ``csrl-train`` and so on.

A module of this package is imported only when its program runs, and not for ``--help``, whose pages
are files: Paddle alone takes seconds to import.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from paddle_csrl.cli import run

#: The pages, ``MODULE.txt`` or ``MODULE_SUBCOMMAND.txt``; scripts/help_pages.py writes them.
HELP_PAGES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "assets", "help")


def help_page(module: str, argv: Sequence[str]) -> str | None:
    """Return the page that ``argv`` asks for; None if it does not, or none is kept."""
    if "-h" not in argv and "--help" not in argv:
        return None
    names = [f"{module}_{word}" for word in argv[:1]] + [module]
    for path in (os.path.join(HELP_PAGES, f"{name}.txt") for name in names):
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    return None


def _program(module: str, many: bool = False) -> Callable[[], None]:
    def program() -> None:
        # With Paddle there may be stages of the user's own, which the page does not know.
        page = None if sys.modules.get("paddle") else help_page(module, sys.argv[1:])
        if page:
            print(page, end="")
        else:
            run(lambda: importlib.import_module(f"paddle_csrl.cli.{module}").main(), many)

    program.__doc__ = f"Run tools/{module}.py with the arguments of the command line."
    return program


train = _program("train", many=True)
val = _program("val", many=True)
predict = _program("predict", many=True)
export = _program("export")
infer = _program("infer", many=True)
tune = _program("tune")
compare = _program("compare")
visualize = _program("visualize")
add_class = _program("add_class")
doctor = _program("doctor")
demo = _program("demo")
prepare_voc = _program("prepare_voc")
prepare_context = _program("prepare_context")
convert_zs3 = _program("convert_zs3")
