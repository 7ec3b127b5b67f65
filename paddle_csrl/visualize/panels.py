"""Pictures of predictions: overlays, and panels with a legend."""

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

#: Pixels: between pictures, of a line of text, of a small label.
_GAP, _LINE, _LEAST_WIDTH = 12, 26, 288


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
    legend = _legend_entries(labels, class_names, unseen_ids, palette, room=inner)
    return _finished(figure, pictures, legend, margin=MARGIN, legend_top=top)


@style()
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
    width = max(mask.shape[1], _LEAST_WIDTH)
    legend = _legend_entries([label], class_names, unseen_ids, palette, room=width)
    return _finished(new_figure(width, 1), [(0, 0, mask)], legend, margin=0,
                     legend_top=len(mask) + _GAP)


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
    colors = palette[np.where(ignored, 0, label)]
    return np.where(ignored[..., None], _hatching(*label.shape), colors)


def _hatching(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: grey diagonal lines on white."""
    lines = (np.arange(height)[:, None] + np.arange(width)) % 8 < 2
    return np.where(lines[..., None], np.uint8(176), np.uint8(255)).repeat(3, axis=2)


def _legend_entries(labels: Sequence[np.ndarray], class_names: Sequence[str],
                    unseen_ids: Sequence[int], palette: np.ndarray, *,
                    room: int) -> tuple[list, list, list]:
    """Chips, names and their looks of the classes that occur in ``labels``."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    present = sorted({int(c) for label in labels for c in np.unique(label)})
    unseen = set(map(int, unseen_ids)) & set(present)
    starred = {"color": UNSEEN, "weight": "bold"}
    names = ["★ " * (c in unseen) + name_or_id(class_names[c], c) for c in present if c < 255]
    chips: list[Artist] = [Patch(facecolor=palette[c] / 255) for c in present if c < 255]
    looks = [starred if c in unseen else {} for c in present]
    if 255 in present:
        names.append("ignored")
        chips.append(Patch(facecolor="white", hatch="/" * 6))
    for chip in chips:
        chip.set(edgecolor=FAINT, linewidth=72 / DPI)
    if unseen:
        names.append("= unseen class")
        chips.append(Line2D([], [], color=UNSEEN, marker="*", markersize=10, linestyle="none"))
        looks.append(starred)
    return chips, [shorten(name, room - 40, "bold") for name in names], looks


def _finished(figure: "Figure", pictures: Sequence[tuple[int, int, np.ndarray]],
              legend: tuple[list, list, list], *, margin: int, legend_top: int) -> np.ndarray:
    """The figure with its legend and, from left and top, ``pictures``, whose pixels stay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import IdentityTransform
    width = round(figure.bbox.width)
    box = add_legend(figure, *legend, room=width - 2 * margin, loc="lower left",
                     bbox_to_anchor=(margin, max(margin, 4)), bbox_transform=IdentityTransform())
    height = legend_top + math.ceil(box.get_window_extent().y1)
    figure.set_size_inches(width / DPI, height / DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[..., :3].copy()
    for left, top, picture in pictures:
        pixels[top:, left:][:picture.shape[0], :picture.shape[1]] = picture
    return pixels
