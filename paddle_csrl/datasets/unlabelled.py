"""Images without labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from paddle_csrl.datasets.label_scan import require_readable, require_whole_image
from paddle_csrl.datasets.trial import blame


class UnlabelledImages(paddle.io.Dataset):
    """Images whose labels cannot be read, for it is not known where they are.

    Args:
        paths (sequence of str): the image files.
        transforms (callable): PaddleSeg's ``Compose``, or what works like it.

    Item: ``img`` float32 [3, H, W] and nothing else.

    Raises:
        UserError: on reading, if an image is missing or broken.
    """

    def __init__(self, paths: Sequence[str], transforms: Callable):
        super().__init__()
        self.paths, self.transforms = list(paths), transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.paths[index]
        require_whole_image(path)
        data: dict[str, Any] = {"img": path, "trans_info": [], "gt_fields": []}
        try:
            return {"img": self.transforms(data)["img"]}
        except Exception as error:
            require_readable(path, None)
            blame(error, self.transforms, path)
            raise
