"""Images without labels."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddleseg.transforms import Compose

from paddle_csrl.datasets.label_scan import require_readable, require_whole_image
from paddle_csrl.datasets.trial import blame

#: Stands for the pixels of an image in the place of a label; no class has this id.
_SHOWN = 65534


class UnlabelledImages(paddle.io.Dataset):
    """Images whose labels cannot be read, for it is not known where they are.

    Args:
        paths (sequence of str): the image files.
        transforms (callable): PaddleSeg's ``Compose``, or what works like it.

    Item: ``img`` float32 [3, H, W], and ``shown`` bool [H, W], which of its pixels are the image's
    and no padding, as far as ``Compose`` tells.

    Raises:
        UserError: on reading, if an image is missing or broken.
    """

    def __init__(self, paths: Sequence[str], transforms: Callable):
        super().__init__()
        marking = copy.copy(transforms)
        if isinstance(marking, Compose):
            marking.transforms = [_mark, *marking.transforms]
        self.paths, self.transforms = list(paths), marking

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.paths[index]
        require_whole_image(path)
        data: dict[str, Any] = {"img": path, "trans_info": [], "gt_fields": []}
        try:
            data = self.transforms(data)
            marks = data.get("label", np.full(data["img"].shape[1:], _SHOWN))
            return {"img": data["img"], "shown": marks == _SHOWN}
        except Exception as error:
            require_readable(path, None)
            blame(error, self.transforms, path)
            raise


def _mark(data: dict[str, Any]) -> dict[str, Any]:
    """Put what the transforms take for a label beside an image."""
    data["label"] = np.full(data["img"].shape[:2], _SHOWN, np.uint16)
    data["gt_fields"].append("label")
    return data
