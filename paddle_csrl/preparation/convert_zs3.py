"""ZS3Net's released PyTorch weights as Paddle state dicts."""

import os
import zipfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import paddle
from packaging.version import Version
from paddle import nn

from paddle_csrl.datasets.class_names import CLASS_NAMES, find_class
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.models import CSRLResNet101, DeepLabV3PPlain
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet
from paddle_csrl.utils.torch_file import RENAMED

KINDS = ("auto", "backbone", "deeplab")

State = dict[str, np.ndarray]

# The data set of a network, by its number of classes.
_DATASETS = {21: "voc", 60: "context"}
_CLASSIFIER = ("decoder.pred_conv.weight", "decoder.pred_conv.bias")
# torch.load(weights_only=True) of earlier releases could be made to run code (CVE-2025-32434).
_OLDEST_TORCH = "2.6"
_INSTALL = f'pip install "torch>={_OLDEST_TORCH}"'


class Converted(NamedTuple):
    """A converted checkpoint.

    Attributes:
        kind (str): ``backbone`` or ``deeplab``.
        state (dict): float32 arrays under Paddle's names, one for every tensor of the model.
        num_classes (int, optional): of a ``deeplab``.
        left_out (list[str]): PyTorch's names of what the model has no use for by design.
    """

    kind: str
    state: State
    num_classes: int | None
    left_out: list[str]


class _Ignored:
    """Stands in for the NumPy scalars beside the weights: nothing of theirs is made or kept."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_torch(path: str) -> State:
    """The tensors of a PyTorch checkpoint, nested in ``state_dict`` or not, as float32 arrays.

    Nothing in the file is run: PyTorch's loader takes tensors and plain values and no more.

    Raises:
        UserError: PyTorch is missing or too old, or the file is missing, torn, no checkpoint,
            holds something that would have to be run, or announces more than it has bytes.
    """
    torch = _import_torch()
    if not os.path.isfile(path):
        raise UserError(f"no file at --model_path {path}")
    _require_plain_zip(path)
    # ZS3Net's files hold the best score as a NumPy scalar.
    scalars = [(_Ignored, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*scalars, (_Ignored, "numpy.dtype"), _Ignored]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what it cannot read
        reason = str(error).split("WeightsUnpickler error: ")[-1].split(" was not an allowed")[0]
        raise UserError(f"{path} is not a whole PyTorch checkpoint of tensors and plain values, "
                        f"and nothing in it was run ({' '.join(reason.split())[:200]}); download "
                        f"it again from ZS3Net's releases") from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not tensors:
        raise UserError(f"{path} holds no state dict; give a checkpoint of ZS3Net's releases")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: entry {name} of the state dict is no tensor; give a "
                            f"checkpoint of ZS3Net's releases")
    values = sum(tensor.numel() for tensor in tensors.values())
    if values > os.path.getsize(path):  # views of a few values that are said to be many
        raise UserError(f"{path} announces {values} values, more than it has bytes; download it "
                        f"again from ZS3Net's releases")
    try:
        return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    except (RuntimeError, TypeError) as error:  # of sparse tensors and the like
        raise UserError(f"{path} holds tensors that are no plain arrays "
                        f"({one_line(error)[:120]}); give a checkpoint of ZS3Net's "
                        f"releases") from None


def _require_plain_zip(path: str) -> None:
    """Raise ``UserError`` if a file of PyTorch's newer format is compressed, as no true one is."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except Exception:  # the older format, or torn in one of many ways
        return
    if unpacked > os.path.getsize(path):
        raise UserError(f"{path} of {os.path.getsize(path)} bytes unpacks to {unpacked}, which no "
                        f"PyTorch checkpoint does; download it again from ZS3Net's releases")


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError:
        raise UserError(f"reading PyTorch files needs PyTorch, which is not installed: "
                        f"{_INSTALL}") from None
    if Version(torch.__version__) < Version(_OLDEST_TORCH):
        raise UserError(f"PyTorch {torch.__version__} may run code that a file holds, even where "
                        f"it is told not to: {_INSTALL}")
    return torch


def convert(tensors: State, kind: str = "auto", num_classes: int | None = None) -> Converted:
    """Give ZS3Net's tensors the names of this project's models; every one must find its place.

    The classification layer of a Pascal-Context checkpoint, known by its 60 classes, is put into
    the order of PaddleSeg's label ids, from ZS3Net's (``context_zs3``).

    Args:
        tensors: arrays by PyTorch's names, ``module.`` in front or not.
        kind (str): ``backbone`` (ResNet-101, also out of a whole DeepLabV3+), ``deeplab``, or
            ``auto`` to tell them by the names.
        num_classes (int, optional): insist on so many classes.

    Raises:
        UserError: another kind of network or number of classes, or a tensor that is missing, left
            over or of another shape.
    """
    tensors = _without_prefix(tensors, "module.")
    whole = any(name.startswith(("aspp.", "decoder.")) for name in tensors)
    if kind == "auto":
        kind = "deeplab" if whole else "backbone"
    left_out = [name for name in tensors if name.endswith("num_batches_tracked")]
    if kind == "backbone":
        left_out += [name for name in tensors if name.startswith(("fc.", "aspp.", "decoder."))
                     and name not in left_out]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    with paddle.LazyGuard():  # for names and shapes alone
        if kind == "backbone":
            num_classes = None
            model: paddle.nn.Layer = CSRLResNet101()
            tensors = _without_prefix(tensors, "backbone.")
        else:
            num_classes = _num_classes(tensors, num_classes)
            model = DeepLabV3PPlain(num_classes, CSRLResNet101())
    state = {_paddle_name(name): tensor for name, tensor in tensors.items()}
    _require_fit(state, model, kind)
    if kind == "deeplab" and num_classes == len(CLASS_NAMES["context"]):
        order = [CLASS_NAMES["context_zs3"].index(name) for name in CLASS_NAMES["context"]]
        state.update({name: state[name][order] for name in _CLASSIFIER})
    return Converted(kind, state, num_classes, left_out)


def trained_labels(converted: Converted, without: Sequence[str]) -> list[LabelSet]:
    """Return what ZS3Net says that its weights were trained with; the file itself does not tell.

    A backbone is from ImageNet-1k but for the classes of a data set. A whole network started from
    that backbone and then learned the seen classes of the data set, which its number of classes
    tells.

    Args:
        without: the classes left out, by name: of ``backbone`` ``voc`` or ``context``, of a
            ``deeplab`` its unseen classes.

    Raises:
        UserError: a name is none of the classes.
    """
    if converted.kind == "backbone":
        for name in without:
            if name not in _DATASETS.values():
                raise UserError(f"--without {name}: ZS3Net's backbones are without the classes of "
                                f"{' or '.join(_DATASETS.values())}; name the one in the file's "
                                f"name")
        return [LabelSet(IMAGENET, tuple(without))]
    dataset = _DATASETS.get(converted.num_classes or 0)
    if dataset is None:
        raise UserError(f"--without: a network of {converted.num_classes} classes is none of "
                        f"ZS3Net's; leave the flag out")
    names = CLASS_NAMES[dataset]
    unseen = tuple(names[find_class(names, name, "--without", dataset)] for name in without)
    return [LabelSet(IMAGENET, (dataset,)), LabelSet(dataset, unseen)]


def _without_prefix(tensors: State, prefix: str) -> State:
    short = {name[len(prefix):] if name.startswith(prefix) else name: tensor
             for name, tensor in tensors.items()}
    if len(short) < len(tensors):
        raise UserError(f"the checkpoint holds tensors both with `{prefix}` in front of their "
                        f"names and without it; give one of ZS3Net's releases")
    return short


def _paddle_name(name: str) -> str:
    parent, _, last = name.rpartition(".")
    return f"{parent}.{RENAMED[last]}" if last in RENAMED else name


def _num_classes(tensors: State, wanted: int | None) -> int:
    layer = tensors.get(_CLASSIFIER[0])
    if layer is None or layer.ndim != 4:
        raise UserError(f"the checkpoint has no classification layer ({_CLASSIFIER[0]}), so it is "
                        f"no whole DeepLabV3+ of ZS3Net; try --kind backbone")
    if wanted not in (None, len(layer)):
        raise UserError(f"--num_classes {wanted}: the checkpoint has {len(layer)} classes; give "
                        f"that number or leave the flag out")
    return len(layer)


def _require_fit(state: State, model: nn.Layer, kind: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    name = {"backbone": "ResNet-101", "deeplab": "DeepLabV3+ on ResNet-101"}[kind]
    faults = {
        f"lacks {{}} of the {len(shapes)} tensors of {name}": [
            key for key in shapes if key not in state],
        f"holds {{}} tensors that {name} has no place for": [
            key for key in state if key not in shapes],
        f"has {{}} tensors in another shape than {name}": [
            f"{key} {list(state[key].shape)} for {list(shape)}" for key, shape in shapes.items()
            if key in state and state[key].shape != shape]}
    for fault, keys in faults.items():
        if keys:
            raise UserError(f"the checkpoint {fault.format(len(keys))}, first {keys[0]}; "
                            f"is --kind right, and the file one of ZS3Net's?")
