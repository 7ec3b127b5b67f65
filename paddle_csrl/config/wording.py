"""The errors that pydantic finds in a config, as the one line that a user reads."""

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar, get_args, get_origin

from pydantic import ValidationError

from paddle_csrl.config.schema import SECTIONS, Keys, Section, Settings, ZeroShot
from paddle_csrl.errors import UserError

AnyKeys = TypeVar("AnyKeys", bound=Keys)


def join(*parts: object) -> str:
    """The dotted key of its parts."""
    return ".".join(str(part) for part in parts if part != "")


def unknown_key(key: object, known: Iterable[str], section: str, place: str) -> UserError:
    """The error for a key that is none of ``known``, with the nearest of them.

    One that is left of its section, in which it is known, is told with that unless another is
    almost the same.
    """
    sections: dict[str, type[Keys]] = {"zero_shot": ZeroShot, **SECTIONS}
    in_sections = [join(name, key) for name, kind in sections.items()
                   if not section and key in kind.model_fields]
    close = functools.partial(difflib.get_close_matches, str(key), list(known), n=1)
    nearest = close(cutoff=0.8) or in_sections or close()
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(sorted(known))}"
    return UserError(f"{place}: unknown key `{join(section, key)}`; {hint}")


def read_keys(kind: type[AnyKeys], content: object, place: str) -> AnyKeys:
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
    if not found:
        return None
    first = found[0]
    names, inner = _find(first["loc"], kind)
    dotted, value = join(section, *names), first["input"]
    match first["type"]:
        case "extra_forbidden" | "invalid_key":
            known = [*inner.model_fields, *(SECTIONS if inner is Settings else ())]
            return unknown_key(first["loc"][-1], known, dotted, place)
        case "missing":
            return (missing(dotted, place) if issubclass(inner, Section)
                    else UserError(f"{place}: `{dotted}` is missing"))
        case "value_error":
            cause = first["ctx"]["error"]
            return UserError(f"{place}: " + (f"{cause}" if isinstance(cause, UserError)
                                             else f"`{dotted}` {cause}"))
        case "model_type" | "dict_type":
            return no_pairs(value, dotted, place)
    # What may be of several types has a message for each of them.
    own = dict.fromkeys(re.sub(r"^\w+ should", "must", item["msg"]) for item in found
                        if _find(item["loc"], kind)[0] == names)
    text = " or ".join(own).replace("or must be", "or").replace("a valid boolean", "true or false")
    return UserError(f"{place}: `{dotted}: {value}` {text}")


def _find(place: Sequence[int | str], kind: type[Keys]) -> tuple[list[int | str], type[Keys]]:
    """The keys that lead to a place, and the class of the innermost section on the way."""
    names: list[int | str] = []
    parts = iter(place)
    for part in parts:
        if part not in kind.model_fields:
            break
        names.append(part)
        inner = kind.model_fields[part].annotation
        by_name = get_origin(inner) is dict
        inner = get_args(inner)[1] if by_name else inner
        inner = getattr(inner, "__origin__", inner)  # of an Annotated
        if not (isinstance(inner, type) and issubclass(inner, Keys)):
            break
        names += itertools.islice(parts, by_name)
        kind = inner
    return names, kind


def missing(dotted: str, place: str) -> UserError:
    """The error for a key that has to be there."""
    return UserError(f"{place}: `{dotted}` is missing; set it or inherit it from a file under "
                     f"configs/_base_/")


def no_pairs(content: object, dotted: str, place: str) -> UserError:
    """The error for a value where a section or a component belongs."""
    return UserError(f"{place}: `{dotted}` must hold `key: value` pairs, got {content!r}")
