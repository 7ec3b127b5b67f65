"""Write the tables of keys in docs/configs.md and docs/compare.md anew, from the schemas.

    python scripts/config_tables.py
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, ROOT)

from pydantic.fields import FieldInfo  # noqa: E402

from paddle_csrl.compare.plan import Plan  # noqa: E402
from paddle_csrl.config import load_yaml  # noqa: E402
from paddle_csrl.config.schema import (  # noqa: E402
    SECTIONS,
    Keys,
    Section,
    Settings,
    ZeroShot,
    shown_default,
    shown_value,
)

#: The heading above each table, by document.
TABLES = {"configs.md": {"## Top level": Settings, "## `zero_shot`": ZeroShot,
                         **{f"## `{name}`": kind for name, kind in SECTIONS.items()}},
          "compare.md": {"# ": Plan}}


def markdown_table(kind: type[Keys], base: dict[str, Any] | None = None) -> str:
    """Return the table of the keys of a section.

    Args:
        kind: the section; a section within it has its rows in the same table, but ``zero_shot``.
        base: the section as ``configs/_base_/csrl.yml`` has it, whose values are told.
    """
    rows = [f"| `{name}` | {_default(field, (base or {}).get(name))} | {field.description} |"
            for name, field in _keys(kind)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _keys(kind: type[Keys], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield dotted names and fields of the keys of a section and of the sections within it."""
    for name, field in kind.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            yield prefix + name, field
        elif field.annotation is not ZeroShot:
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _default(field: FieldInfo, in_base: Any) -> str:
    told = in_base is not None and not isinstance(in_base, dict) and (
        field.is_required() or in_base != field.default)
    return shown_default(field) + (f" ({shown_value(in_base)} in `_base_/csrl.yml`)" if told
                                   else "")


def rewritten(text: str, tables: dict[str, type[Keys]]) -> str:
    """Return a document with its tables of keys as the schemas have them."""
    base = load_yaml(os.path.join(ROOT, "configs", "_base_", "csrl.yml"))
    for heading, kind in tables.items():
        start = text.index(heading)
        found = re.compile(r"^\| key \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL).search(text, start)
        table = markdown_table(kind, base.get(getattr(kind, "name", "")))
        text = f"{text[:found.start()]}{table}\n{text[found.end():]}"
    return text


def main() -> None:
    """Write the documents whose tables have changed."""
    for name, tables in TABLES.items():
        path = os.path.join(ROOT, "docs", name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text != rewritten(text, tables):
            with open(path, "w", encoding="utf-8") as file:
                file.write(rewritten(text, tables))
            print(f"written: {path}")


if __name__ == "__main__":
    main()
