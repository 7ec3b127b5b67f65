"""Colours of classes."""

from collections.abc import Sequence

import cv2
import numpy as np

from paddle_csrl.datasets.class_names import fold_name
from paddle_csrl.errors import UserError

# The background, then the colour-blind-safe colours of Okabe & Ito (Color Universal Design,
# 2008), the strongest contrasts first.
_FIRST_COLORS = [(52, 54, 60), (230, 159, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167),
                 (0, 158, 115), (213, 94, 0), (86, 180, 233)]


def palette(num_classes: int, name: str | None = None) -> np.ndarray:
    """A colour for every class.

    Args:
        num_classes (int): number of classes C, 1 to 65536; beyond 256 the colours repeat.
        name (str, optional): "voc" for Pascal VOC's own palette. Otherwise class 0 is dark grey
            and each further colour is the one farthest, to normal and to red-green-blind eyes,
            from all before it; a smaller palette is therefore the beginning of a larger one.

    Returns:
        uint8 [C, 3]: RGB.

    Raises:
        UserError: num_classes out of range, or no palette of this name.
    """
    if not 1 <= num_classes <= 65536:
        raise UserError(f"a palette has 1 to 65536 colours, not {num_classes}")
    if num_classes > 256:
        return palette(256, name)[np.arange(num_classes) % 256]
    if name == "voc":
        return _voc_palette(num_classes)
    if name is not None:
        raise UserError(f"no palette `{name}`; use voc, or None for the general one")
    return extend_palette(np.array(_FIRST_COLORS[:num_classes], np.uint8), num_classes)


def _voc_palette(num_classes: int) -> np.ndarray:
    """Bit 3k + c of a class id becomes bit 7 - k of its channel c."""
    ids = np.arange(num_classes)[:, None]
    channel = np.arange(3)
    bits = [((ids >> (3 * k + channel)) & 1) << (7 - k) for k in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)


def extend_palette(colors: np.ndarray, num_classes: int) -> np.ndarray:
    """Add to ``colors``, uint8 RGB [K, 3], up to ``num_classes``, as ``palette`` does.

    Farthest-point sampling of the RGB cube, without greys, neons and near-white.
    """
    steps = np.linspace(0, 255, 12).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _lab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(chroma > 22) & (chroma < 90) & (lab[:, 0] > 35) & (lab[:, 0] < 92)]
    chosen = list(np.asarray(colors, np.float64))
    seen = _perceived(grid)
    distance = np.full(len(grid), np.inf)
    for color in chosen:
        distance = np.minimum(distance, _distance(seen, _perceived(color[None])))
    while len(chosen) < num_classes:
        best = distance.argmax()
        chosen.append(grid[best])
        distance = np.minimum(distance, _distance(seen, seen[best:best + 1]))
    return np.array(chosen).astype(np.uint8)


def colors_by_name(colors: np.ndarray, names: Sequence[str],
                   wanted: Sequence[str]) -> np.ndarray:
    """The colours of the classes ``wanted``: those of the same ``names``, else new ones."""
    known = {fold_name(name): color for name, color in zip(names, colors)}
    missing = [name for name in wanted if fold_name(name) not in known]
    added = extend_palette(colors, len(colors) + len(missing))[len(colors):]
    known.update((fold_name(name), color) for name, color in zip(missing, added))
    return np.stack([known[fold_name(name)] for name in wanted])


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
