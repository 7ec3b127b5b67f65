"""Class embeddings from a data set's own attribute vectors."""

from collections.abc import Mapping, Sequence

import numpy as np

from paddle_csrl.datasets.class_names import fold_name
from paddle_csrl.errors import UserError


def attribute_vectors(class_names: Sequence[str], attributes: np.ndarray,
                      row_names: Sequence[str], column_names: Sequence[str],
                      words: Mapping[str, str] | None = None) -> np.ndarray:
    """The vector of each class: that of the data set's class of its name, or composed.

    A class that the data set does not have is described by the attributes that its name lists:
    "blue ringed" is 1 in the columns blue and ringed.

    Args:
        class_names (list[str]): C names.
        attributes (float32 array [R, A]): attribute vectors.
        row_names (list[str]): names of their classes.
        column_names (list[str]): names of the attributes, one word each.
        words (dict[str, str], optional): class name to what to look up instead.

    Returns:
        float32 array [C, A].

    Raises:
        UserError: a name is neither a class of the data set nor made of its attributes.
    """
    rows = {fold_name(name): row for name, row in zip(row_names, attributes)}
    columns = {fold_name(name): column for column, name in enumerate(column_names)}
    vectors = np.zeros((len(class_names), attributes.shape[1]), np.float32)
    for vector, name in zip(vectors, class_names):
        text = (words or {}).get(name, name)
        if fold_name(text) in rows:
            vector[:] = rows[fold_name(text)]
            continue
        parts = list(map(fold_name, text.split()))
        unknown = [part for part in parts if part not in columns]
        if unknown or not parts:
            raise UserError(
                f"class {name!r}: {', '.join(unknown) or repr(text)} is none of the attributes "
                f"that `zero_shot.embeddings.path: attributes` takes from the data set "
                f"({', '.join(column_names) or 'it does not name them'}); describe the class by "
                f"these, or train with the word vectors of `zero_shot.embeddings.path: null`")
        vector[[columns[part] for part in parts]] = 1
    return vectors
