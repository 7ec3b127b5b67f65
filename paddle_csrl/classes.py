"""The classes of a model: what they are called, which of them are unseen, their colours.

This is the one place that says what *seen* and *unseen* mean. A class is unseen if
``zero_shot.unseen`` names it; every other one is seen. A seen class of which training met no
labelled pixel is *absent*: there is nothing real to learn it from.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paddle_csrl.datasets.class_names import read_class_names, resolve_classes
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json

#: The file in a run's folder.
CLASSES_FILE = "classes.json"


@dataclass(frozen=True, eq=False)
class ClassTable:
    """Names, unseen classes and colours.

    Attributes:
        names (list[str]): name of every class, by id.
        unseen_ids (np.ndarray): int64 [U], ascending.
        palette (np.ndarray): uint8 RGB [C, 3].
        label_names (list[str], optional): name of every id in the data set's labels, where these
            are not the classes.
    """

    names: list[str]
    unseen_ids: np.ndarray
    palette: np.ndarray
    label_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def seen_ids(self) -> np.ndarray:
        """int64 [S], ascending."""
        return np.flatnonzero(~self.is_unseen)

    @property
    def is_unseen(self) -> np.ndarray:
        """bool [C]."""
        return np.isin(np.arange(len(self)), self.unseen_ids)

    @property
    def unseen_names(self) -> list[str]:
        return [self.names[class_id] for class_id in self.unseen_ids]

    @property
    def seen_names(self) -> list[str]:
        return [self.names[class_id] for class_id in self.seen_ids]

    def absent(self, counts: np.ndarray) -> list[str]:
        """Names of the seen classes without a pixel, by the pixel counts int [C] of training."""
        return [self.names[class_id] for class_id in self.seen_ids if not counts[class_id]]

    @classmethod
    def parse(cls, content: Any, place: str) -> "ClassTable":
        """Read what ``describe`` returned.

        Raises:
            UserError: a part is missing or wrong; the message names ``place``.
        """
        keys = ("class_names", "unseen", "palette")
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise UserError(f"{place} does not hold `class_names`, `unseen` and `palette`; make "
                            f"it again with the tool that wrote it")
        try:
            names = read_class_names(content["class_names"])
            unseen_ids = np.array(sorted(resolve_classes(names, content["unseen"])), np.int64)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        return cls(names, unseen_ids, _read_palette(content["palette"], len(names), place))

    def describe(self) -> dict[str, Any]:
        """Return the classes as values for JSON and YAML."""
        return {"class_names": self.names, "unseen": self.unseen_names,
                "palette": self.palette.tolist()}

    def recolored(self, values: Sequence[int] | None) -> "ClassTable":
        """Return the same classes with other colours for the first ones.

        ``values`` are red, green and blue, 0 to 255, of class 0, of class 1 and so on.
        ``UserError`` for no whole number of colours, too many, or a value out of range.
        """
        if not values:
            return self
        if len(values) % 3 or len(values) > 3 * len(self) \
                or not all(0 <= value <= 255 for value in values):
            raise UserError(f"--custom_color has {len(values)} values; give three from 0 to 255 "
                            f"for each colour, of at most {len(self)} classes")
        palette = self.palette.copy()
        palette[:len(values) // 3] = np.reshape(values, (-1, 3))
        return replace(self, palette=palette)


def _read_palette(colors: Any, num_classes: int, place: str) -> np.ndarray:
    try:
        palette = np.array(colors)
        is_right = (palette.shape == (num_classes, 3) and palette.dtype.kind == "i"
                    and 0 <= palette.min() and palette.max() <= 255)
    except ValueError:  # rows of different lengths
        is_right = False
    if not is_right:
        raise UserError(f"{place}: `palette` must hold three whole numbers from 0 to 255 for each "
                        f"of the {num_classes} classes")
    return palette.astype(np.uint8)


def read_classes_beside(model_path: str) -> ClassTable | None:
    """Read the classes from the file beside a run's weights; None where there is no such file."""
    path = os.path.join(os.path.dirname(model_path), CLASSES_FILE)
    return ClassTable.parse(read_json(path), path) if os.path.isfile(path) else None
