"""Pictures of predictions: overlays, and panels with a legend."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from paddle_csrl.errors import UserError
from paddle_csrl.visualize.colors import palette as class_palette
from paddle_csrl.visualize.drawing import (
    DPI,
    FAINT,
    MARGIN,
    UNSEEN,
    add_legend,
    check_image,
    name_or_id,
    new_figure,
    shorten,
    style,
    write,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

#: Classes that pictures and 8-bit labels can tell: the id after them, 255, means none.
MAX_CLASSES = 255

#: Pixels: between pictures, of a line of text, of a small label, between columns of a legend.
_GAP, _LINE, _LEAST_WIDTH, _COLUMN_GAP = 12, 26, 288, 20


class Scene(NamedTuple):
    """A row of a panel: ``image`` uint8 RGB [H, W, 3], and ``name`` written beside it.

    ``labels`` are int [H, W] by title, class ids or 255; a column each.
    """
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    name: str = ""


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray,
            alpha: float = 0.6) -> np.ndarray:
    """Lay the class colours over an image; pixels that are no class (255) keep it.

    Args:
        image (np.ndarray): uint8 RGB [H, W, 3].
        label (np.ndarray): int [H, W], class ids or 255; ``UserError`` for another id.
        palette (np.ndarray): uint8 [C, 3].
        alpha (float): weight of the colours, 0 to 1.
    """
    check_image(image)
    _check_label("label", label, image.shape[:2], len(palette))
    ignored = label == 255
    mixed = (alpha * palette.astype(np.float64)).take(np.where(ignored, 0, label), axis=0)
    mixed += (1 - alpha) * image
    mixed = np.rint(mixed, out=mixed).astype(np.uint8)
    mixed[ignored] = image[ignored]
    return mixed


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


@style()
def comparison_panel(scenes: Sequence[Scene], class_names: Sequence[str],
                     unseen_ids: Sequence[int] = (), palette: np.ndarray | None = None,
                     largest: int = 640) -> np.ndarray:
    """Rows of image and labels, all with the same columns, over one legend.

    Pictures with a side longer than ``largest`` pixels are scaled down to it. The others, and the
    errors, are as for ``prediction_panel``.
    """
    if not scenes:
        raise UserError("a panel needs at least one image")
    if palette is None:
        palette = class_palette(len(class_names))
    rows = [_paint_row(scene, palette, len(class_names), largest) for scene in scenes]
    width = max(picture.shape[1] for row in rows for picture in row.values())
    inner = len(rows[0]) * (width + _GAP) - _GAP
    figure, pictures, top = new_figure(inner + 2 * MARGIN, 1), [], MARGIN + _LINE
    lefts = [MARGIN + number * (width + _GAP) for number in range(len(rows[0]))]
    for left, title in zip(lefts, rows[0]):
        write(figure, left + width / 2, MARGIN + 14, shorten(title, width), ha="center")
    for scene, row in zip(scenes, rows):
        for left, picture in zip(lefts, row.values()):
            pictures.append((left + (width - picture.shape[1]) // 2, top, picture))
        top += len(row["Image"])
        if scene.name:
            write(figure, MARGIN, top + 16, shorten(scene.name, inner), color=FAINT)
            top += _LINE
        top += _GAP
    labels = [label for scene in scenes for label in scene.labels.values()]
    legend = _legend(labels, class_names, unseen_ids, palette, room=inner)
    pictures.append((MARGIN, top, legend))
    return _finished(figure, inner + 2 * MARGIN, top + len(legend) + MARGIN, pictures)


def labelled_mask(label: np.ndarray, class_names: Sequence[str],
                  unseen_ids: Sequence[int] = (),
                  palette: np.ndarray | None = None) -> np.ndarray:
    """A label in class colours over a legend of the classes that occur, unseen ones starred.

    Small labels are enlarged by a whole factor, so that the legend is readable; none is shrunk. The
    label is in the upper left corner. Arguments and errors are as for ``prediction_panel``.
    """
    if palette is None:
        palette = class_palette(len(class_names))
    _check_label("the label", label, label.shape, min(len(palette), len(class_names)))
    mask = _paint_label(label, palette, largest=max(*label.shape, 2 * _LEAST_WIDTH))
    top, width = len(mask) + _GAP, max(mask.shape[1], _LEAST_WIDTH)
    legend = _legend([label], class_names, unseen_ids, palette, room=width)
    pixels = np.full((top + len(legend), width, 3), 255, np.uint8)
    pixels[:len(mask), :mask.shape[1]], pixels[top:] = mask, legend
    return pixels


def _paint_row(scene: Scene, palette: np.ndarray, num_classes: int,
               largest: int) -> dict[str, np.ndarray]:
    """The pictures of a row by title, uint8 [H, W, 3] of one size."""
    check_image(scene.image)
    pictures = {"Image": _fit(scene.image, largest)}
    for title, label in scene.labels.items():
        _check_label(title, label, scene.image.shape[:2], min(len(palette), num_classes))
        pictures[title] = _paint_label(label, palette, largest)
    return pictures


def _check_label(title: str, label: np.ndarray, shape: tuple[int, ...],
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
        factor = max(1, min(-(-_LEAST_WIDTH // side), largest // side))
        height, width = (length * factor for length in picture.shape[:2])
        interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def _paint_label(label: np.ndarray, palette: np.ndarray, largest: int) -> np.ndarray:
    """The label, scaled, in class colours; 255 hatched."""
    label = _fit(label.astype(np.uint8), largest, is_label=True)
    ignored = label == 255
    colors = palette.take(np.where(ignored, 0, label), axis=0)
    if ignored.any():
        colors[ignored] = _hatching(*label.shape)[ignored]
    return colors


def _present(label: np.ndarray) -> list[int]:
    """The ids in a label that ``_check_label`` took, ascending; quicker than ``np.unique``."""
    return np.flatnonzero(np.bincount(label.astype(np.uint8).ravel())).tolist()


def _hatching(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: grey diagonal lines on white."""
    lines = (np.arange(height)[:, None] + np.arange(width)) % 8 < 2
    return np.where(lines[..., None], np.uint8(176), np.uint8(255)).repeat(3, axis=2)


def _legend(labels: Sequence[np.ndarray], class_names: Sequence[str], unseen_ids: Sequence[int],
            palette: np.ndarray, *, room: int) -> np.ndarray:
    """A legend of the classes that occur in ``labels``, uint8 [H, room, 3], in columns."""
    present = sorted({c for label in labels for c in _present(label)})
    unseen = set(map(int, unseen_ids)) & set(present)
    entries = [_drawn_entry("★ " * (c in unseen) + name_or_id(class_names[c], c),
                            tuple(palette[c].tolist()), c in unseen, room)
               for c in present if c < 255]
    if 255 in present:
        entries.append(_drawn_entry("ignored", "hatched", False, room))
    if unseen:
        entries.append(_drawn_entry("= unseen class", "star", True, room))
    height, width = (max(lengths) for lengths in zip(*(entry.shape[:2] for entry in entries)))
    columns = max(1, (room + _COLUMN_GAP) // (width + _COLUMN_GAP))
    rows = -(-len(entries) // columns)
    pixels = np.full((rows * height, room, 3), 255, np.uint8)
    for number, entry in enumerate(entries):
        column, row = divmod(number, rows)
        bottom, left = (row + 1) * height, column * (width + _COLUMN_GAP)
        pixels[bottom - len(entry):bottom, left:left + entry.shape[1]] = entry
    return pixels


@functools.lru_cache(maxsize=1024)
@style()
def _drawn_entry(text: str, chip: tuple[int, ...] | str, is_unseen: bool,
                 room: int) -> np.ndarray:
    """An entry of a legend, uint8 [H, W, 3] with W <= room; kept, for it takes milliseconds.

    ``chip`` is its colour, or "hatched" or "star".
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.transforms import IdentityTransform
    handle: Artist
    if chip == "star":
        handle = Line2D([], [], color=UNSEEN, marker="*", markersize=10, linestyle="none")
    else:
        look = {"facecolor": "white", "hatch": "/" * 6} if chip == "hatched" else {
            "facecolor": np.divide(chip, 255)}
        handle = Patch(edgecolor=FAINT, linewidth=72 / DPI, **look)
    figure = new_figure(room, 1)
    legend = add_legend(figure, [handle], [shorten(text, room - 40, "bold")],
                        [{"color": UNSEEN, "weight": "bold"} if is_unseen else {}], room=room,
                        loc="lower left", bbox_to_anchor=(0, 4),
                        bbox_transform=IdentityTransform())
    box = legend.get_window_extent()
    pixels = _finished(figure, min(room, math.ceil(box.x1)), math.ceil(box.y1))
    pixels.setflags(write=False)
    return pixels


def _finished(figure: "Figure", width: int, height: int,
              pictures: Sequence[tuple[int, int, np.ndarray]] = ()) -> np.ndarray:
    """The figure at this size with, from left and top, ``pictures``, whose pixels stay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    figure.set_size_inches(width / DPI, height / DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[..., :3].copy()
    for left, top, picture in pictures:
        pixels[top:, left:][:picture.shape[0], :picture.shape[1]] = picture
    return pixels
