"""AttributeShapes: a small procedural data set whose classes combine a colour and a pattern.

It needs no download and has what zero-shot segmentation lives on: an unseen class such as
"green dotted" shares its colour and its pattern with seen classes, so its place among them can
be told from its name or its attributes. The silhouette says nothing about the class.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset
from PIL import Image

from paddle_csrl.errors import UserError
from paddle_csrl.registry import register
from paddle_csrl.utils import progress
from paddle_csrl.utils.arrays import save_arrays
from paddle_csrl.utils.io import folder_aside, write_image

# Part of the folder's name: count up when the drawing changes, so that old files are not reused.
_VERSION = 1

# Factor by which silhouettes and patterns are drawn larger before they are averaged down.
_SUPERSAMPLING = 4

_COLORS: dict[str, tuple[int, int, int]] = {
    "red": (206, 38, 38), "blue": (38, 84, 204), "green": (44, 146, 60),
    "yellow": (242, 190, 12), "purple": (134, 48, 176), "orange": (240, 112, 16),
    "turquoise": (22, 182, 178), "pink": (242, 112, 170), "brown": (112, 62, 28),
    "black": (30, 30, 36),
}

# The second tone of every pattern; the same for all colours, so that it tells nothing of them.
_INK = np.array([250, 246, 236], np.float32)


def _fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v * 1.5)
    return (_fraction(v * 1.5) < 0.3) | (_fraction(u * 0.8 + row / 2) < 0.16)


# Pattern -> share of ink at (u, v), coordinates from the object's centre in wavelengths.
_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda u, v: np.zeros_like(u),
    "striped": lambda u, v: _fraction(u) < 0.45,
    "dotted": lambda u, v: (_fraction(u) - 0.5)**2 + (_fraction(v) - 0.5)**2 < 0.31**2,
    "checkered": lambda u, v: (_fraction(u * 0.8) < 0.5) ^ (_fraction(v * 0.8) < 0.5),
    "wavy": lambda u, v: _fraction(u + 0.3 * np.sin(np.pi * v)) < 0.45,
    "ringed": lambda u, v: _fraction(np.hypot(u, v)) < 0.45,
    "plaid": lambda u, v: 0.5 * (_fraction(u) < 0.4) + 0.5 * (_fraction(v) < 0.4),
    "brick": _bricks,
}

# Muted pairs of tones between which the background's noise moves.
_GROUNDS = np.array([
    [[148, 140, 126], [196, 188, 170]],  # sand
    [[106, 112, 116], [160, 164, 164]],  # slate
    [[104, 110, 92], [152, 156, 132]],  # moss
    [[122, 112, 104], [172, 160, 148]],  # clay
    [[128, 134, 142], [186, 190, 194]],  # concrete
], np.float32)


def _rounded_polygon(sides: int) -> np.ndarray:
    """A regular polygon with soft corners: the unit ball of a p-norm over its side normals."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    normals = 2 * np.pi * np.arange(sides) / sides
    support = np.maximum(np.cos(angle[:, None] - normals), 0)
    radius = (support**10).sum(1)**-0.1
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _circle(rng: np.random.Generator) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return np.stack([np.cos(angle), rng.uniform(0.8, 1.0) * np.sin(angle)], 1)


def _star(rng: np.random.Generator) -> np.ndarray:
    angle = np.pi * np.arange(10) / 5
    radius = np.where(np.arange(10) % 2, rng.uniform(0.5, 0.6), 1.0)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1)


def _heart(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t)**3, -2 - y], 1)


def _blob(rng: np.random.Generator) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    wave = np.arange(2, 6)
    phase = rng.uniform(0, 2 * np.pi, wave.size)
    radius = 1 + (0.28 / wave * np.cos(wave * angle[:, None] + phase)).sum(1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


_SILHOUETTES: Sequence[Callable[[np.random.Generator], np.ndarray]] = (
    _circle, _star, _heart, _blob, lambda rng: _rounded_polygon(3),
    lambda rng: _rounded_polygon(4), lambda rng: _rounded_polygon(6))


class _Stamp(NamedTuple):
    """An object cut out of its surroundings: box corner, coverage and ink share per pixel."""
    left: int
    top: int
    coverage: np.ndarray
    ink: np.ndarray


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _outline(rng: np.random.Generator, center: np.ndarray, radius: float) -> np.ndarray:
    """float [P, 2]: a random silhouette with the area of a disc of ``radius`` pixels."""
    points = _SILHOUETTES[rng.integers(len(_SILHOUETTES))](rng)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    points = points * radius * np.sqrt(np.pi / area)
    return points @ _rotation(rng.uniform(0, 2 * np.pi)).T + center


def _stamp(rng: np.random.Generator, pattern: str, center: np.ndarray, radius: float,
           wavelength: float) -> _Stamp:
    """Draw one object enlarged and average it down, which smooths its edges."""
    outline = _outline(rng, center, radius)
    left, top = np.floor(outline.min(0)).astype(int) - 1
    width, height = np.ceil(outline.max(0)).astype(int) + 1 - (left, top)
    s = _SUPERSAMPLING
    mask = np.zeros((height * s, width * s), np.uint8)
    corners = (outline - (left, top)) * s - 0.5
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 1, shift=4)

    x = (np.arange(width * s) + 0.5) / s + left - center[0]
    y = (np.arange(height * s) + 0.5) / s + top - center[1]
    turn = _rotation(rng.uniform(0, 2 * np.pi)) / wavelength
    u = turn[0, 0] * x + turn[0, 1] * y[:, None]
    v = turn[1, 0] * x + turn[1, 1] * y[:, None]
    ink = _PATTERNS[pattern](u, v) * mask

    def shrink(enlarged: np.ndarray) -> np.ndarray:
        return cv2.resize(enlarged.astype(np.float32), (int(width), int(height)),
                          interpolation=cv2.INTER_AREA)

    coverage = shrink(mask)
    return _Stamp(left, top, coverage, shrink(ink) / np.maximum(coverage, 1e-6))


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 [size, size]: smooth noise in about [0, 1], four octaves of halving strength."""
    total = np.zeros((size, size), np.float32)
    for octave in range(4):
        cells = rng.random((4 << octave, 4 << octave), np.float32)
        total += cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total / 1.875 - 0.5) * 1.6 + 0.5


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """float64 [size, size, 3]: a muted, mottled ground with fine grain."""
    dark, light = _GROUNDS[rng.integers(len(_GROUNDS))] + rng.uniform(-10, 10, 3)
    grain = rng.normal(0, 4, (size, size)).astype(np.float32)
    return dark + (light - dark) * _noise(rng, size)[..., None] + grain[..., None]


def _illumination(light: np.ndarray, size: int) -> np.ndarray:
    """float32 [size, size, 1]: a gradient towards the light, darker in the corners."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis, axis[:, None]
    vignette = 1.06 - 0.13 * (x * x + y * y)
    return (vignette + 0.09 * (light[0] * x + light[1] * y))[..., None].astype(np.float32)


def _place(rng: np.random.Generator, size: int, radius: float,
           others: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """A centre at which the object hides little of the ``others`` (centre, radius) before it.

    Of twelve random places the first that overlaps no other by more than a fourth of their
    radii is taken, or else the one that overlaps least.
    """
    places = rng.uniform(0.75 * radius, size - 0.75 * radius, (12, 2))
    clearance = np.zeros(len(places))
    for center, other in others:
        distance = np.linalg.norm(places - center, axis=1)
        clearance = np.minimum(clearance, distance - 0.75 * (radius + other))
    return places[clearance.argmax()]


def _paint(image: np.ndarray, label: np.ndarray, stamp: _Stamp, color: np.ndarray,
           light: np.ndarray, class_id: int) -> None:
    """Lay an object, its shading and its soft shadow over ``image`` and ``label``, in place."""
    size = len(label)
    height, width = stamp.coverage.shape
    depth = 0.022 * size
    pad = int(np.ceil(4 * depth))
    padded = cv2.copyMakeBorder(stamp.coverage, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    shift = np.array([[1, 0, -1.2 * depth * light[0]], [0, 1, -1.2 * depth * light[1]]],
                     np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(padded, shift, padded.shape[::-1]), (0, 0), depth)
    window, part = _overlap(stamp.left - pad, stamp.top - pad, padded.shape, size)
    image[window] *= 1 - 0.5 * shadow[part][..., None]

    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    bulge = 1.02 + 0.16 * (light[0] * x + light[1] * y) - 0.06 * (x * x + y * y)
    body = color + (_INK - color) * stamp.ink[..., None]
    body *= bulge[..., None]
    window, part = _overlap(stamp.left, stamp.top, stamp.coverage.shape, size)
    alpha = stamp.coverage[part][..., None]
    image[window] += alpha * (body[part] - image[window])
    label[window][stamp.coverage[part] >= 0.5] = class_id


def _overlap(left: int, top: int, shape: tuple[int, ...],
             size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a size × size image and of a box of ``shape`` placed at (left, top) on it."""
    height, width = shape
    rows = slice(max(top, 0), min(top + height, size))
    columns = slice(max(left, 0), min(left + width, size))
    return ((rows, columns), (slice(rows.start - top, rows.stop - top),
                              slice(columns.start - left, columns.stop - left)))


def _draw_scene(rng: np.random.Generator, size: int, colors: Sequence[str],
                patterns: Sequence[str], first_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene of two to four objects: uint8 RGB [size, size, 3] and ids [size, size].

    The first object is of ``first_class``; the others are drawn independently and uniformly over
    all classes, numbered as in ``AttributeShapes``.
    """
    number = rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2])
    classes = [first_class, *rng.integers(1, 1 + len(colors) * len(patterns), number - 1)]
    direction = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(direction), np.sin(direction)], np.float32)

    image = _ground(rng, size)
    label = np.zeros((size, size), np.uint8)
    placed: list[tuple[np.ndarray, float]] = []
    for class_id in classes:
        color, pattern = divmod(int(class_id) - 1, len(patterns))
        radius = size * rng.uniform(0.2, 0.5) / 2
        center = _place(rng, size, radius, placed)
        placed.append((center, radius))
        stamp = _stamp(rng, patterns[pattern], center, radius,
                       wavelength=size * rng.uniform(0.08, 0.1))
        tone = (np.array(_COLORS[colors[color]], np.float32) * rng.uniform(0.9, 1.08)
                + rng.uniform(-9, 9, 3))
        _paint(image, label, stamp, tone.astype(np.float32), light, class_id)
    image *= _illumination(light, size)
    image += rng.normal(0, 3, image.shape).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


@register(manager.DATASETS)
class AttributeShapes(Dataset):
    """Procedural scenes whose classes combine a colour and a pattern, drawn at first use.

    Class 0 is the background; class ``1 + c * num_patterns + p`` is colour c with pattern p,
    named "red striped", "blue dotted" and so on. An image shows two to four objects (2.7 on
    average) of random silhouette, size (0.2 to 0.5 of the image), place and rotation, on a
    mottled ground under soft light. The first object's class runs through all classes in turn,
    so each class occurs once num_train >= the number of combinations; the others are drawn
    independently and uniformly. Without knowing which classes are unseen, the data set thus
    keeps about 47 % of its images under a policy that drops every image with one of 5 unseen
    classes out of 20: about 280 of the default 600.

    The files lie in a folder of ``dataset_root`` named after the parameters: ``images/*.jpg``,
    ``labels/*.png`` (with a palette), ``train.txt``, ``val.txt``, ``classes.txt`` and
    ``attributes.npz`` (see ``write_attributes``). They are a function of the parameters alone.
    The folder is written aside and renamed; if a file is missing, it is made anew.

    ``NUM_CLASSES`` is the default number of classes; ``num_classes`` of an instance is the one
    in force.

    Args:
        mode (str, optional): "train" or "val". Default: "train".
        dataset_root (str, optional): where the folders go. Default: data/attribute_shapes.
        transforms (list, optional): PaddleSeg transforms. Default: none but the reading.
        num_colors (int, optional): colours, 1 to 10, in the order red, blue, green, yellow,
            purple, orange, turquoise, pink, brown, black. Default: 5.
        num_patterns (int, optional): patterns, 1 to 8, in the order plain, striped, dotted,
            checkered, wavy, ringed, plaid, brick. Default: 4.
        first_color, first_pattern (int, optional): how many of them to pass over first. Data sets
            whose colours or patterns differ share no class, so that settings can be chosen on one
            and used on another. Default: 0.
        num_train (int, optional): number of training images. Default: 600.
        num_val (int, optional): number of validation images. Default: 150.
        image_size (int, optional): height and width in pixels, 48 to 512. Default: 96.
        seed (int, optional): seed of all images, >= 0. Default: 0.
        edge (bool, optional): whether to compute edges while training. Default: False.

    Raises:
        UserError: a parameter is out of its range.
    """
    NUM_CLASSES = 21
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3

    def __init__(self, mode: str = "train", dataset_root: str | None = None,
                 transforms: Sequence | None = None, num_colors: int = 5, num_patterns: int = 4,
                 num_train: int = 600, num_val: int = 150, image_size: int = 96, seed: int = 0,
                 edge: bool = False, first_color: int = 0, first_pattern: int = 0):
        if mode not in ("train", "val"):
            raise UserError(f"AttributeShapes has no `mode: {mode}`; use train or val")
        _check_range("first_color", first_color, 0, len(_COLORS) - 1)
        _check_range("first_pattern", first_pattern, 0, len(_PATTERNS) - 1)
        _check_range("num_colors", num_colors, 1, len(_COLORS) - first_color)
        _check_range("num_patterns", num_patterns, 1, len(_PATTERNS) - first_pattern)
        _check_range("num_train", num_train, 1, 10**6)
        _check_range("num_val", num_val, 1, 10**6)
        _check_range("image_size", image_size, 48, 512)
        _check_range("seed", seed, 0, 2**32 - 1)
        self.colors = list(_COLORS)[first_color:][:num_colors]
        self.patterns = list(_PATTERNS)[first_pattern:][:num_patterns]
        self.num_images = {"train": num_train, "val": num_val}
        self.image_size, self.seed = image_size, seed
        root = os.path.join("data", "attribute_shapes") if dataset_root is None else dataset_root
        shift = f"from{first_color}x{first_pattern}_" if first_color or first_pattern else ""
        folder = os.path.join(root, f"v{_VERSION}_{shift}{num_colors}x{num_patterns}_"
                                    f"{image_size}px_{num_train}train_{num_val}val_seed{seed}")
        if not self._is_whole(folder):
            self._make(folder)
        super().__init__(mode, folder, list(transforms or ()), num_classes=len(self.class_names),
                         train_path=os.path.join(folder, "train.txt"),
                         val_path=os.path.join(folder, "val.txt"),
                         ignore_index=self.IGNORE_INDEX, edge=edge)

    @property
    def class_names(self) -> list[str]:
        """Name of every class, by id: "background", then "colour pattern"."""
        return ["background"] + [f"{color} {pattern}"
                                 for color in self.colors for pattern in self.patterns]

    @property
    def attributes(self) -> np.ndarray:
        """float32 [C, A]: 1 where a class has an attribute, else 0.

        The A columns are: being background, the colours, the patterns (``attribute_names``).
        """
        num_colors, num_patterns = len(self.colors), len(self.patterns)
        color = np.repeat(np.eye(num_colors), num_patterns, axis=0)
        pattern = np.tile(np.eye(num_patterns), (num_colors, 1))
        attributes = np.zeros((1 + len(color), 1 + num_colors + num_patterns), np.float32)
        attributes[0, 0] = 1
        attributes[1:, 1:] = np.concatenate([color, pattern], axis=1)
        return attributes

    @property
    def attribute_names(self) -> list[str]:
        """Names of the A columns of ``attributes``."""
        return ["background", *self.colors, *self.patterns]

    @property
    def palette(self) -> np.ndarray:
        """uint8 [C, 3]: RGB for label pictures.

        The background is dark grey, the hue tells the class's colour and the lightness its
        pattern, so that a picture shows which of the two a prediction got wrong.
        """
        rgb = np.array([[_COLORS[color] for color in self.colors]], np.float32) / 255
        lab = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), len(self.patterns), axis=1)
        lab[..., 0] = np.tile(np.linspace(42, 86, len(self.patterns)), len(self.colors))
        shades = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[0].clip(0, 1) * 255
        return np.concatenate([[[52, 54, 60]], np.rint(shades)]).astype(np.uint8)

    def write_attributes(self, path: str) -> None:
        """Write ``class_names`` and ``attributes`` as a class-embedding file.

        Args:
            path (str): the .npz file, with ``names`` (str [C]) and ``vectors`` (float32 [C, A]).
        """
        save_arrays(path, {"names": np.array(self.class_names), "vectors": self.attributes})

    def _files(self, mode: str) -> list[tuple[str, str]]:
        """Image and label of every index, relative to the folder."""
        return [(f"images/{mode}_{index:05d}.jpg", f"labels/{mode}_{index:05d}.png")
                for index in range(self.num_images[mode])]

    def _is_whole(self, folder: str) -> bool:
        names = ["train.txt", "val.txt", "classes.txt", "attributes.npz"]
        for mode in self.num_images:
            names += [name for pair in self._files(mode) for name in pair]
        return all(os.path.isfile(os.path.join(folder, name)) for name in names)

    def _make(self, folder: str) -> None:
        """Write all files aside and rename; where processes race, the first one's stay."""
        aside = folder_aside(folder)
        try:
            self._write(aside)
            if os.path.isdir(folder) and not self._is_whole(folder):
                shutil.rmtree(folder)
            try:
                os.rename(aside, folder)
            except OSError:
                if not self._is_whole(folder):
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self, folder: str) -> None:
        os.makedirs(os.path.join(folder, "images"))
        os.makedirs(os.path.join(folder, "labels"))
        tasks = [(split, index, names) for split, mode in enumerate(self.num_images)
                 for index, names in enumerate(self._files(mode))]
        label_palette = self.palette.tobytes()
        for split, index, (image_name, label_name) in progress(tasks, "drawing AttributeShapes"):
            image, label = self._draw(split, index)
            write_image(os.path.join(folder, image_name), Image.fromarray(image), "JPEG",
                        quality=95, subsampling=0)
            label_picture = Image.fromarray(label)
            label_picture.putpalette(label_palette)
            write_image(os.path.join(folder, label_name), label_picture, "PNG")
        for mode in self.num_images:
            _write_lines(os.path.join(folder, f"{mode}.txt"), map(" ".join, self._files(mode)))
        _write_lines(os.path.join(folder, "classes.txt"), self.class_names)
        self.write_attributes(os.path.join(folder, "attributes.npz"))

    def _draw(self, split: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        combinations = len(self.colors) * len(self.patterns)
        return _draw_scene(np.random.default_rng([self.seed, split, index]), self.image_size,
                           self.colors, self.patterns, first_class=1 + index % combinations)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) \
            or not low <= value <= high:
        raise UserError(f"AttributeShapes: `{name}: {value}` must be a whole number from {low} "
                        f"to {high}")


def _write_lines(path: str, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
