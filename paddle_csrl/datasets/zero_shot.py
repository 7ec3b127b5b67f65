"""Keeping unseen classes out of training."""

import copy
import ctypes
import multiprocessing
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import paddle
from paddleseg.cvlibs import manager
from paddleseg.datasets import ADE20K
from scipy.sparse import csr_array

from paddle_csrl import parallel
from paddle_csrl.datasets import label_scan
from paddle_csrl.datasets.class_names import (
    class_names_for,
    fold_name,
    read_class_names,
    resolve_classes,
)
from paddle_csrl.datasets.label_scan import LabelScan
from paddle_csrl.datasets.order import Draw
from paddle_csrl.datasets.trial import blame, blame_dataset
from paddle_csrl.errors import UserError
from paddle_csrl.registry import register
from paddle_csrl.utils.randomness import seeded

# Marks a sample whose label `_Relabel` has been over.
_RELABELLED = "_relabelled"
_LARGEST_ID = 65535  # of a label file
_PADDING = 255  # by which PaddleSeg's transforms pad labels where nothing else is said
_OF_8_BITS = ("RandomAffine",)  # transforms of PaddleSeg that cut labels down to these


@register(manager.DATASETS)
class ZeroShotDataset(paddle.io.Dataset):
    """A PaddleSeg data set whose unseen classes cannot get into training.

    While training (every ``mode`` but ``val`` and ``test``), ``policy`` says what happens to
    pixels of unseen classes:

    - ``drop``: images with at least one such pixel, in any of their labels, are left out.
    - ``ignore``: their labels become ``ignore_index``, before any transform of the data set sees
      the label. The pixels themselves stay visible.

    Either way every sample is checked and counted on its way out; its label is int32, for Paddle
    takes the uint16 of a 16-bit file for another type. Validation samples are not changed, unless
    ``hide_unseen`` puts them under the policy too, as the choice of a checkpoint needs.

    A sample is asked for by its index, or by (index, epoch). What its transforms draw at random
    depends on ``seed``, epoch and sample alone, not on who reads it or what was read before.

    Args:
        dataset (paddle.io.Dataset): the data set, whose samples are dicts with ``img`` and
            ``label``. It is not changed.
        unseen (list[str] or str): names of the unseen classes; a text separates them by commas.
        policy (str, optional): ``drop`` or ``ignore``. Default: ``drop``.
        class_names (list[str] or str, optional): as for ``read_class_names``. Default: the data
            set's own ``class_names``, else those built in for its type.
        label_names (list[str] or str, optional): names by label id of the data set's files, where
            these are not the ids of the classes. A label counts as the class of its name; one
            whose name no class has becomes ``ignore_index``. A class need not have a label.
        cache_dir (str, optional): where the label scan is kept, see ``scan_labels``.
        mode (str, optional): stands in for the data set's own ``mode``.
        num_workers (int, optional): threads of the label scan; 0 for one a core, 8 at most.
        hide_unseen (bool, optional): apply the policy in validation too. Default: False.
        seed (int, optional): of random transforms, 0 to 4294967295. Default: 0.

    Attributes:
        seen_ids (np.ndarray): int64 [S], ascending.
        unseen_ids (np.ndarray): int64 [U], ascending.
        file_list (list): the data set's, without the images left out.
        drawn (DrawnLabels): counts of the labels that were given out.

    Raises:
        UserError: on a wrong argument, a broken file or label (naming it), or if no image is
            left. Reading a sample raises it, too.
        RuntimeError: a sample is about to leave with an unseen label. This must never happen.
    """

    def __init__(self, dataset: paddle.io.Dataset, unseen: str | Sequence[str],
                 policy: str = "drop",
                 class_names: str | Sequence[str] | None = None,
                 label_names: str | Sequence[str] | None = None,
                 cache_dir: str | None = None, mode: str | None = None,
                 num_workers: int = 0, hide_unseen: bool = False, seed: int = 0):
        super().__init__()
        if policy not in ("drop", "ignore"):
            raise UserError(f"`policy: {policy}` is unknown; choose drop or ignore")
        self.dataset = dataset
        self._files = _file_pairs(dataset)
        self.policy, self.seed = policy, seed
        self.mode = str(mode or getattr(dataset, "mode", "train")).lower()
        self.ignore_index = getattr(dataset, "ignore_index", 255)
        self.class_names = _class_names(dataset, class_names, label_names)
        self.num_classes = len(self.class_names)
        if 0 <= self.ignore_index < self.num_classes:
            raise UserError(f"`ignore_index: {self.ignore_index}` of {type(dataset).__name__} is "
                            f"one of its {self.num_classes} classes; set it to a value that is "
                            f"none, such as 65535, and where labels have "
                            f"{self.ignore_index} for no class, name them by "
                            f"`zero_shot.label_names`")
        self._class_of = class_of_labels(self.class_names, label_names, self.ignore_index)
        self._require_no_class_ignored()
        self.unseen_ids = np.sort(np.array(resolve_classes(self.class_names, unseen), np.int64))
        self.seen_ids = np.setdiff1d(np.arange(self.num_classes), self.unseen_ids)
        self._is_training = self.mode not in ("val", "test")
        self.hides_unseen = hide_unseen or self._is_training
        self._scan_options: dict[str, Any] = {"cache_dir": cache_dir, "num_workers": num_workers}
        self._sources = self._choose()
        self._relabel = _Relabel(self._class_of, self.unseen_ids if self._remaps else None,
                                 self.ignore_index)
        if self._relabel.changes and not 0 <= self.ignore_index <= _LARGEST_ID:
            raise UserError(f"`policy: ignore` and `label_names` need an `ignore_index` from 0 to "
                            f"{_LARGEST_ID}, got {self.ignore_index}")
        self._inner = self._relabelling_copy() if self.hides_unseen else dataset
        self.drawn = DrawnLabels(self.num_classes)

    @property
    def _remaps(self) -> bool:
        return self.hides_unseen and self.policy == "ignore"

    @property
    def _transforms_labels(self) -> bool:
        """False in validation, where data sets of PaddleSeg leave the label as it is."""
        return self._is_training and bool(self.transforms)

    @property
    def transforms(self) -> Any:
        """The transforms of the data set."""
        return getattr(self.dataset, "transforms", None)

    @property
    def img_channels(self) -> int:
        return getattr(self.dataset, "img_channels", 3)

    @property
    def file_list(self) -> list[Any]:
        files = getattr(self.dataset, "file_list", None)
        return [] if files is None else [files[source] for source in self._sources]

    @property
    def unlabelled_images(self) -> list[str]:
        """Paths of the training images that the policy keeps labels from; labels stay here.

        With ``drop`` the images left out; with ``ignore`` those in which a label, as it leaves
        here, has pixels without a class.

        Raises:
            UserError: there is none, or the data set offers no way to know.
        """
        if self._scan is None or self._files is None:
            raise UserError(f"`self_training` needs a data set with a file_list of image and label "
                            f"paths, which {type(self.dataset).__name__} has not; leave it out")
        hidden = self._has_unseen(self._scan)
        if self.policy == "ignore":
            hidden |= self._scan.unlabelled > 0
        if not hidden.any():
            raise UserError("`self_training` has nothing to learn from: no training image shows "
                            "an unseen class; leave it out")
        return [self._files[source][0] for source in np.flatnonzero(hidden)]

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int | Draw) -> dict[str, Any]:
        number, epoch = index if isinstance(index, tuple) else (index, 0)
        source = int(self._sources[number])
        with seeded(self.seed, epoch, number):  # dropped images must not matter
            data = self._read(source)
        relabelled = data.pop(_RELABELLED, False)
        if data.get("label") is None:
            return data
        label = np.asarray(data["label"])
        if self._relabel.changes and not relabelled:
            if self._transforms_labels:
                raise self._transforms_come_first()
            if "edge" in data:
                raise RuntimeError(f"must never happen: {self._name(source)} comes with edges of "
                                   f"unseen classes, for its data set has no list of transforms")
            label = self._relabel.label(label, self._name(source))
        self._guard(label, source)
        data["label"] = label.astype(np.int32)
        return data

    def tried(self, number: int = 8) -> list[dict[str, Any]]:
        """Read up to ``number`` samples from all over, which do not count as drawn."""
        places = np.unique(np.linspace(0, len(self) - 1, number).round().astype(int))
        samples = [self[place] for place in places.tolist()]
        self.drawn.clear()
        return samples

    def audit(self) -> dict[str, Any]:
        """Count what of the data is used, by the label scan.

        Returns:
            dict: ``policy`` (``none`` in validation), ``images_total``, ``images_used``,
            ``images_dropped`` and, over the images used, ``pixels_seen``, ``pixels_unlabelled``,
            ``pixels_ignored_unseen``, ``pixels_unseen_used`` and ``seen_classes_absent`` (names).
            A data set whose labels cannot be scanned has no more than the first four.
        """
        result = {"policy": self.policy if self.hides_unseen else "none",
                  "images_total": len(self.dataset), "images_used": len(self),
                  "images_dropped": len(self.dataset) - len(self)}
        scan = self._scan
        if scan is None:
            return result
        pixels = scan.counts[self._sources].sum(0)
        unseen = int(pixels[self.unseen_ids].sum())
        return {**result,
                "pixels_seen": int(pixels[self.seen_ids].sum()),
                "pixels_unlabelled": int(scan.unlabelled[self._sources].sum()),
                "pixels_ignored_unseen": unseen if self._remaps else 0,
                "pixels_unseen_used": 0 if self._remaps else unseen,
                "seen_classes_absent": [self.class_names[class_id] for class_id in self.seen_ids
                                        if pixels[class_id] == 0]}

    def labels_drawn(self) -> dict[str, int]:
        """Count the labels as they were given out, by all processes and so far.

        Returns:
            dict: ``samples``, ``pixels_seen``, ``pixels_unlabelled`` and ``pixels_unseen``.
        """
        *pixels, unlabelled, samples = parallel.total(self.drawn.counts())
        unseen = sum(pixels[class_id] for class_id in self.unseen_ids)
        return {"samples": int(samples), "pixels_seen": int(sum(pixels) - unseen),
                "pixels_unlabelled": int(unlabelled), "pixels_unseen": int(unseen)}

    def leaked_label_counts(self) -> np.ndarray:
        """int64 [N, C]: pixels of every class in every image, also in those left out.

        The policy is there to keep these from training; see ``stages.legacy``, the only user.

        Raises:
            UserError: the labels cannot be scanned.
        """
        if self._scan is None:
            raise UserError(f"`classifier.mode: legacy` needs the labels of all images, but "
                            f"{type(self.dataset).__name__} has neither a file_list nor "
                            f"label_histogram(); use mode: clean")
        return self._scan.counts.toarray()

    def class_pixels(self) -> np.ndarray | None:
        """int64 [N, C]: pixels of every class in every sample; None where labels have no files."""
        return None if self._scan is None else self._scan.counts[self._sources].toarray()

    def label_colors(self) -> dict[int, int]:
        """0xRRGGBB by the ids of the label files, where these have palettes."""
        scan = self._file_scan
        return {} if scan is None else scan.colors

    def label_doubts(self) -> tuple[str, ...]:
        """Doubts about the files of images and labels, a sentence each, as they were logged."""
        scan = self._file_scan
        return () if scan is None else scan.doubts

    def _has_unseen(self, scan: LabelScan) -> np.ndarray:
        """bool [N]: whether an image of the data set shows an unseen class in any of its labels."""
        shows = np.diff(scan.counts[:, self.unseen_ids].indptr) > 0
        if self._files is None:
            return shows
        images = {self._files[source][0] for source in np.flatnonzero(shows)}
        return np.array([image in images for image, _ in self._files], bool)

    @cached_property
    def _scan(self) -> LabelScan | None:
        """Pixels per image and class; ``None`` if the data set offers no way to know."""
        scan = self._file_scan
        if scan is None or self._class_of is None:
            return scan
        has_class = csr_array((self._class_of[:, None] == np.arange(self.num_classes)).astype(
            np.int64))
        counts = scan.counts @ has_class  # labels without a class are unlabelled
        return LabelScan(counts, scan.unlabelled + scan.counts.sum(1) - counts.sum(1))

    @cached_property
    def _file_scan(self) -> LabelScan | None:
        """Pixels per image and label id of the files; ``None`` as for ``_scan``."""
        num_labels = self.num_classes if self._class_of is None else len(self._class_of)
        if hasattr(self.dataset, "label_histogram"):
            counts = np.asarray(self.dataset.label_histogram(), np.int64)
            if counts.shape != (len(self.dataset), num_labels):
                raise UserError(f"label_histogram() of {type(self.dataset).__name__} is "
                                f"{list(counts.shape)}; it must be {len(self.dataset)} images by "
                                f"{num_labels} classes")
            return LabelScan.of_dense(counts)
        if self._files is None:
            return None
        return label_scan.scan_labels(self._files, num_labels, self.ignore_index,
                                      title=f"checking labels ({self.mode})",
                                      zero_is_unlabelled=isinstance(self.dataset, ADE20K),
                                      **self._scan_options)

    def _choose(self) -> np.ndarray:
        """int64 [N']: the indices, in the data set, of the samples to be used."""
        everything = np.arange(len(self.dataset))
        if not self.hides_unseen:
            return everything
        if self._scan is None:
            if self.policy == "drop":
                raise UserError(f"`policy: drop` cannot tell which images of "
                                f"{type(self.dataset).__name__} show unseen classes, for it has "
                                f"neither a file_list nor label_histogram(); use policy: ignore")
            return everything
        unseen = self._has_unseen(self._scan)
        chosen = everything[~unseen] if self.policy == "drop" else everything
        if len(chosen) == 0:
            names = ", ".join(self.class_names[class_id] for class_id in self.unseen_ids)
            raise UserError(f"`policy: drop` leaves none of the {len(unseen)} images, for each "
                            f"shows an unseen class ({names}); set policy: ignore or name fewer")
        if not self._scan.counts[chosen][:, self.seen_ids].nnz:
            raise UserError(f"the {len(chosen)} images left hold no pixel of a seen class; name "
                            f"fewer `unseen` classes or check `class_names`")
        return chosen

    def _relabelling_copy(self) -> paddle.io.Dataset:
        """The data set with ``_Relabel`` ahead of its own transforms, which look at labels."""
        if not isinstance(getattr(self.transforms, "transforms", None), list):
            if self._relabel.changes and self._transforms_labels:
                raise self._transforms_come_first()
            return self.dataset
        self._check_transforms()
        inner: Any = copy.copy(self.dataset)
        inner.transforms = copy.copy(self.transforms)
        inner.transforms.transforms = [self._relabel, *self.transforms.transforms]
        return inner

    def _require_no_class_ignored(self) -> None:
        if self._class_of is None or not 0 <= self.ignore_index < len(self._class_of):
            return
        class_id = int(self._class_of[self.ignore_index])
        if class_id != self.ignore_index:
            raise UserError(f"`ignore_index: {self.ignore_index}` of {type(self.dataset).__name__} "
                            f"is the label of {self.class_names[class_id]} by `label_names`; set "
                            f"it to a value that no class has, such as {_LARGEST_ID}")

    def _check_transforms(self) -> None:
        for transform in self.transforms.transforms if self._is_training else []:
            self._check_ids_stay(type(transform).__name__)
            value = getattr(transform, "label_padding_value", self.ignore_index)
            if value == _PADDING < self.num_classes:  # most likely nobody chose it
                reason = "is PaddleSeg's own, but one of the classes here"
            elif value not in [self.ignore_index, *self.seen_ids.tolist()]:
                reason = f"is neither `ignore_index: {self.ignore_index}` nor a seen class"
            else:
                continue
            raise UserError(f"`label_padding_value: {value}` of {type(transform).__name__} "
                            f"{reason}; set it to {self.ignore_index}")

    def _check_ids_stay(self, transform: str) -> None:
        if transform in _OF_8_BITS and max(self.num_classes - 1, self.ignore_index) > _PADDING:
            raise UserError(f"the transform {transform} cuts labels to 8 bits, and "
                            f"{self.num_classes} classes with `ignore_index: {self.ignore_index}` "
                            f"need more; use RandomRotation and ResizeStepScaling instead")

    def _transforms_come_first(self) -> UserError:
        return UserError(f"the `transforms` of {type(self.dataset).__name__} see its labels before "
                         f"`policy: ignore` or `label_names` can change them, and may mix unseen "
                         f"classes into others; make them PaddleSeg's Compose, whose first step "
                         f"is given image and label as arrays")

    def _read(self, source: int) -> dict[str, Any]:
        """The data set's sample; what goes wrong for a broken file becomes a ``UserError``."""
        if self._files:
            label_scan.require_whole_image(self._files[source][0])
        try:
            data = self._inner[source]
        except UserError:
            raise
        except Exception as error:
            if self._files:
                label_scan.require_readable(*self._files[source])
            blame(error, self.transforms, self._name(source))
            blame_dataset(error, self.dataset, self._name(source))
            raise
        if not isinstance(data, dict):
            raise UserError(f"{type(self.dataset).__name__} gives samples of type "
                            f"{type(data).__name__}; they must be dicts with img and label")
        return data

    def _guard(self, label: np.ndarray, source: int) -> None:
        values, counts = label_scan.class_pixels(label)
        if self.hides_unseen:
            # The ignored value is no label, even where it equals an unseen class's id.
            leaked = np.intersect1d(values[values != self.ignore_index], self.unseen_ids)
            if len(leaked):
                raise RuntimeError(f"must never happen: {self._name(source)} is about to be used "
                                   f"with the unseen class {self.class_names[leaked[0]]} "
                                   f"(policy: {self.policy})")
        label_scan.require_classes(values, self.num_classes, self.ignore_index, self._name(source))
        self.drawn.add(values, counts)

    def _name(self, source: int) -> str:
        """The label file of a sample, or its number."""
        return self._files[source][1] if self._files else f"sample {source}"


class DrawnLabels:
    """Counts the labels that a data set gives out, also in the worker processes of a loader.

    Args:
        num_classes (int): C; every other value counts as unlabelled.
    """

    def __init__(self, num_classes: int):
        # Workers inherit it. After the classes: unlabelled pixels, then samples.
        self._shared = multiprocessing.Array(ctypes.c_int64, num_classes + 2)

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Count a sample that holds ``values`` (int [K], distinct) so many times each."""
        with self._shared:
            own = self._view()
            is_class = (values >= 0) & (values < len(own) - 2)
            own[values[is_class]] += counts[is_class]
            own[-2] += counts[~is_class].sum()
            own[-1] += 1

    def clear(self) -> None:
        """Begin anew."""
        with self._shared:
            self._view()[:] = 0

    def counts(self) -> np.ndarray:
        """int64 [C + 2]: pixels of every class, pixels without one, and samples."""
        with self._shared:
            return self._view().copy()

    def _view(self) -> np.ndarray:
        return np.frombuffer(memoryview(self._shared.get_obj()), np.int64)


class _Relabel:
    """The transform that turns labels of files into ids of classes, and hides unseen ones.

    It leaves 8 or 16 bits without a sign, all that the transforms' OpenCV takes.

    Args:
        class_of (int array [L], optional): class or ``ignore_index`` of every label id; the same
            ids by default.
        unseen_ids (int array [U], optional): classes that become ``ignore_index``.
        ignore_index (int): label of pixels without a class.
    """

    def __init__(self, class_of: np.ndarray | None, unseen_ids: np.ndarray | None,
                 ignore_index: int):
        self.class_of, self.unseen_ids, self.ignore_index = class_of, unseen_ids, ignore_index

    @property
    def changes(self) -> bool:
        return self.class_of is not None or self.unseen_ids is not None

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if isinstance(data.get("label"), np.ndarray):
            label = self.label(data["label"], "of a sample")
            data["label"] = self._narrowed(label)
            data[_RELABELLED] = True
        return data

    def label(self, label: np.ndarray, name: str) -> np.ndarray:
        """The label in ids of classes; ``name`` stands for it in messages."""
        if self.class_of is not None:
            values, _ = label_scan.class_pixels(label)
            label_scan.require_classes(values, len(self.class_of), self.ignore_index, name)
            ignored = label == self.ignore_index
            classes = self.class_of[np.where(ignored, 0, label)]
            label = np.where(ignored, self.ignore_index, classes)
        if self.unseen_ids is not None:
            label = np.where(np.isin(label, self.unseen_ids), self.ignore_index, label)
        return label

    def _narrowed(self, label: np.ndarray) -> np.ndarray:
        if label.dtype == np.uint8 and self.ignore_index <= 255:  # most labels
            return label
        largest = max(label.max(initial=0), self.ignore_index)
        if label.min(initial=0) < 0 or largest > _LARGEST_ID:  # no class, as is found later
            return label
        return label.astype(np.uint8 if largest <= 255 else np.uint16)


def class_of_labels(class_names: Sequence[str],
                    label_names: str | Sequence[str] | None,
                    ignore_index: int) -> np.ndarray | None:
    """int64 [L]: class of every label id, ``ignore_index`` where no class has the label's name.

    Without ``label_names``, None: the ids of labels and classes are the same.
    """
    if label_names is None:
        return None
    ids = {fold_name(name): class_id for class_id, name in enumerate(class_names)}
    return np.array([ids.get(fold_name(name), ignore_index)
                     for name in read_class_names(label_names)], np.int64)


def _class_names(dataset: Any, given: str | Sequence[str] | None,
                 label_names: str | Sequence[str] | None) -> list[str]:
    source = getattr(dataset, "class_names", None) if given is None else given
    names = (class_names_for(type(dataset).__name__) if source is None
             else read_class_names(source))
    if label_names is None and len(names) != dataset.num_classes:
        raise UserError(f"`class_names` gives {len(names)} names for the {dataset.num_classes} "
                        f"classes of {type(dataset).__name__}")
    return names


def _file_pairs(dataset: paddle.io.Dataset) -> list[Sequence[str]] | None:
    """Paths of the image and the label of every sample; ``None`` where there are no such files."""
    files = getattr(dataset, "file_list", None)
    are_pairs = files and all(
        isinstance(item, (list, tuple)) and list(map(type, item)) == [str, str] for item in files)
    return files if are_pairs else None
