"""The classes of a run once some were added, taken away or renamed."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from paddle_csrl.datasets.class_names import find_class, fold_name, require_length
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json
from paddle_csrl.visualize import MAX_CLASSES

#: The file in the folder of a run whose classes were changed.
VOCABULARY_FILE = "vocabulary.json"


class NamedClass(NamedTuple):
    """A class: its ``name`` and its id when the run was trained, None if it was added since."""

    name: str
    trained_id: int | None


class Changes(NamedTuple):
    """The changes that were asked for, checked: name to words, names, and old name to new."""

    added: dict[str, str]
    removed: list[str]
    renamed: dict[str, str]


class ClassList(NamedTuple):
    """The classes of a model in the order of their ids."""

    classes: tuple[NamedClass, ...]

    @classmethod
    def trained(cls, names: Sequence[str]) -> "ClassList":
        """Those that a run was trained with."""
        return cls(tuple(NamedClass(name, class_id) for class_id, name in enumerate(names)))

    @classmethod
    def read(cls, folder: str, names: Sequence[str]) -> "ClassList":
        """Those of the run in a folder, whose class names are ``names``."""
        path = os.path.join(folder, VOCABULARY_FILE)
        content = read_json(path)
        ids = content.get("trained_ids") if isinstance(content, dict) else None
        known = [class_id for class_id in ids or [] if class_id is not None]
        if (not isinstance(ids, list) or len(ids) != len(names) or len(set(known)) != len(known)
                or not all(type(class_id) is int and class_id >= 0 for class_id in known)):
            raise UserError(f"{path} does not hold the `trained_ids` of the {len(names)} classes "
                            f"of this run; make the folder again with tools/add_class.py")
        return cls(tuple(map(NamedClass, names, ids)))

    @property
    def names(self) -> list[str]:
        return [named.name for named in self.classes]

    @property
    def trained_ids(self) -> list[int | None]:
        return [named.trained_id for named in self.classes]

    def positions_in(self, other: "ClassList", renamed: dict[str, str]) -> list[int | None]:
        """Where each of these classes is in ``other``, by its name there; None where it is not."""
        old = {new: old for old, new in renamed.items()}
        places = {named: place for place, named in enumerate(other.classes)}
        return [places.get(named._replace(name=old.get(named.name, named.name)))
                for named in self.classes]

    def changed(self, add: Sequence[str], remove: Sequence[str],
                rename: Sequence[str]) -> tuple["ClassList", Changes]:
        """First remove, then rename, then add at the end.

        Raises:
            UserError: a name that is no class, or one that two classes would have.
        """
        if not (add or remove or rename):
            raise UserError("nothing to do: give names of classes to add, --remove or --rename")
        removed = [self._find(item, "remove") for item in remove]
        pairs = [(self._find(old, "rename"), new) for old, new in map(_parse_rename, rename)]
        ids = [*removed, *(class_id for class_id, _ in pairs)]
        for place, class_id in enumerate(ids):
            if class_id in ids[:place]:
                raise UserError(f"{self.names[class_id]} is to be removed or renamed twice; say "
                                f"so once")
        new_names = dict(pairs)
        kept = [NamedClass(new_names.get(class_id, named.name), named.trained_id)
                for class_id, named in enumerate(self.classes) if class_id not in removed]
        added = list(map(parse_added, add))
        result = ClassList((*kept, *(NamedClass(name, None) for name, _ in added)))
        _check_names(result.names, self.names)
        return result, Changes(dict(added), [self.names[class_id] for class_id in removed],
                               {self.names[class_id]: new for class_id, new in pairs})

    def _find(self, wanted: str, place: str) -> int:
        class_id = find_class(self.names, wanted, f"`{place}`", "the run")
        if place == "remove" and class_id == 0 and fold_name(self.names[0]) == "background":
            raise UserError("`remove` holds the background, which every model needs; take it out")
        return class_id

    def describe(self) -> dict[str, Any]:
        """Return the content that ``read`` reads."""
        return {"trained_ids": self.trained_ids}


def parse_added(item: str) -> tuple[str, str]:
    """Name and words of ``name`` or ``name=words``."""
    name, given, words = (part.strip() for part in str(item).partition("="))
    if not name or given and not words:
        raise UserError(f"{item!r} is no class to add; write a name, or name=word such as "
                        "pony=horse")
    return name, words or name


def _parse_rename(item: str) -> tuple[str, str]:
    old, _, new = (part.strip() for part in str(item).partition("="))
    if not old or not new:
        raise UserError(f"--rename {item}: write OLD=NEW, such as sofa=couch")
    return old, new


def _check_names(names: Sequence[str], old: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name in names:
        if name not in old and not name.isprintable():
            raise UserError(f"{name!r} is no name of a class; leave out line breaks, tabs and what "
                            f"else does not print")
        require_length(name, "a class to add or rename")
        if fold_name(name) in first:
            place = "a class of the run" if first[fold_name(name)] in old else "named"
            raise UserError(f"{name} is already {place}; two classes cannot have one name, give "
                            f"it another, such as \"{name} 2={name}\"")
        first[fold_name(name)] = name
    if len(names) > MAX_CLASSES:
        raise UserError(f"{len(names)} classes are more than the {MAX_CLASSES} that labels of 8 "
                        f"bits hold; add fewer or remove some")
