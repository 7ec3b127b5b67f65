"""Pictures of predictions: overlays, and panels with a legend."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from paddle_csrl.errors import UserError
from paddle_csrl.visualize.colors import palette as class_palette
from paddle_csrl.visualize.drawing import (
    FAINT,
    FONT_SIZE,
    GAP,
    INK,
    MARGIN,
    PAPER,
    TITLE_SIZE,
    UNSEEN,
    check_image,
    embolden,
    font,
    hatching,
    shorten,
    star,
    text_width,
)

#: Classes that pictures and 8-bit labels can tell: the id after them, 255, means none.
MAX_CLASSES = 255

#: Least width of a mask with a legend, in pixels.
_MASK_WIDTH = 288


class Scene(NamedTuple):
    """A row of a panel.

    Attributes:
        image (np.ndarray): uint8 RGB [H, W, 3].
        labels (dict[str, np.ndarray]): int [H, W] by title, class ids or 255; a column each.
        name (str): written beside the row, unless it is empty.
    """
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    name: str = ""


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray,
            alpha: float = 0.6) -> np.ndarray:
    """Lay the class colours over an image; pixels that are no class (255) keep it.

    Args:
        image (np.ndarray): uint8 RGB [H, W, 3].
        label (np.ndarray): int [H, W], class ids or 255.
        palette (np.ndarray): uint8 [C, 3].
        alpha (float): weight of the colours, 0 to 1.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: shapes that do not fit, or an id that is neither a class nor 255.
    """
    check_image(image)
    _check_label("label", label, image.shape[:2], len(palette))
    ignored = label == 255
    colors = palette[np.where(ignored, 0, label)]
    mixed = np.rint((1 - alpha) * image + alpha * colors).astype(np.uint8)
    return np.where(ignored[..., None], image, mixed)


def prediction_panel(image: np.ndarray, truth: np.ndarray | None,
                     prediction: np.ndarray | dict[str, np.ndarray],
                     class_names: Sequence[str], unseen_ids: Sequence[int] = (),
                     palette: np.ndarray | None = None) -> np.ndarray:
    """Image, truth and prediction side by side over a legend of the classes that occur.

    Unseen classes are starred and bold in the legend; pixels to be ignored (255) are hatched.

    Args:
        image (np.ndarray): uint8 RGB [H, W, 3].
        truth (np.ndarray, optional): int [H, W], class ids or 255. None leaves the column out.
        prediction (np.ndarray or dict): int [H, W], or several by title, a column each.
        class_names (list[str]): name of every class, by id.
        unseen_ids (list[int]): ids of the unseen classes.
        palette (np.ndarray, optional): uint8 [C, 3]. Default: ``palette(len(class_names))``.

    Returns:
        uint8 [H', W', 3].

    Raises:
        UserError: shapes that do not fit, or an id that is neither a class nor 255.
    """
    labels = {} if truth is None else {"Ground truth": truth}
    labels.update(prediction if isinstance(prediction, dict) else {"Prediction": prediction})
    return comparison_panel([Scene(image, labels)], class_names, unseen_ids, palette)


def comparison_panel(scenes: Sequence[Scene], class_names: Sequence[str],
                     unseen_ids: Sequence[int] = (), palette: np.ndarray | None = None,
                     largest: int = 640) -> np.ndarray:
    """Rows of image and labels, all with the same columns, over one legend.

    Args:
        scenes (list[Scene]): the rows.
        class_names, unseen_ids, palette: as for ``prediction_panel``.
        largest (int): pictures with a longer side are scaled down to it, in pixels.

    Returns:
        uint8 [H', W', 3].

    Raises:
        UserError: no row, shapes that do not fit, or an id that is neither a class nor 255.
    """
    if not scenes:
        raise UserError("a panel needs at least one image")
    if palette is None:
        palette = class_palette(len(class_names))
    rows = [_paint_row(scene, palette, len(class_names), largest) for scene in scenes]
    width = max(picture.shape[1] for row in rows for picture in row.values())
    inner = len(rows[0]) * (width + GAP) - GAP
    present = np.unique(np.concatenate([label.ravel() for scene in scenes
                                        for label in scene.labels.values()]))
    legend = _legend(present, class_names, set(map(int, unseen_ids)), palette, inner)
    names = [shorten(scene.name, FONT_SIZE, inner) for scene in scenes]
    heights = [row["Image"].shape[0] + GAP + (FONT_SIZE + 8 if name else 0)
               for row, name in zip(rows, names)]
    top = MARGIN + TITLE_SIZE + 9
    canvas = Image.new("RGB", (inner + 2 * MARGIN, top + sum(heights) + legend.height + MARGIN),
                       PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, title in enumerate(rows[0]):
        center = MARGIN + number * (width + GAP) + width / 2
        draw.text((center, MARGIN + TITLE_SIZE / 2), shorten(title, TITLE_SIZE, width), INK,
                  font(TITLE_SIZE), anchor="mm")
    for row, name, height in zip(rows, names, heights):
        for number, picture in enumerate(row.values()):
            left = MARGIN + number * (width + GAP) + (width - picture.shape[1]) // 2
            canvas.paste(Image.fromarray(picture), (left, top))
        if name:
            below = top + row["Image"].shape[0] + 4
            draw.text((MARGIN, below), name, FAINT, font(FONT_SIZE), anchor="la")
        top += height
    canvas.paste(legend, (MARGIN, top))
    return np.array(canvas)


def labelled_mask(label: np.ndarray, class_names: Sequence[str],
                  unseen_ids: Sequence[int] = (),
                  palette: np.ndarray | None = None) -> np.ndarray:
    """A label in class colours over a legend of the classes that occur, unseen ones starred.

    Small labels are enlarged by a whole factor, so that the legend is readable; none is shrunk.

    Args:
        label (np.ndarray): int [H, W], class ids or 255, which is hatched.
        class_names, unseen_ids, palette: as for ``prediction_panel``.

    Returns:
        uint8 [H', W', 3], the label in its upper left corner.

    Raises:
        UserError: an id that is neither a class nor 255.
    """
    if palette is None:
        palette = class_palette(len(class_names))
    _check_label("the label", label, label.shape, min(len(palette), len(class_names)))
    mask = _paint_label(label, palette, largest=max(*label.shape, 2 * _MASK_WIDTH))
    height, width = mask.shape[:2]
    legend = _legend(np.unique(label), class_names, set(map(int, unseen_ids)), palette,
                     max(width, _MASK_WIDTH))
    canvas = Image.new("RGB", (legend.width, height + GAP + legend.height), PAPER)
    canvas.paste(Image.fromarray(mask), (0, 0))
    canvas.paste(legend, (0, height + GAP))
    return np.array(canvas)


def _paint_row(scene: Scene, palette: np.ndarray, num_classes: int,
               largest: int) -> dict[str, np.ndarray]:
    """The pictures of a row by title, uint8 [H, W, 3] of one size."""
    check_image(scene.image)
    pictures = {"Image": _fit(scene.image, largest)}
    for title, label in scene.labels.items():
        _check_label(title, label, scene.image.shape[:2], min(len(palette), num_classes))
        pictures[title] = _paint_label(label, palette, largest)
    return pictures


def _check_label(title: str, label: np.ndarray, shape: tuple[int, int],
                 num_classes: int) -> None:
    if label.shape != shape or label.dtype.kind not in "iu":
        raise UserError(f"{title} is {label.dtype} {list(label.shape)}; for this image it must be "
                        f"whole numbers {list(shape)}")
    wrong = (label != 255) & ((label < 0) | (label >= num_classes))
    if wrong.any():
        raise UserError(f"{title} has the id {label[wrong][0]}; classes are 0 to "
                        f"{num_classes - 1}, and 255 is ignored")


def _fit(picture: np.ndarray, largest: int, is_label: bool = False) -> np.ndarray:
    """Scale to a readable size: small ones by a whole factor, large ones down to ``largest``."""
    side = max(picture.shape[:2])
    if side > largest:
        height, width = (max(1, round(largest * length / side)) for length in picture.shape[:2])
        interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_AREA
    else:
        factor = max(1, min(-(-288 // side), largest // side))
        height, width = (length * factor for length in picture.shape[:2])
        interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def _paint_label(label: np.ndarray, palette: np.ndarray, largest: int) -> np.ndarray:
    """The label, scaled, in class colours; 255 hatched."""
    label = _fit(label.astype(np.uint8), largest, is_label=True)
    ignored = label == 255
    colors = palette[np.where(ignored, 0, label)]
    return np.where(ignored[..., None], hatching(*label.shape), colors)


def _legend(present: np.ndarray, class_names: Sequence[str], unseen: set, palette: np.ndarray,
            width: int) -> Image.Image:
    """Chips and names of the classes ``present``, in columns of equal width."""
    chip, row_height, star_width = 16, 25, 20
    entries = [(palette[c], class_names[c], int(c) in unseen) for c in present if c != 255]
    if 255 in present:
        entries.append((hatching(chip, chip), "ignored", False))
    if any(unseen for _, _, unseen in entries):
        entries.append((None, "= unseen class", True))
    widest = max((text_width(name, FONT_SIZE) for _, name, _ in entries), default=0)
    columns = max(1, width // int(chip + star_width + 8 + widest + GAP))
    column_width = width // columns
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, rows * row_height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (color, name, is_unseen) in enumerate(entries):
        left = number % columns * column_width
        middle = number // columns * row_height + row_height // 2
        if color is not None:
            tile = np.broadcast_to(color, (chip, chip, 3)).copy()
            cv2.rectangle(tile, (0, 0), (chip - 1, chip - 1), FAINT)
            canvas.paste(Image.fromarray(tile), (left, middle - chip // 2))
            left += chip + 8
        if is_unseen:
            canvas.paste(UNSEEN, (left, middle - 8), Image.fromarray(star(chip)))
            left += star_width
        room = number % columns * column_width + column_width - left - GAP // 2
        name = shorten(name, FONT_SIZE, room)
        if is_unseen:
            embolden(draw, (left, middle), name, UNSEEN, FONT_SIZE, "lm")
        else:
            draw.text((left, middle), name, INK, font(FONT_SIZE), anchor="lm")
    return canvas
