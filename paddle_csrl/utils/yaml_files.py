"""YAML files: read with care, for a few lines may announce a memory full, and written."""

import copy
import functools
import io
import os
from typing import Any, cast

import yaml
from paddleseg.utils import utils

from paddle_csrl import limits
from paddle_csrl.errors import UserError, one_line

_INT = "tag:yaml.org,2002:int"


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses more than is plausible.

    A key that stands twice is refused, of which YAML's own takes the last one. So are more values
    than ``MOST_YAML_VALUES``, counting what an alias stands for where it stands, for the values
    are copied later; an alias within what it stands for; and nesting beyond ``DEEPEST_YAML``.
    """

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._sizes: dict[yaml.Node, int] = {}
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > limits.DEEPEST_YAML:
            raise _mistake(f"nested deeper than {limits.DEEPEST_YAML} levels", mark)
        node = cast(yaml.Node, super().compose_node(parent, index))
        self._depth -= 1
        if is_alias and node not in self._sizes:
            raise _mistake("the alias stands within what it stands for", mark)
        if not is_alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            self._sizes[node] = 1 + sum(self._sizes[part] for part in parts)
        if self._sizes[node] > limits.MOST_YAML_VALUES:
            raise _mistake(f"more than {limits.MOST_YAML_VALUES} values, aliases written out", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _mistake(f"the key `{key.value}` stands twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > limits.MOST_DIGITS:
            raise _mistake(f"a number of {len(node.value)} digits", node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)


def _mistake(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_yaml(path: str) -> Any:
    """Read what a YAML file holds, by the safe loader.

    Raises:
        UserError: it is too large or not well-formed, has a key twice, or more values, levels or
            digits than any config.
    """
    if os.path.getsize(path) > limits.MOST_YAML_BYTES:
        raise UserError(f"{path} has {os.path.getsize(path)} bytes, which no config has; name "
                        f"long lists by the path of a text file")
    try:
        with open(path, encoding="utf-8") as file:
            return copy.deepcopy(_parsed(file.read(), path))
    except OSError:
        raise
    except Exception as error:  # PyYAML raises many types for values that do not fit their tags
        raise UserError(f"{path} is not well-formed YAML: {one_line(error)}") from None


@functools.lru_cache(maxsize=64)
def _parsed(text: str, path: str) -> Any:
    """Parse a file's text. A comparison reads few files, for hundreds of cells."""
    stream = io.StringIO(text)
    stream.name = path  # in messages
    return yaml.load(stream, _Loader)


def dump_yaml(content: Any) -> str:
    """Return ``content`` as YAML: keys in their order, and what is shared written out."""
    return yaml.dump(content, Dumper=utils.NoAliasDumper, allow_unicode=True, sort_keys=False)
