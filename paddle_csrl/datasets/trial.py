"""Transforms on trial: what they make of a small image tells what is wrong with their arguments."""

import math
import traceback
from typing import Any

import numpy as np

from paddle_csrl.errors import UserError, one_line
from paddle_csrl.limits import MOST_PIXELS
from paddle_csrl.utils.randomness import seeded

# The height and width of the image, and so many tries that what half of them do happens.
_SIZE, _TRIES = (24, 32), 16
# Arguments of PaddleSeg's that set the sides of an image in pixels, and that multiply them.
_SIDES = {"target_size", "crop_size", "size", "long_size", "short_size", "min_long", "min_value",
          "max_value", "short_side"}
_CHOICES = {"short_size"}  # of which a list holds several, one of them for an image
_FACTORS, _MOST_FACTOR = {"min_scale_factor", "max_scale_factor", "min_scale"}, 100


def require_bounded(content: dict[str, Any], place: str) -> None:
    """Raise ``UserError`` if a transform, as in YAML, makes images that no memory has room for.

    ``place`` is its dotted key.
    """
    for key, value in content.items():
        numbers = [side for side in (value if isinstance(value, list) else [value, value])
                   if isinstance(side, (int, float))]
        if key in _CHOICES and numbers:
            numbers = [max(numbers)] * 2
        if key in _SIDES and math.prod(numbers) > MOST_PIXELS:
            raise UserError(f"`{place}.{key}: {value}` makes images of more than {MOST_PIXELS} "
                            f"pixels; give a smaller size")
        if key in _FACTORS and max(numbers, default=0) > _MOST_FACTOR:
            raise UserError(f"`{place}.{key}: {value}` must be at most {_MOST_FACTOR}")


def try_transform(transform: Any, place: str, channels: int = 3) -> None:
    """Run a transform over a small image and label, often enough for what happens by chance.

    One that is neither PaddleSeg's nor the project's may want a real image, and is left alone.

    Args:
        transform: in PaddleSeg's form, built.
        place: its dotted key, for messages.
        channels: of the image.

    Raises:
        UserError: it fails, or leaves an image without a pixel.
    """
    size = (*_SIZE, channels) if channels > 1 else _SIZE
    for seed in range(_TRIES if is_known(transform) else 0):
        data = {"img": np.full(size, 100, np.float32), "label": np.zeros(_SIZE, np.uint8),
                "trans_info": [], "gt_fields": ["label"]}
        try:
            with seeded(seed):
                image = transform(data)["img"]
        except Exception as error:  # whatever OpenCV and NumPy say of an argument
            raise _failed(transform, place, f"an image of {_SIZE[0]} x {_SIZE[1]} pixels and "
                          f"{channels} channels", error) from error
        if 0 in image.shape:
            raise UserError(f"`{place}`: {type(transform).__name__} makes an image without a "
                            f"pixel; look at its sizes")


def blame(error: Exception, transforms: Any, path: str) -> None:
    """Raise ``UserError`` if it was one of ``transforms``, of a ``Compose``, that failed.

    ``path`` names the image that it was given.
    """
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for transform in getattr(transforms, "transforms", None) or []:
        if is_known(transform) and any(transform is known for known in frames):
            raise _failed(transform, "transforms", path, error) from error


def blame_dataset(error: Exception, dataset: Any, path: str) -> None:
    """Raise ``UserError`` if it was the code of ``dataset``, one of PaddleSeg's, that failed."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    kind = type(dataset)
    if is_known(dataset) and frame.f_globals.get("__name__") == kind.__module__:
        raise UserError(f"{kind.__name__} fails on {path} ({one_line(error)}); look at its "
                        f"arguments") from error


def _failed(transform: Any, place: str, image: str, error: Exception) -> UserError:
    return UserError(f"`{place}`: {type(transform).__name__} fails on {image} ({one_line(error)}); "
                     f"look at its arguments")


def is_known(transform: Any) -> bool:
    """Tell whether a transform, or a data set, is PaddleSeg's or the project's."""
    return type(transform).__module__.startswith(("paddleseg.", "paddle_csrl."))
