"""A data set of one's own in one folder, and the settings that point a config at it."""

import os

from paddle_csrl.datasets.class_names import read_class_names
from paddle_csrl.errors import UserError

_CLASSES = "classes.txt"
_LAYOUT = ("it has to hold train.txt and val.txt, with one `image label` pair of paths relative to "
           "the folder a line, and classes.txt, with one class name a line in the order of the "
           "label ids")


def data_opts(folder: str) -> list[str]:
    """Overrides, as for ``--opts``, that point a config at a folder.

    Args:
        folder: holds ``train.txt`` and ``val.txt``, lists of images and labels, and
            ``classes.txt``, whose lines also tell the number of classes.

    Raises:
        UserError: the folder or one of these files is not there, or the names are not in order.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--data {folder}: there is no such folder; {_LAYOUT}")
    missing = [name for name in ("train.txt", "val.txt", _CLASSES)
               if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise UserError(f"--data {folder}: no {' and no '.join(missing)} in it; {_LAYOUT}")
    if "=" in folder:
        raise UserError(f"--data {folder}: a path in --opts holds no `=`; rename the folder")
    root = os.path.normpath(folder)
    classes = os.path.join(root, _CLASSES)
    number = len(read_class_names(classes))
    return [f"zero_shot.class_names={classes!r}", f"model.num_classes={number}",
            *(f"{split}_dataset.{key}={value!r}" for split in ("train", "val") for key, value in (
                ("type", "Dataset"), ("mode", split), ("dataset_root", root),
                (f"{split}_path", os.path.join(root, f"{split}.txt")), ("num_classes", number)))]
