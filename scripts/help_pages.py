"""Write the pages of `--help` in paddle_csrl/assets/help anew, from the parsers.

    python scripts/help_pages.py
"""

import contextlib
import importlib
import io
import os
import sys
from unittest.mock import patch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import paddle_csrl  # noqa: E402, F401  (first: it orders the imports of cv2 and paddle)
from paddle_csrl.cli.programs import HELP_PAGES  # noqa: E402

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools")
#: Columns of a terminal, as argparse counts them.
WIDTH = 100
SUBCOMMANDS = {"visualize": ("relations", "compare", "report")}


def pages() -> dict[str, str]:
    """Return the pages by the name of their file, without its ending."""
    tools = sorted(name[:-3] for name in os.listdir(TOOLS) if name.endswith(".py"))
    return {"_".join([tool, *words]): page(tool, *words)
            for tool in tools for words in [(), *((word,) for word in SUBCOMMANDS.get(tool, ()))]}


def page(tool: str, *words: str) -> str:
    """Return what the parser of a tool prints for ``words`` and ``--help``."""
    module, text = importlib.import_module(f"paddle_csrl.cli.{tool}"), io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": str(WIDTH)}), contextlib.redirect_stdout(text), \
            contextlib.suppress(SystemExit):
        module.parse_args([*words, "--help"])
    return text.getvalue()


def main() -> None:
    os.makedirs(HELP_PAGES, exist_ok=True)
    for name, text in pages().items():
        with open(os.path.join(HELP_PAGES, f"{name}.txt"), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
