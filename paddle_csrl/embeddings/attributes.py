"""Class embeddings of a config: from word vectors, or a data set's own attribute vectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paddle_csrl.datasets.class_names import fold_name
from paddle_csrl.embeddings.resolve import (
    join_spaces,
    listed,
    load_class_embeddings,
    names_to_look_up,
)
from paddle_csrl.errors import UserError

_ATTRIBUTES = "attributes"


def embed_classes(class_names: Sequence[str], label_names: Sequence[str] | None,
                  dataset: Callable[[], Any], *, path: str | Sequence[str] | None, normalize: bool,
                  words: Mapping[str, str] | None) -> np.ndarray:
    """Find the embedding of every class as ``zero_shot.embeddings`` says.

    Args:
        class_names (list[str]): C names.
        label_names (list[str], optional): names of the data set's own classes, where these are
            others.
        dataset: gives the data set; asked only for its attributes.
        path: as for ``load_class_embeddings``; ``attributes`` may stand for a file.
        normalize, words: as for ``load_class_embeddings``.

    Returns:
        float32 array [C, d_w].

    Raises:
        UserError: as ``load_class_embeddings`` and ``attribute_vectors``, or the data set has no
            attributes, or none for a class.
    """
    if not takes_attributes(path):
        return load_class_embeddings(class_names, path, normalize, words)
    spaces = [_attributes_of(dataset(), class_names, label_names, words) if one == _ATTRIBUTES
              else load_class_embeddings(class_names, one, False, words) for one in listed(path)]
    return join_spaces(spaces, normalize)


def _attributes_of(source: Any, class_names: Sequence[str], label_names: Sequence[str] | None,
                   words: Mapping[str, str] | None) -> np.ndarray:
    attributes = getattr(source, "attributes", None)
    if attributes is None:
        raise UserError(f"`zero_shot.embeddings.path: attributes`: {type(source).__name__} has no "
                        f"attributes; name a word-vector file, or null for the vectors that come "
                        f"with the project")
    rows = class_names if label_names is None else getattr(source, "class_names", label_names)
    if np.ndim(attributes) != 2 or len(attributes) != len(rows):
        raise UserError(f"`zero_shot.embeddings.path: attributes`: those of "
                        f"{type(source).__name__} are {list(np.shape(attributes))}; they must be "
                        f"one row for each of its {len(rows)} classes")
    if label_names is not None or words:
        attributes = attribute_vectors(class_names, attributes, list(rows),
                                       list(getattr(source, "attribute_names", [])), words)
    for name, vector in zip(class_names, attributes):
        if not 0 < np.linalg.norm(vector) < np.inf:
            raise UserError(f"`zero_shot.embeddings.path: attributes`: the vector of class "
                            f"{name!r} is zero or not finite; give it an attribute, if only its "
                            f"own")
    return attributes


def takes_attributes(path: str | Sequence[str] | None) -> bool:
    """Tell whether embeddings take the data set's attributes, and not word vectors alone."""
    return _ATTRIBUTES in listed(path)


def attribute_vectors(class_names: Sequence[str], attributes: np.ndarray,
                      row_names: Sequence[str], column_names: Sequence[str],
                      words: Mapping[str, str] | None = None) -> np.ndarray:
    """Return the vector of each class: that of the data set's class of its name, or composed.

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
    texts = names_to_look_up(class_names, words or {})
    for vector, name, text in zip(vectors, class_names, texts):
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
