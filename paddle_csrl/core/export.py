"""Exporting trained weights for Paddle Inference or ONNX."""

import os
from collections.abc import Sequence
from typing import Any

from paddleseg.utils import logger

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.export import OPSET, export_model
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError


def export(config: str, model_path: str, save_dir: str, *, opts: Sequence[str] = (),
           target: str = "paddle", input_shape: list[int] | None = None,
           output_op: str = "argmax", image_path: str | None = None,
           opset: int = OPSET) -> dict[str, Any]:
    """Export a trained segmentor and compare it with the trained one.

    The exported model predicts a random image and a real one; where it differs from the trained
    model, nothing is written.

    Example:
        >>> exported = export("output/demo/config.yml", "output/demo/model.pdparams",
        ...                   "output/demo_paddle")
        >>> exported["config"]
        'output/demo_paddle/deploy.yaml'

    Args:
        config: path of the YAML file that the weights were trained with.
        model_path: the weights, ``.pdparams``.
        save_dir: receives the model, its weights and ``deploy.yaml``.
        opts: overrides of the config, each ``key.subkey=value``.
        target: ``paddle`` or ``onnx``.
        input_shape: batch, channels, height, width; -1 where it is free. Default: all but the
            channels are free.
        output_op: ``argmax``, ``softmax`` or ``none``.
        image_path: a real image for the comparison; the first validation image by default.
        opset: version of the ONNX operators.

    Returns:
        dict: ``config`` (path of deploy.yaml) and ``parity`` (list of ``Parity``).

    Raises:
        UserError: a wrong shape, a missing package, an unreadable image, or an exported model
            that predicts something else.
    """
    read = ZeroShotConfig(config, opts=opts)
    image_path = image_path or _validation_image(read)
    if image_path is None:
        logger.warning("compared on a random image alone, for the validation data are not here; "
                       "--image_path names a real one")
    return export_model(DeployBuilder(read, model_path), save_dir, target, input_shape, output_op,
                        image_path, opset)


def _validation_image(config: ZeroShotConfig) -> str | None:
    """Find the first validation image, if the data set is on disk."""
    root = config.val_dataset_cfg.get("dataset_root")
    if not root or not os.path.isdir(root):
        return None
    try:
        return ZeroShotBuilder(config).val_dataset.file_list[0][0]
    except (UserError, IndexError):
        return None
