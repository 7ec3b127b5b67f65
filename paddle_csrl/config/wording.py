"""What pydantic has against a config, as the one line that a user reads."""

import difflib
import itertools
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from paddle_csrl.config.schema import MOST, SECTIONS, Keys, Section, Settings, Wanted
from paddle_csrl.errors import UserError

AnyKeys = TypeVar("AnyKeys", bound=Keys)

_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_RANGES = {(): "", ("ge",): " of at least {}", ("gt",): " above {}",
           ("le",): " of at most {}", ("lt",): " below {}",
           ("ge", "le"): " from {} to {}", ("gt", "le"): " above {} and up to {}",
           ("ge", "lt"): " from {} up to but without {}", ("gt", "lt"): " between {} and {}"}
_PAIRS = Wanted("`key: value` pairs")


def join(*parts: Any) -> str:
    """The dotted key of its parts."""
    return ".".join(str(part) for part in parts if part != "")


def unknown_key(key: Any, known: Iterable[str], section: str, place: str) -> UserError:
    """The error for a key that is none of ``known``, with the nearest of them."""
    nearest = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(sorted(known))}"
    return UserError(f"{place}: unknown key `{join(section, key)}`; {hint}")


def read_keys(kind: type[AnyKeys], content: Any, place: str) -> AnyKeys:
    """The content of a YAML file of a kind of its own, checked.

    Raises:
        UserError: the first mistake in it.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise user_error(error, kind, "", place) or error from None


def user_error(error: ValidationError, kind: type[Keys], section: str, place: str,
               whole: bool = True) -> UserError | None:
    """The first mistake in a section: an unknown key rather than a wrong value.

    Args:
        error: what pydantic found.
        kind: the section's class.
        section: its dotted name, "" for the top level.
        place: the file.
        whole: whether it is a mistake if a key is missing.
    """
    rank = {"extra_forbidden": 0, "invalid_key": 0, "missing": 2}
    found = sorted((item for item in error.errors() if whole or item["type"] != "missing"),
                   key=lambda item: rank.get(item["type"], 1))
    return _sentence(found[0], kind, section, place) if found else None


def _sentence(item: Mapping[str, Any], kind: type[Keys], section: str,
              place: str) -> UserError:
    names, field, parts = [], None, iter(item["loc"])
    for part in parts:
        if part not in kind.model_fields:
            break
        names.append(part)
        field = kind.model_fields[part]
        by_name = get_origin(field.annotation) is dict
        inner = get_args(field.annotation)[1] if by_name else field.annotation
        inner = getattr(inner, "__origin__", inner)  # of an Annotated
        if not (isinstance(inner, type) and issubclass(inner, Keys)):
            break
        names += itertools.islice(parts, by_name)
        kind = inner
    dotted = join(section, *names)
    if item["type"] in ("extra_forbidden", "invalid_key"):
        known = [*kind.model_fields, *(SECTIONS if kind is Settings else ())]
        return unknown_key(item["loc"][-1], known, dotted, place)
    if item["type"] == "missing":
        return (missing(dotted, place) if issubclass(kind, Section)
                else UserError(f"{place}: `{dotted}` is missing"))
    if item["type"] == "value_error":
        cause = item["ctx"]["error"]
        return UserError(f"{place}: " + (f"{cause}" if isinstance(cause, UserError)
                                         else f"`{dotted}` {cause}"))
    wanted = _PAIRS if item["type"] == "model_type" or field is None else describe(field)
    if wanted.endswith("pairs"):
        return no_pairs(item["input"], dotted, place)
    if item.get("ctx") == {"le": MOST}:
        wanted = f"no more than {MOST}"
    value = item["input"]
    return UserError(f"{place}: `{dotted}: {value}` must be {wanted}")


def missing(dotted: str, place: str) -> UserError:
    """The error for a key that has to be there."""
    return UserError(f"{place}: `{dotted}` is missing; set it or inherit it from a file under "
                     f"configs/_base_/")


def no_pairs(content: Any, dotted: str, place: str) -> UserError:
    """The error for a value where a section or a component belongs."""
    return UserError(f"{place}: `{dotted}` must hold `key: value` pairs, got {content!r}")


def describe(field: FieldInfo) -> str:
    """What the value of a key must be, such as "an integer of at least 1"."""
    return _describe(field.annotation, field.metadata)


def _describe(kind: Any, metadata: Iterable[Any] = ()) -> str:
    for item in metadata:
        if isinstance(item, Wanted):
            return item
    if hasattr(kind, "__metadata__"):  # Annotated
        return _describe(get_args(kind)[0], kind.__metadata__)
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_describe(part) for part in choices if part is not type(None))
    return _PLAIN.get(kind, str(kind)) + _range(metadata)


def _range(metadata: Iterable[Any]) -> str:
    """Say the bounds, but not that of NumPy's seeds."""
    found = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
    bounds = {name: getattr(bound, name) for name in ("ge", "gt", "le", "lt") for bound in found
              if hasattr(bound, name)}
    if bounds.get("le") == MOST:
        del bounds["le"]
    return _RANGES[tuple(bounds)].format(*bounds.values())
