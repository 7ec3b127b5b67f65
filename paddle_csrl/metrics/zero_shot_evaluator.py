"""Generalized zero-shot scores: seen, unseen and overall mIoU and their harmonic mean."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from prettytable import PrettyTable

from paddle_csrl.datasets.class_names import resolve_classes
from paddle_csrl.errors import UserError
from paddle_csrl.registry import EVALUATORS, register
from paddle_csrl.utils.counts import BYTES, count_bytes

Labels = np.ndarray | paddle.Tensor

#: What the scores over all classes are called, by their key.
SCORES = {"seen_miou": "seen mIoU", "unseen_miou": "unseen mIoU", "miou": "mIoU", "hiou": "hIoU"}


@register(EVALUATORS)
class ZeroShotEvaluator:
    """Seen/unseen mIoU and hIoU over a whole data set (CSRL section 5.1).

    IoU is taken from the pixel counts of all images together, never averaged over images. The
    state is ``confusion``, int64 [C, C], rows by label and columns by prediction; the states of
    several processes or shards add up to that of one.

    Args:
        num_classes (int): C, seen and unseen.
        unseen (list[int] | list[str]): ids of the unseen classes, or their names.
        ignore_index (int): label of the pixels left out; no class id.
        class_names (list[str], optional): C names, for ``unseen`` and ``table``.
        absent (str): how a class with an empty union, neither labelled nor predicted, counts:
            ``"zero"`` as IoU 0 (ZS3Net's rule, the papers' numbers), ``"skip"`` as nan that the
            means leave out.

    Raises:
        UserError: an argument outside the above.
    """

    def __init__(self, num_classes: int, unseen: Sequence[int] | Sequence[str] | np.ndarray,
                 ignore_index: int = 255, class_names: Sequence[str] | None = None,
                 absent: str = "zero"):
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {num_classes}")
        if 0 <= ignore_index < num_classes:
            raise UserError(f"ignore_index {ignore_index} is one of the {num_classes} class ids; "
                            f"use a value outside 0..{num_classes - 1}")
        if class_names is not None and len(class_names) != num_classes:
            raise UserError(f"class_names holds {len(class_names)} names for {num_classes} classes")
        if absent not in ("zero", "skip"):
            raise UserError(f"absent must be 'zero' or 'skip', got {absent!r}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = list(class_names or map(str, range(num_classes)))
        self.absent = absent
        self.unseen = np.zeros(num_classes, bool)
        self.unseen[_unseen_ids(unseen, num_classes, class_names)] = True
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, pred: Labels, label: Labels) -> None:
        """Count one image or batch.

        Predictions at ignored pixels are not looked at.

        Args:
            pred: class ids, any integer or bool dtype, any shape such as [N, H, W]; a channel
                axis of one, [N, 1, H, W], is dropped as in PaddleSeg.
            label: class ids or ``ignore_index``, of the same shape.

        Raises:
            UserError: shapes differ, a dtype is not integer, or an id is no class; the counts
                are then as before.
        """
        pred, label = _to_ids(pred, "prediction"), _to_ids(label, "label")
        if pred.shape != label.shape:
            raise UserError(f"prediction {list(pred.shape)} and label {list(label.shape)} "
                            f"differ in shape")
        narrow_pred, narrow_label = _narrowed(pred), _narrowed(label)
        are_bytes = narrow_pred.dtype == narrow_label.dtype == np.uint8
        count = count_bytes if are_bytes and self.num_classes <= BYTES else _count_any
        counts = count(narrow_label, narrow_pred, most=self.num_classes)
        ignored = np.count_nonzero(narrow_label == self.ignore_index)
        if counts.sum() + ignored != label.size:
            self._raise_bad_ids(pred, label)
        self.confusion += counts

    def merge(self, other: "ZeroShotEvaluator") -> None:
        """Add the counts of another evaluator of the same classes."""
        if not np.array_equal(self.unseen, other.unseen):
            raise UserError(f"cannot merge evaluators of {self.num_classes} classes, unseen "
                            f"{np.flatnonzero(self.unseen).tolist()}, and {other.num_classes} "
                            f"classes, unseen {np.flatnonzero(other.unseen).tolist()}")
        self.confusion += other.confusion

    def compute(self) -> dict[str, Any]:
        """The scores so far, as fractions in [0, 1].

        Returns:
            dict: ``seen_miou``, ``unseen_miou``, ``miou``: mean IoU over the seen, the unseen
            and all classes, nan for a group of no classes; ``hiou``: 2su / (s + u), 0 where both
            are 0, nan where either is nan; ``class_iou``: float64 [C]; ``pixel_accuracy``: share
            of correct pixels, nan without pixels; ``selection_miou``: mean IoU over the seen
            classes counting only pixels whose label is seen, so that a checkpoint can be picked
            without looking at unseen pixels.
        """
        iou = self._class_iou(self.confusion)
        only_seen = np.where(self.unseen[:, None], 0, self.confusion)
        seen, unseen = _mean(iou[~self.unseen]), _mean(iou[self.unseen])
        pixels = self.confusion.sum()
        return {
            "seen_miou": seen,
            "unseen_miou": unseen,
            "miou": _mean(iou),
            "hiou": 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen),
            "class_iou": iou,
            "pixel_accuracy": float(self.confusion.trace() / pixels) if pixels else float("nan"),
            "selection_miou": _mean(self._class_iou(only_seen)[~self.unseen]),
        }

    def table(self, remark: str = "", named: Collection[str] = ()) -> str:
        """Class IoUs and the four summary scores in percent, as a text table.

        Args:
            remark (str): stands above both parts.
            named (collection of str): the unseen classes that were named in pretraining.
        """
        return score_table(self.class_names, self.unseen, self.compute(), remark, named)

    def _class_iou(self, confusion: np.ndarray) -> np.ndarray:
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        empty = 0.0 if self.absent == "zero" else np.nan
        return np.where(union > 0, hits / np.maximum(union, 1), empty)

    def _raise_bad_ids(self, pred: np.ndarray, label: np.ndarray) -> None:
        known = label != self.ignore_index
        for what, ids, more in (("label", label, f" or ignore_index {self.ignore_index}"),
                                ("prediction", pred, "")):
            bad = [int(i) for i in np.unique(ids[known]) if not 0 <= i < self.num_classes]
            if bad:
                shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
                raise UserError(f"{what} holds {shown}; expected class ids "
                                f"0..{self.num_classes - 1}{more}")


def score_table(class_names: Sequence[str], unseen: Sequence[bool] | np.ndarray,
                scores: Mapping[str, Any], remark: str = "", named: Collection[str] = ()) -> str:
    """The table of ``ZeroShotEvaluator.table`` from what its ``compute`` returned."""
    table = PrettyTable(["class", "kind", "IoU %"], align="r")
    table.align["class"] = "l"
    for name, is_unseen, iou in zip(class_names, unseen, scores["class_iou"]):
        kind = ("unseen, named" if name in named else "unseen") if is_unseen else "seen"
        table.add_row([name, kind, f"{100 * iou:.2f}"])
    summary = PrettyTable(list(SCORES.values()))
    if remark:
        table.title = summary.title = remark
    summary.add_row([f"{100 * scores[key]:.2f}" for key in SCORES])
    return f"{table}\n{summary}"


def _unseen_ids(unseen: Sequence[int] | Sequence[str] | np.ndarray, num_classes: int,
                class_names: Sequence[str] | None) -> list[int]:
    if any(isinstance(item, str) for item in unseen):
        if class_names is None:
            raise UserError(f"unseen {list(unseen)} are names; give class_names too, or ids")
        return resolve_classes(list(class_names), list(map(str, unseen)))
    ids = list(map(int, unseen))
    for class_id in ids:
        if not 0 <= class_id < num_classes:
            raise UserError(f"unseen class {class_id} is outside 0..{num_classes - 1}")
    return ids


def _to_ids(values: Labels, what: str) -> np.ndarray:
    ids = values.numpy() if isinstance(values, paddle.Tensor) else np.asarray(values)
    if ids.dtype == bool:
        ids = ids.view(np.uint8)
    if ids.dtype == np.int8:  # whose -1 would be 255 as a byte
        ids = ids.astype(np.int16)
    if ids.dtype.kind not in "iu":
        raise UserError(f"{what} must hold integer class ids, got {ids.dtype}; take the argmax "
                        f"or cast it first")
    return ids.squeeze(1) if ids.ndim == 4 and ids.shape[1] == 1 else ids


def _unsigned(ids: np.ndarray) -> np.ndarray:
    """The same memory, in which negative ids are large ones."""
    return ids.view(ids.dtype.str.replace("i", "u"))


def _narrowed(ids: np.ndarray) -> np.ndarray:
    """The ids as uint8 if all fit, or else as they are."""
    return ids.astype(np.uint8) if _unsigned(ids).max(initial=0) < BYTES else ids


def _count_any(rows: np.ndarray, columns: np.ndarray, most: int) -> np.ndarray:
    """As ``count_bytes`` of two channels, of integers of any width."""
    bins = most + 1  # the last gathers all others, so that no mask copies the images
    dtype = np.min_scalar_type(bins**2 - 1)
    index = _clip_ids(rows, most, dtype)
    index *= dtype.type(bins)
    index += _clip_ids(columns, most, dtype)
    counts = np.bincount(index.ravel(), minlength=bins**2).reshape(bins, bins)
    return counts[:most, :most]


def _clip_ids(ids: np.ndarray, most: int, dtype: np.dtype) -> np.ndarray:
    """A copy of ``ids`` as ``dtype``, with ``most`` in the place of all that are greater."""
    unsigned = _unsigned(ids)
    if unsigned.max(initial=0) > most:  # else a second look takes longer than the first
        unsigned = np.minimum(unsigned, unsigned.dtype.type(most))
    return unsigned.astype(dtype)


def _mean(iou: np.ndarray) -> float:
    """Mean of the values that are not nan; nan where there are none."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")
