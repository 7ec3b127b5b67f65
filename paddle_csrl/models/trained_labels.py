"""The labels that known weights were trained with.

Known are those that PaddleSeg's configs name by their address, as far as they are of ImageNet-1k
(``assets/imagenet1k/paddleseg.txt``), and files beside which a record tells: this project writes
one where it converts weights. No file tells by itself.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlparse

from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.utils import read_json, write_json
from paddle_csrl.utils.io import asset
from paddle_csrl.utils.record import checksum

#: The name of the 1,000 classes of ILSVRC 2012.
IMAGENET = "imagenet1k"

# Where PaddleSeg keeps its weights: a bucket, which has two addresses.
_BUCKET = {"paddleseg.bj.bcebos.com": "/", "bj.bcebos.com": "/paddleseg/"}


class LabelSet(NamedTuple):
    """The classes of a data set, but for some.

    Attributes:
        name (str): ``IMAGENET``, or a built-in list of classes, a key of ``CLASS_NAMES``.
        without (tuple[str, ...]): classes left out, by name; a built-in list stands for its own.
    """

    name: str
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        title = "ImageNet-1k" if self.name == IMAGENET else self.name
        return f"{title} without {', '.join(self.without)}" if self.without else title

    @property
    def left_out(self) -> list[str]:
        """The names of the classes left out."""
        return [name for item in self.without for name in CLASS_NAMES.get(item, [item])]


def labels_of(weights: str) -> tuple[LabelSet, ...] | None:
    """Return the labels that ``weights``, an address or a path, saw; None where nothing tells."""
    address = urlparse(weights)
    if address.netloc in _BUCKET:
        name = address.path.removeprefix(_BUCKET[address.netloc])
        return (LabelSet(IMAGENET),) if name in _paddlesegs() else None
    return _recorded(weights)


@functools.cache
def _paddlesegs() -> frozenset[str]:
    with open(asset("imagenet1k", "paddleseg.txt"), encoding="utf-8") as file:
        return frozenset(file.read().split())


def write_labels(path: str, labels: Sequence[LabelSet]) -> str:
    """Record beside the weights at ``path`` what they were trained with; return the record's path.

    It holds for these very bytes: other weights put in their place are unknown.
    """
    record = _record_path(path)
    write_json(record, {"sha256": checksum(path), "labels": [item._asdict() for item in labels]})
    return record


def _record_path(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.labels.json"


def _recorded(path: str) -> tuple[LabelSet, ...] | None:
    record = _record_path(path)
    if not (os.path.isfile(path) and os.path.isfile(record)):
        return None
    content = read_json(record)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not labels or not all(map(_is_whole, labels)) \
            or content.get("sha256") != checksum(path):
        return None
    return tuple(LabelSet(item["name"], tuple(item["without"])) for item in labels)


def _is_whole(item: Any) -> bool:
    """Tell whether ``item`` is a label set as ``write_labels`` writes it."""
    return (isinstance(item, dict) and {"name", "without"} == set(item)
            and item["name"] in (IMAGENET, *CLASS_NAMES) and isinstance(item["without"], list)
            and all(isinstance(name, str) for name in item["without"]))
