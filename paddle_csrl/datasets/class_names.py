"""Names of the classes, by label id, and from names back to ids."""

import difflib
import glob
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence

from paddle_csrl import limits
from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import asset

# PaddleSeg's data set types and the built-in names that go with their label ids.
_BY_DATASET_TYPE = {"PascalVOC": "voc", "PascalContext": "context", "Cityscapes": "cityscapes",
                    "ADE20K": "ade20k", "CocoStuff": "coco_stuff"}

#: Different words for one class. A member finds any other where a data set has just one of them.
SYNONYMS = (("aeroplane", "airplane"), ("motorbike", "motorcycle"), ("sofa", "couch"),
           ("tvmonitor", "tv", "television"))


# What lists of classes say beside the names: an id ahead of each, or a colour.
_ID = re.compile(r"(\d+)[\s,;:.)]+\S")
_COLOR = re.compile(r"\d+[\s,;]+\d+[\s,;]+\d+")


def read_class_names(source: str | Sequence[str]) -> list[str]:
    """Class names from wherever a config may take them.

    Args:
        source: the name of a built-in set (a key of ``CLASS_NAMES``), the path of a text file,
            or the names themselves. A file holds one name per line in the order of the label
            ids; blank lines and what follows a ``#`` are skipped.

    Returns:
        list[str]: name of every class, by id.

    Raises:
        UserError: there is no such set or file, it names no class or has more than names, or a
            name occurs twice.
    """
    if not isinstance(source, str):
        return _read_list(source)
    if source in CLASS_NAMES:
        return list(CLASS_NAMES[source])
    if not os.path.isfile(source):
        raise UserError(f"`class_names: {source}` is neither a file nor one of "
                        f"{', '.join(CLASS_NAMES)}")
    return _read_file(source)


def class_names_for(dataset_type: str) -> list[str]:
    """The built-in names of a PaddleSeg data set type such as ``PascalVOC``.

    Returns:
        list[str]: name of every class, by PaddleSeg's label id.

    Raises:
        UserError: no names are built in for the type.
    """
    by_folded = {fold_name(known): group for known, group in _BY_DATASET_TYPE.items()}
    group = by_folded.get(fold_name(dataset_type))
    if group is None:
        raise UserError(f"no class names are built in for data sets of `type: {dataset_type}`; "
                        f"set `class_names` to a text file with one name per line, to a list, or "
                        f"to one of {', '.join(CLASS_NAMES)}")
    return list(CLASS_NAMES[group])


def resolve_classes(names: Sequence[str], wanted: str | Sequence[str]) -> list[int]:
    """Ids of the unseen classes.

    Upper and lower case are alike, and blanks, ``_`` and ``-`` do not count: ``Potted-Plant``
    finds ``pottedplant``. ``SYNONYMS`` are tried next.

    Args:
        names (list[str]): name of every class, by id.
        wanted (list[str] or str): names of the unseen classes; a text separates them by commas.

    Returns:
        list[int]: ids in the order of ``wanted``.

    Raises:
        UserError: a name that no class or more than one class has, a class named twice, the
            background, no class at all, or all of them.
    """
    with_comma = [name for name in names if "," in name and isinstance(wanted, str)]
    wanted = _names_wanted(wanted)
    try:
        ids = [find_class(names, name) for name in wanted]
    except UserError as error:
        if not with_comma:
            raise
        raise UserError(f"{error}; a text is cut at every comma, so give a list where a name has "
                        f"one: zero_shot.unseen=\"{with_comma[:1]}\"") from None
    for position, class_id in enumerate(ids):
        if class_id in ids[:position]:
            raise UserError(f"`unseen` names {names[class_id]} twice "
                            f"({wanted[ids.index(class_id)]}, {wanted[position]}); keep one")
        if fold_name(names[class_id]) == "background":
            raise UserError(f"`unseen` holds {wanted[position]}; the background is always a seen "
                            f"class, take it out")
    if len(ids) == len(names):
        raise UserError(f"`unseen` names all {len(names)} classes, so that none is left to learn "
                        f"from; take some out")
    return ids


def _names_wanted(wanted: str | Sequence[str]) -> list[str]:
    if isinstance(wanted, str):
        wanted = [name.strip() for name in wanted.split(",")]
    if not isinstance(wanted, (list, tuple)):
        raise UserError(f"`unseen: {wanted}` must be a list of class names")
    for name in wanted:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"`unseen` holds {name!r}, which is no class name; write a name (in "
                            f"quotes where YAML would take it for a number or true/false)")
    if not wanted:
        raise UserError("`unseen` names no class; name at least one")
    return list(wanted)


def find_class(names: Sequence[str], wanted: str, place: str = "`unseen`",
               whole: str = "the data set") -> int:
    """The position of a class in ``names``, found by the rules of ``resolve_classes``.

    Args:
        names (list[str]): the classes to choose from.
        wanted (str): the name looked for.
        place (str): where it was given, for messages.
        whole (str): what ``names`` are the classes of, for messages.

    Raises:
        UserError: none or several of them have the name.
    """
    require_length(wanted, place)
    folded, key = [fold_name(name) for name in names], fold_name(wanted)
    if key in folded:
        return folded.index(key)
    others = {other for group in SYNONYMS if key in group for other in group}
    found = [class_id for class_id, name in enumerate(folded) if name in others]
    if len(found) == 1:
        return found[0]
    nearest = [names[class_id] for class_id in found] or [
        names[folded.index(name)]
        for name in difflib.get_close_matches(key, folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(names)}"
    raise UserError(f"{place} holds {wanted}, which is no class of {whole}; {hint}")


def fold_name(name: str) -> str:
    """A name as the rules compare it: without case, blanks, ``_`` and ``-``.

    Letters that Unicode writes in several ways, such as accents, are alike (NFKC).
    """
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name)).casefold()


def _read_list(source: Sequence[str]) -> list[str]:
    if not isinstance(source, (list, tuple)) or not source:
        raise UserError(f"`class_names: {source}` must be a list of names, a text file or one of "
                        f"{', '.join(CLASS_NAMES)}")
    _require_number(len(source), "`class_names`")
    first: dict[str, int] = {}
    for class_id, name in enumerate(source):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"`class_names` has {name!r} as class {class_id}, which is no name; "
                            f"put it in quotes")
        require_length(name, f"`class_names`, class {class_id}")
        if first.setdefault(fold_name(name), class_id) != class_id:
            raise UserError(f"`class_names` has {name} twice, as class "
                            f"{first[fold_name(name)]} and {class_id}; rename one")
    return [name.strip() for name in source]


def require_length(name: str, place: str) -> None:
    """Raise ``UserError`` if ``name`` is longer than any; it would be drawn, and looked up."""
    if len(name) > limits.LONGEST_NAME:
        raise UserError(f"{place}: a name of {len(name)} letters ({name[:20]}...); names have at "
                        f"most {limits.LONGEST_NAME}")


def _require_number(count: int, place: str) -> None:
    if count > limits.MOST_CLASSES:
        raise UserError(f"{place} has {count} names; labels tell at most {limits.MOST_CLASSES} "
                        f"classes apart")


def _read_file(path: str) -> list[str]:
    if os.path.getsize(path) > limits.MOST_NAMES_BYTES:
        raise UserError(f"{path} has {os.path.getsize(path)} bytes, which no list of class names "
                        f"has; write one name per line, by label id")
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except UnicodeDecodeError:
        raise UserError(f"class names in {path} are not UTF-8 text; save the file as UTF-8"
                        ) from None
    _require_number(sum(map(bool, lines)), path)
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        require_length(name, f"{path}, line {number}")
        if name and first.setdefault(fold_name(name), number) != number:
            raise UserError(f"{path}, line {number}: {name} already stands in line "
                            f"{first[fold_name(name)]}; rename one or take it out")
    if not first:
        raise UserError(f"{path} names no class; write one name per line, by label id")
    _require_names_alone(list(filter(None, lines)), path)
    return [name for name in lines if name]


def _require_names_alone(lines: Sequence[str], path: str) -> None:
    """Raise ``UserError`` if all ``lines``, but for a heading, have ids in order, or colours.

    The heading would pass for class 0, and every name for the class before its own.
    """
    ids = {line: int(match[1]) for line in lines if (match := _ID.match(line))}
    are_in_order = all(after == before + 1 for before, after in itertools.pairwise(ids.values()))
    colored = [line for line in lines if _COLOR.search(line)]
    for kind, found in (("an id", list(ids) if are_in_order else []), ("a colour", colored)):
        if len(found) >= max(2, len(lines) - 1):
            raise UserError(f"{path} has {kind} beside each name, as in {found[0]!r}; write the "
                            f"names alone, in the order of the label ids, without a heading")


def _built_in() -> dict[str, list[str]]:
    paths = sorted(glob.glob(asset("class_names", "*.txt")))
    return {os.path.splitext(os.path.basename(path))[0]: _read_file(path) for path in paths}


#: The built-in sets: ade20k, cityscapes, coco_stuff, context, context_zs3, voc.
CLASS_NAMES: dict[str, list[str]] = _built_in()
