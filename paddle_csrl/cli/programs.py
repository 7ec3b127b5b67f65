"""The tools as the programs that `pip install` puts on the path: ``csrl-train`` and so on.

A module of this package is imported only when its program runs.
"""

import importlib
from collections.abc import Callable

from paddle_csrl.cli import run


def _program(module: str, many: bool = False) -> Callable[[], None]:
    def program() -> None:
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
