"""What pictures of predictions need to know of the classes, kept beside a trained model."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.datasets.class_names import read_class_names, resolve_classes
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json

#: The file in a run's folder.
FILE_NAME = "classes.json"


class ClassTable(NamedTuple):
    """Names, unseen classes and colours.

    Attributes:
        names (list[str]): name of every class, by id.
        unseen_ids (np.ndarray): int64 [U], ascending.
        palette (np.ndarray): uint8 RGB [C, 3].
    """

    names: list[str]
    unseen_ids: np.ndarray
    palette: np.ndarray

    @classmethod
    def of(cls, builder: ZeroShotBuilder) -> "ClassTable":
        """The classes of a config."""
        return cls(list(builder.class_names), builder.unseen_ids, np.asarray(builder.palette))

    @classmethod
    def parse(cls, content: Any, place: str) -> "ClassTable":
        """The classes that ``content`` describes as ``describe`` does.

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
        """The classes as values for JSON and YAML."""
        return {"class_names": self.names,
                "unseen": [self.names[class_id] for class_id in self.unseen_ids],
                "palette": self.palette.tolist()}

    def recolored(self, values: Sequence[int] | None) -> "ClassTable":
        """The same with other colours for the first classes.

        Args:
            values (list[int], optional): red, green, blue of class 0, of class 1 and so on,
                0 to 255.

        Raises:
            UserError: no whole number of colours, too many, or a value out of range.
        """
        if not values:
            return self
        if len(values) % 3 or len(values) > 3 * len(self.names) \
                or not all(0 <= value <= 255 for value in values):
            raise UserError(f"--custom_color has {len(values)} values; give three from 0 to 255 "
                            f"for each colour, of at most {len(self.names)} classes")
        palette = self.palette.copy()
        palette[:len(values) // 3] = np.reshape(values, (-1, 3))
        return self._replace(palette=palette)


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


def read_beside(model_path: str) -> ClassTable | None:
    """The classes in the file beside a run's weights; None where there is no such file.

    Raises:
        UserError: the file is broken.
    """
    path = os.path.join(os.path.dirname(model_path), FILE_NAME)
    return ClassTable.parse(read_json(path), path) if os.path.isfile(path) else None
