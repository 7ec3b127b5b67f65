"""Predicting images with trained weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.images import ImageReader
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.deploy.predict import ResultFiles, predict_images


def predict(config: str, model_path: str, image_path: str, save_dir: str, *,
            opts: Sequence[str] = (), overrides: Mapping[str, Any] | None = None,
            confidence: bool = False, custom_color: Sequence[int] | None = None) -> dict[str, Any]:
    """Predict images and write the pictures; no data set and no labels are needed.

    Example:
        >>> done = predict("output/demo/config.yml", "output/demo/model.pdparams",
        ...                "photos", "output/photos")           # two images
        >>> done["predicted"], done["failed"]
        (2, {})

    Args:
        config: path of the YAML file that the weights were trained with.
        model_path: the weights, ``.pdparams`` or ``.safetensors``.
        image_path: an image, a folder, or a text file with one image a line.
        save_dir: receives ``added_prediction``, ``pseudo_color_prediction`` and
            ``label_prediction``.
        opts: overrides of the config, each ``key.subkey=value``.
        overrides: the same as dotted key to value.
        confidence: also write the softmax of the predicted class, grey 0 to 255 for 0 to 1.
        custom_color: colours of the first classes, three numbers from 0 to 255 each.

    Returns:
        dict: ``predicted`` (number of images), ``failed`` (path to reason), ``save_dir``.

    Raises:
        UserError: a mistake in the config, the weights or the paths.
    """
    builder = DeployBuilder(ZeroShotConfig(config, opts=opts, overrides=dict(overrides or {})),
                            model_path)
    results = ResultFiles(save_dir, builder.classes.recolored(custom_color), confidence)
    return predict_images(image_path, results, ImageReader(builder.transforms),
                          builder.predictor(confidence), builder.config.settings.num_workers)
