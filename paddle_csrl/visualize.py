"""Pictures of predictions and of class relations, as uint8 RGB arrays [H, W, 3].

The arrays go as they are into VisualDL (``add_image``) or through ``save_png`` into a file.
"""

import functools
import re
from typing import Dict, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path

_INK, _FAINT, _PAPER = (32, 33, 36), (110, 113, 118), (255, 255, 255)
_UNSEEN = (178, 64, 0)
_MARGIN, _GAP = 16, 12
_FONT_SIZE, _TITLE_SIZE = 15, 17

# The background, then the colour-blind-safe colours of Okabe & Ito (Color Universal Design,
# 2008), the strongest contrasts first.
_FIRST_COLORS = [(52, 54, 60), (230, 159, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167),
                 (0, 158, 115), (213, 94, 0), (86, 180, 233)]

# Blue - white - red with equal lightness on both sides (after ColorBrewer's RdBu).
_DIVERGING = np.float32([(5, 48, 97), (33, 102, 172), (103, 169, 207), (209, 229, 240),
                         (247, 247, 247), (253, 219, 199), (239, 138, 98), (178, 24, 43),
                         (103, 0, 31)])


def palette(num_classes: int, name: Optional[str] = None) -> np.ndarray:
    """A colour for every class.

    Args:
        num_classes (int): number of classes C, 1 to 256.
        name (str, optional): "voc" for Pascal VOC's own palette. Otherwise class 0 is dark grey
            and each further colour is the one farthest, to normal and to red-green-blind eyes,
            from all before it; a smaller palette is therefore the beginning of a larger one.

    Returns:
        uint8 [C, 3]: RGB.

    Raises:
        UserError: num_classes out of range, or no palette of this name.
    """
    if not 1 <= num_classes <= 256:
        raise UserError(f"a palette has 1 to 256 colours, not {num_classes}")
    if name == "voc":
        return _voc_palette(num_classes)
    if name is not None:
        raise UserError(f"no palette `{name}`; use voc, or None for the general one")
    return _spread_palette(num_classes)


def _voc_palette(num_classes: int) -> np.ndarray:
    """Bit 3k + c of a class id becomes bit 7 - k of its channel c."""
    ids = np.arange(num_classes)[:, None]
    channel = np.arange(3)
    return sum(((ids >> (3 * k + channel)) & 1) << (7 - k) for k in range(3)).astype(np.uint8)


def _spread_palette(num_classes: int) -> np.ndarray:
    """Farthest-point sampling of the RGB cube, without greys, neons and near-white."""
    steps = np.linspace(0, 255, 12).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _lab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(chroma > 22) & (chroma < 90) & (lab[:, 0] > 35) & (lab[:, 0] < 92)]
    colors = list(np.float64(_FIRST_COLORS))[:num_classes]
    seen = _perceived(grid)
    distance = np.full(len(grid), np.inf)
    for color in colors:
        distance = np.minimum(distance, _distance(seen, _perceived(color[None])))
    while len(colors) < num_classes:
        best = distance.argmax()
        colors.append(grid[best])
        distance = np.minimum(distance, _distance(seen, seen[best:best + 1]))
    return np.array(colors).astype(np.uint8)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of RGB colours [N, 3] in 0..255."""
    return cv2.cvtColor(np.float32(rgb[None]) / 255, cv2.COLOR_RGB2LAB)[0]


def _perceived(rgb: np.ndarray) -> np.ndarray:
    """float32 [N, 2, 3]: CIELAB to normal eyes and to a deuteranope's.

    The deuteranope's view is the linear-RGB matrix of Machado, Oliveira and Fernandes (IEEE
    TVCG 2009) for full severity.
    """
    deuteranope = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                            [-0.011820, 0.042940, 0.968881]])
    linear = (rgb / 255)**2.2
    dimmed = 255 * np.clip(linear @ deuteranope.T, 0, 1)**(1 / 2.2)
    return np.stack([_lab(rgb), _lab(dimmed)], 1)


def _distance(seen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distance to normal eyes and twice that to a deuteranope's, whichever is less."""
    distance = np.linalg.norm(seen - other, axis=-1)
    return np.minimum(distance[:, 0], 2 * distance[:, 1])


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
    _check_image(image)
    _check_label("label", label, image.shape[:2], len(palette))
    ignored = label == 255
    colors = palette[np.where(ignored, 0, label)]
    mixed = np.rint((1 - alpha) * image + alpha * colors).astype(np.uint8)
    return np.where(ignored[..., None], image, mixed)


def prediction_panel(image: np.ndarray, truth: Optional[np.ndarray],
                     prediction: Union[np.ndarray, Dict[str, np.ndarray]],
                     class_names: Sequence[str], unseen_ids: Sequence[int] = (),
                     palette: Optional[np.ndarray] = None) -> np.ndarray:
    """Image, truth and prediction side by side over a legend of the classes that occur.

    Unseen classes are starred in the legend; pixels to be ignored (255) are hatched.

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
    _check_image(image)
    if palette is None:
        palette = _spread_palette(len(class_names))
    labels = {} if truth is None else {"Ground truth": truth}
    labels.update(prediction if isinstance(prediction, dict) else {"Prediction": prediction})
    for title, label in labels.items():
        _check_label(title, label, image.shape[:2], min(len(palette), len(class_names)))
    columns = {"Image": _fit(image)}
    columns.update({title: _paint_label(label, palette) for title, label in labels.items()})

    height, width = columns["Image"].shape[:2]
    inner = len(columns) * (width + _GAP) - _GAP
    present = np.unique(np.concatenate([label.ravel() for label in labels.values()]))
    legend = _legend(present, class_names, set(map(int, unseen_ids)), palette, inner)
    top = _MARGIN + _TITLE_SIZE + 9
    canvas = Image.new("RGB", (inner + 2 * _MARGIN, top + height + _GAP + legend.height
                               + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (title, picture) in enumerate(columns.items()):
        left = _MARGIN + number * (width + _GAP)
        text = _shorten(title, _TITLE_SIZE, width)
        draw.text((left + width / 2, _MARGIN + _TITLE_SIZE / 2), text, _INK,
                  _font(_TITLE_SIZE), anchor="mm")
        canvas.paste(Image.fromarray(picture), (left, top))
    canvas.paste(legend, (_MARGIN, top + height + _GAP))
    return np.array(canvas)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"the image must be uint8 [H, W, 3], got {image.dtype} "
                        f"{list(image.shape)}")


def _check_label(title: str, label: np.ndarray, shape: Tuple[int, int],
                 num_classes: int) -> None:
    if label.shape != shape or label.dtype.kind not in "iu":
        raise UserError(f"{title} is {label.dtype} {list(label.shape)}; for this image it must be "
                        f"whole numbers {list(shape)}")
    wrong = (label != 255) & ((label < 0) | (label >= num_classes))
    if wrong.any():
        raise UserError(f"{title} has the id {label[wrong][0]}; classes are 0 to "
                        f"{num_classes - 1}, and 255 is ignored")


def _fit(picture: np.ndarray, is_label: bool = False) -> np.ndarray:
    """Scale to a readable size: small ones by a whole factor, large ones down to 640 pixels."""
    side = max(picture.shape[:2])
    if side > 640:
        height, width = (max(1, round(640 * length / side)) for length in picture.shape[:2])
        interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_AREA
    else:
        height, width = (length * -(-288 // side) for length in picture.shape[:2])
        interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def _paint_label(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The label, scaled, in class colours; 255 hatched."""
    label = _fit(label.astype(np.uint8), is_label=True)
    ignored = label == 255
    colors = palette[np.where(ignored, 0, label)]
    return np.where(ignored[..., None], _hatching(*label.shape), colors)


def _hatching(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: grey diagonal lines on white."""
    lines = (np.arange(height)[:, None] + np.arange(width)) % 8 < 2
    return np.where(lines[..., None], np.uint8(176), np.uint8(255)).repeat(3, axis=2)


def _legend(present: np.ndarray, class_names: Sequence[str], unseen: set, palette: np.ndarray,
            width: int) -> Image.Image:
    """Chips and names of the classes ``present``, in columns of equal width."""
    chip, row_height, star_width = 16, 25, 20
    entries = [(palette[c], class_names[c], int(c) in unseen) for c in present if c != 255]
    if 255 in present:
        entries.append((_hatching(chip, chip), "ignored", False))
    if any(unseen for _, _, unseen in entries):
        entries.append((None, "= unseen class", True))
    widest = max((_text_width(name, _FONT_SIZE) for _, name, _ in entries), default=0)
    columns = max(1, width // int(chip + star_width + 8 + widest + _GAP))
    column_width = width // columns
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, rows * row_height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (color, name, is_unseen) in enumerate(entries):
        left = number % columns * column_width
        middle = number // columns * row_height + row_height // 2
        if color is not None:
            tile = np.broadcast_to(color, (chip, chip, 3)).copy()
            cv2.rectangle(tile, (0, 0), (chip - 1, chip - 1), _FAINT)
            canvas.paste(Image.fromarray(tile), (left, middle - chip // 2))
            left += chip + 8
        if is_unseen:
            canvas.paste(_UNSEEN, (left, middle - 8), Image.fromarray(_star(chip)))
            left += star_width
        room = number % columns * column_width + column_width - left - _GAP // 2
        draw.text((left, middle), _shorten(name, _FONT_SIZE, room),
                  _UNSEEN if is_unseen else _INK, _font(_FONT_SIZE), anchor="lm")
    return canvas


def _star(size: int) -> np.ndarray:
    """uint8 [size, size]: the mask of a five-pointed star, 255 inside."""
    angle = np.pi * np.arange(10) / 5
    radius = np.where(np.arange(10) % 2, 0.21, 0.5) * 4 * size
    corners = np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1) + 2 * size
    large = np.zeros((4 * size, 4 * size), np.uint8)
    cv2.fillPoly(large, [np.round(corners).astype(np.int32)], 255)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


@functools.lru_cache(maxsize=None)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which covers ASCII; other letters show as boxes."""
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _shorten(text: str, size: int, room: float) -> str:
    """``text``, cut with dots where it is wider than ``room`` pixels."""
    if _text_width(text, size) <= room:
        return text
    while text and _text_width(text + "...", size) > room:
        text = text[:-1]
    return text + "..."


def relation_heatmap(matrix: np.ndarray, row_names: Sequence[str], col_names: Sequence[str],
                     title: str = "", vmin: float = -1.0, vmax: float = 1.0) -> np.ndarray:
    """A heat map of the relations between classes, with names, values and a colour bar.

    Blue - white - red where vmin < 0 < vmax (white is the middle of the range), else cividis.
    Values outside the range take the colour of its end; what is not a number is hatched.

    Args:
        matrix (np.ndarray): float [R, K], such as cosines [U, S].
        row_names (list[str]): R names.
        col_names (list[str]): K names.
        title (str, optional): written above.
        vmin (float): lower end of the colours.
        vmax (float): upper end of the colours.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: the matrix is empty or does not fit the names, or vmin >= vmax.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (len(row_names), len(col_names)) or matrix.size == 0:
        raise UserError(f"the relations are {list(matrix.shape)} for {len(row_names)} row and "
                        f"{len(col_names)} column names; both need at least one")
    if not vmin < vmax:
        raise UserError(f"`vmin: {vmin}` must be less than `vmax: {vmax}`")
    rows, columns = matrix.shape
    cell = int(np.clip(900 // max(rows, columns), 18, 44))
    row_names = [_shorten(name, _FONT_SIZE, 190) for name in row_names]
    col_names = [_shorten(name, _FONT_SIZE, 190) for name in col_names]
    left = _MARGIN + _widest(row_names) + 8
    top = _MARGIN + (_TITLE_SIZE + 12 if title else 0) + _widest(col_names) + 8
    map_width, map_height = columns * cell, rows * cell
    bar_left, bar_height = left + map_width + 18, max(map_height, 120)
    ends = [f"{value:.3g}" for value in (vmin, (vmin + vmax) / 2, vmax)]
    width = max(bar_left + 14 + 8 + _widest(ends) + _MARGIN,
                2 * _MARGIN + int(np.ceil(_text_width(title, _TITLE_SIZE))))
    canvas = Image.new("RGB", (width, top + bar_height + _MARGIN + 4), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, _INK, _font(_TITLE_SIZE))
    canvas.paste(Image.fromarray(_cells(matrix, cell, vmin, vmax)), (left, top))
    if cell >= 36:
        _write_values(draw, matrix, (left, top), cell, vmin, vmax)
    for row, name in enumerate(row_names):
        draw.text((left - 8, top + (row + 0.5) * cell), name, _INK, _font(_FONT_SIZE),
                  anchor="rm")
    for column, name in enumerate(col_names):
        upright = _upright(name)
        canvas.paste(upright, (left + column * cell + (cell - upright.width) // 2,
                               top - 8 - upright.height))
    _draw_bar(canvas, (bar_left, top), bar_height, ends, vmin, vmax)
    return np.array(canvas)


def relation_panel(semantic: np.ndarray, generated: np.ndarray, row_names: Sequence[str],
                   col_names: Sequence[str],
                   titles: Sequence[str] = ("Semantic relations", "Generated relations"),
                   vmin: float = -1.0, vmax: float = 1.0) -> np.ndarray:
    """Two heat maps of the same classes: side by side, or one over the other if they are wide.

    Args:
        semantic (np.ndarray): float [R, K].
        generated (np.ndarray): float [R, K].
        row_names, col_names, vmin, vmax: as for ``relation_heatmap``.
        titles (list[str]): one for each map.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: as ``relation_heatmap``.
    """
    maps = [relation_heatmap(matrix, row_names, col_names, title, vmin, vmax)
            for matrix, title in zip((semantic, generated), titles)]
    side = int(len(col_names) <= 2 * len(row_names))
    length = max(picture.shape[1 - side] for picture in maps)
    padded = []
    for picture in maps:
        margins = [(0, 0), (0, 0), (0, 0)]
        margins[1 - side] = (0, length - picture.shape[1 - side])
        padded.append(np.pad(picture, margins, constant_values=255))
    return np.concatenate(padded, axis=side)


def _widest(names: Sequence[str]) -> int:
    return int(np.ceil(max(_text_width(name, _FONT_SIZE) for name in names)))


def _upright(text: str) -> Image.Image:
    """``text`` turned to read from bottom to top."""
    length = max(1, int(np.ceil(_text_width(text, _FONT_SIZE))))
    line = Image.new("RGB", (length, _FONT_SIZE + 4), _PAPER)
    ImageDraw.Draw(line).text((0, line.height / 2), text, _INK, _font(_FONT_SIZE), anchor="lm")
    return line.transpose(Image.Transpose.ROTATE_90)


def _color_table(vmin: float, vmax: float) -> np.ndarray:
    """[T, 3]: colours at equal steps from vmin to vmax."""
    if vmin < 0 < vmax:
        return _DIVERGING
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(ramp, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1]


def _colors(values: np.ndarray, vmin: float, vmax: float) -> np.ndarray:
    """uint8 [..., 3]: the colours of ``values``, interpolated between those of the table."""
    table = _color_table(vmin, vmax)
    place = np.clip((np.nan_to_num(values) - vmin) / (vmax - vmin), 0, 1) * (len(table) - 1)
    tones = [np.interp(place, np.arange(len(table)), tone) for tone in table.T]
    return np.rint(np.stack(tones, -1)).astype(np.uint8)


def _cells(matrix: np.ndarray, cell: int, vmin: float, vmax: float) -> np.ndarray:
    """uint8 [R * cell, K * cell, 3]: coloured squares with thin white lines between."""
    def spread(values: np.ndarray) -> np.ndarray:
        return values.repeat(cell, axis=0).repeat(cell, axis=1)

    picture = spread(_colors(matrix, vmin, vmax))
    picture = np.where(spread(np.isnan(matrix))[..., None], _hatching(*picture.shape[:2]), picture)
    picture[cell - 1::cell] = picture[:, cell - 1::cell] = 255
    return picture


def _write_values(draw: ImageDraw.ImageDraw, matrix: np.ndarray, corner: Tuple[int, int],
                  cell: int, vmin: float, vmax: float) -> None:
    """Write each value into its cell, dark on light colours and light on dark ones."""
    luminance = _colors(matrix, vmin, vmax) @ np.array([0.299, 0.587, 0.114])
    for (row, column), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            place = (corner[0] + (column + 0.5) * cell, corner[1] + (row + 0.5) * cell)
            draw.text(place, _cell_text(value), _INK if luminance[row, column] > 140 else _PAPER,
                      _font(13), anchor="mm")


def _cell_text(value: float) -> str:
    """At most two decimals, without the zero before the point: .25, -.03, 1.00, 12.3."""
    if abs(value) >= 10:
        return f"{value:.3g}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{round(value, 2) + 0.0:.2f}")  # + 0.0 turns -0 into 0


def _draw_bar(canvas: Image.Image, corner: Tuple[int, int], height: int, ends: List[str],
              vmin: float, vmax: float) -> None:
    """A colour bar with its lowest, middle and highest value."""
    left, top = corner
    values = np.linspace(vmax, vmin, height)[:, None].repeat(14, axis=1)
    canvas.paste(Image.fromarray(_colors(values, vmin, vmax)), corner)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + 13, top + height - 1), outline=_FAINT)
    for share, text in zip((1.0, 0.5, 0.0), ends):
        draw.text((left + 14 + 8, top + share * (height - 1)), text, _FAINT, _font(_FONT_SIZE),
                  anchor="lm")


def save_png(path: str, rgb: np.ndarray) -> None:
    """Write a picture, uint8 RGB [H, W, 3], atomically."""
    _check_image(rgb)
    with atomic_path(path) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")
