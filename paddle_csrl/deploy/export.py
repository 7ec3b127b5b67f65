"""Exporting a trained segmentor for Paddle Inference or ONNX, or its weights as safetensors."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddleseg.utils import logger

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.classes import CLASSES_FILE
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.exported import ONNX_EXTRA, DeployInfo, fit_to_shape, load_backend
from paddle_csrl.deploy.images import ImageReader
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.limits import MOST_PIXELS
from paddle_csrl.models.last_layer import does_not_run
from paddle_csrl.run import CONFIG_FILE
from paddle_csrl.utils import make_folder, write_json, write_text
from paddle_csrl.utils.provenance import versions
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.weights import load_state, save_safetensors
from paddle_csrl.utils.yaml_files import dump_yaml

#: Opsets that paddle2onnx writes, for both Paddles; beyond them it ends the whole process.
OPSETS = range(11, 20)
OPSET = 16
#: Largest difference between the exported and the trained model, relative to the largest logit.
TOLERANCE = 1e-4
#: Run in a process of its own, for the converter ends its process at what it cannot convert, and
#: onnxruntime at some of what was converted wrongly: the model is run once. The converter is asked
#: for the bytes rather than for a file: on its way to a file it "optimizes" with a tool that
#: installs packages while it runs, NumPy 2 among them.
_CONVERT = """
import zlib  # before Paddle, see paddle_csrl.compat
import sys
import paddle2onnx
model, params, path, opset, *shape = sys.argv[1:]
content = paddle2onnx.export(model, params, None, opset_version=int(opset), verbose=False)
with open(path, "wb") as file:
    file.write(content)
import numpy
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros(list(map(int, shape)), "float32")})
"""
#: Bytes that Paddle writes beside the values of a weight, and more.
_MOST_BESIDE = 1024
#: Height and width of the random image where the input shape leaves them free; the first ones are
#: no multiples of a stride, which some networks need.
_RANDOM_SIZES = ((97, 130), (128, 256))


class Parity(NamedTuple):
    """The comparison of an exported model with the trained one on one image.

    Attributes:
        image (str): what was predicted.
        max_difference (float): largest absolute difference of the outputs. For class ids: how
            far, in logits, a chosen class lies below the best one.
        largest (float): largest absolute logit, by which the difference is judged: rounding
            grows with it, in the logits and so in the probabilities.
        equal (float): share of pixels with the same class, 0 to 1.
    """

    image: str
    max_difference: float
    largest: float
    equal: float

    @property
    def holds(self) -> bool:
        # A comparison that a NaN fails, too.
        return self.max_difference <= TOLERANCE * max(1.0, self.largest)

    def __str__(self) -> str:
        return (f"parity on {self.image}: max abs difference {self.max_difference:.2g}, equal "
                f"argmax {100 * self.equal:.4f} %")


class ExportedNetwork(nn.Layer):
    """The segmentor's first output, and what is done to it.

    Args:
        model (nn.Layer): a PaddleSeg segmentor.
        output_op (str): ``argmax``, ``softmax`` or ``none``.

    Shape: float32 [N, K, H, W] -> float32 [N, C, H, W], or int32 [N, H, W] of ``argmax``.
    """

    def __init__(self, model: nn.Layer, output_op: str):
        super().__init__()
        self.model, self.output_op = model, output_op

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        logits = self.model(images)[0]
        if self.output_op == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32")
        return nn.functional.softmax(logits, axis=1) if self.output_op == "softmax" else logits


def export(config: str, model_path: str, save_dir: str, *, opts: Sequence[str] = (),
           target: str = "paddle", input_shape: list[int] | None = None,
           output_op: str = "argmax", image_path: str | None = None,
           opset: int = OPSET) -> dict[str, Any]:
    """Export a trained segmentor and compare it with the trained one.

    The exported model predicts a random image and a real one; where it differs from the trained
    model, nothing is written: all is made aside and moved once it has been compared. Weights as
    ``safetensors`` predict nothing by themselves; they are read again and must be the same bits.

    Example:
        >>> exported = export("output/demo/config.yml", "output/demo/model.pdparams",
        ...                   "output/demo_paddle")
        >>> exported["config"]
        'output/demo_paddle/deploy.yaml'

    Args:
        config: path of the YAML file that the weights were trained with.
        model_path: the weights, ``.pdparams`` or ``.safetensors``.
        save_dir: receives the model, its weights and ``deploy.yaml``; of ``safetensors``
            ``model.safetensors``, ``classes.json`` and ``config.yml``.
        opts: overrides of the config, each ``key.subkey=value``.
        target: ``paddle``, ``onnx`` or ``safetensors``, of which what follows says nothing.
        input_shape: batch, channels, height, width; -1 where it is free. Default: all but the
            channels are free.
        output_op: ``argmax``, ``softmax`` or ``none``.
        image_path: a real image for the comparison; the first validation image by default.
        opset: version of the ONNX operators.

    Returns:
        dict: ``config`` (path of deploy.yaml or config.yml) and ``parity`` (list of ``Parity``,
        empty for ``safetensors``).

    Raises:
        UserError: a wrong shape, a missing package, an unreadable image, or an exported model
            that predicts something else.
    """
    read = ZeroShotConfig(config, opts=opts)
    if target == "safetensors":
        return {"config": _export_weights(read, model_path, save_dir), "parity": []}
    _tell_of_test_config(read)
    image_path = image_path or _validation_image(read)
    if image_path is None:
        logger.warning("compared on a random image alone, for the validation data are not here; "
                       "--image_path names a real one")
    builder = DeployBuilder(read, model_path)
    shape = _checked_shape(input_shape or [-1, builder.img_channels, -1, -1],
                           builder.img_channels)
    if target == "onnx":
        _require_paddle2onnx(opset)
    images = _images(builder, shape, image_path)
    model = builder.trained_model
    make_folder(save_dir, "--save_dir")
    with tempfile.TemporaryDirectory(prefix=".export.", dir=save_dir) as aside:
        files = _save_paddle(model, shape, output_op, aside)
        if target == "onnx":
            files = [_to_onnx(files[0], files[1], opset, next(iter(images.values())).shape)]
        info = DeployInfo(files[0], files[1] if len(files) > 1 else None,
                          builder.config.val_dataset_cfg.get("transforms") or [],
                          builder.img_channels, shape, output_op, builder.classes)
        parities = [_compare(model, info, name, pixels) for name, pixels in images.items()]
        for parity in parities:
            logger.info(str(parity))
            if not parity.holds:
                raise UserError(f"the exported model is not the trained one ({parity}; allowed "
                                f"{TOLERANCE * max(1.0, parity.largest):.2g}); nothing was "
                                f"written to {save_dir}")
        files.append(os.path.join(aside, "deploy.yaml"))
        write_text(files[-1], dump_yaml(info.describe()))
        return {"config": _move(files, save_dir), "parity": parities}


def _move(files: Sequence[str], save_dir: str) -> str:
    """Put files into ``save_dir``, the one that names the others last, and return its new path."""
    targets = [os.path.join(save_dir, os.path.basename(path)) for path in files]
    for target in filter(os.path.isdir, targets):
        raise UserError(f"--save_dir {save_dir}: {target} is a folder where a file of the "
                        f"exported model should go; choose another")
    for path, target in zip(files, targets):
        os.replace(path, target)
    return targets[-1]


def _export_weights(config: ZeroShotConfig, model_path: str, save_dir: str) -> str:
    """Write ``model.safetensors`` and what prediction needs beside it; return the config's path."""
    builder = DeployBuilder(config, model_path)
    state = builder.trained_model.state_dict()
    if os.path.realpath(save_dir) == os.path.dirname(os.path.realpath(model_path)):
        raise UserError(f"--save_dir {save_dir} is the folder of --model_path {model_path}, whose "
                        f"config would be replaced; choose another")
    make_folder(save_dir, "--save_dir")
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in {
        **builder.classes.describe(),
        "provenance": {"sha256": checksum(model_path), "versions": versions()}}.items()}
    with tempfile.TemporaryDirectory(prefix=".export.", dir=save_dir) as aside:
        files = [os.path.join(aside, name) for name in ("model.safetensors", CLASSES_FILE,
                                                        CONFIG_FILE)]
        save_safetensors(state, files[0], metadata)
        write_json(files[1], builder.classes.describe())
        write_text(files[2], dump_yaml(config.given))
        written = load_state(files[0])
        if any(written[name].numpy().tobytes() != value.numpy().tobytes()
               for name, value in state.items()):
            raise UserError(f"what was written to {save_dir} reads otherwise; look at the disk")
        return _move(files, save_dir)


def _tell_of_test_config(config: ZeroShotConfig) -> None:
    asked = [key for key in ("aug_eval", "is_slide") if config.test_config.get(key)]
    if asked:
        logger.warning(f"`test_config.{asked[0]}` is no part of the exported model, which sees an "
                       f"image once and whole: it predicts other than the run was scored with")


def _validation_image(config: ZeroShotConfig) -> str | None:
    """Find the first validation image, if the data set is on disk."""
    root = config.val_dataset_cfg.get("dataset_root")
    if not root or not os.path.isdir(root):
        return None
    try:
        return ZeroShotBuilder(config).val_dataset.file_list[0][0]
    except (UserError, IndexError):
        return None


def _checked_shape(shape: list[int], img_channels: int) -> list[int]:
    if len(shape) != 4 or any(length < 1 and length != -1 for length in shape) \
            or shape[1] not in (-1, img_channels):
        raise UserError(f"--input_shape {' '.join(map(str, shape))}: give batch, channels, height "
                        f"and width, -1 where free, with {img_channels} channels")
    if math.prod(length for length in shape if length > 0) > MOST_PIXELS:
        raise UserError(f"--input_shape {' '.join(map(str, shape))} has more than {MOST_PIXELS} "
                        f"values; give a smaller one")
    return [shape[0], img_channels, shape[2], shape[3]]


def _require_paddle2onnx(opset: int) -> None:
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: paddle2onnx writes {OPSETS[0]} to {OPSETS[-1]}")
    try:
        import onnxruntime  # noqa: F401
        import paddle2onnx  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs the package {error.name}: {ONNX_EXTRA}") from None
    except ValueError as error:  # paddle2onnx refuses a Paddle that it does not fit
        raise UserError(f"--format onnx: the installed paddle2onnx does not fit Paddle "
                        f"{paddle.__version__} ({one_line(error)[:120]}): {ONNX_EXTRA}") from None


def _images(builder: DeployBuilder, shape: list[int],
            image_path: str | None) -> dict[str, np.ndarray]:
    """Return the images to compare on, by name: a random one and a real one if there is one."""
    reader, rng = ImageReader(builder.transforms), np.random.default_rng(0)
    for free in _RANDOM_SIZES:
        batch, height, width = (default if length == -1 else length for length, default
                                in zip((shape[0], *shape[2:]), (1, *free)))
        pixels = rng.standard_normal((batch, shape[1], height, width)).astype(np.float32)
        with contextlib.suppress(UserError):
            _logits(builder.trained_model, pixels)
            break
    images = {f"a random image, {height} x {width}": pixels}
    if image_path:
        pixels, _ = fit_to_shape(reader(image_path).pixels, shape)
        images[image_path] = pixels.repeat(batch, axis=0)
    return images


def _logits(model: nn.Layer, pixels: np.ndarray) -> paddle.Tensor:
    """Compute the first output [N, C, h, w] for float32 [N, K, h, w]."""
    try:
        with paddle.no_grad():
            return model(paddle.to_tensor(pixels))[0]
    except Exception as error:  # of Paddle, of many types
        raise does_not_run(model, pixels, error, "give sides that its stride divides, such as "
                                                 "--input_shape 1 3 512 512") from error


def _save_paddle(model: nn.Layer, shape: list[int], output_op: str, folder: str) -> list[str]:
    """Write ``model.json`` (Paddle 3) or ``model.pdmodel``, and the weights; return both paths."""
    network = ExportedNetwork(model, output_op)
    network.eval()
    weights = os.path.join(folder, "model.pdiparams")
    try:
        static = paddle.jit.to_static(
            network, input_spec=[paddle.static.InputSpec(shape, "float32", "x")], full_graph=True)
        paddle.jit.save(static, os.path.join(folder, "model"))
    except OSError:
        raise
    except Exception as error:  # Paddle raises many types at what no graph can be made of
        reason = one_line(error).rpartition(f"{type(error).__name__}: ")[2][:200]
        raise UserError(f"{type(model).__name__} cannot be exported with --input_shape "
                        f"{' '.join(map(str, shape))} ({reason}); try a fixed one, such as "
                        f"1 3 512 512, or --format safetensors") from error
    _require_room(weights, network)
    program = next(name for name in ("model.json", "model.pdmodel")
                   if os.path.isfile(os.path.join(folder, name)))
    return [os.path.join(folder, program), weights]


def _require_room(path: str, network: nn.Layer) -> None:
    """Insist that all weights would have gone into a file, for Paddle does not tell if it was cut.

    Its size alone does not say: weights that only training uses are left out.
    """
    written, state = os.path.getsize(path), network.state_dict().values()
    most = sum(value.size * value.element_size() + _MOST_BESIDE for value in state)
    try:
        with open(path, "ab") as file:
            file.write(bytes(max(most - written, 0)))
    except OSError as error:
        raise UserError(f"only {written} bytes of the weights could be written to "
                        f"{os.path.dirname(os.path.dirname(path))} ({error.strerror}); free some "
                        f"space and export again") from error
    os.truncate(path, written)


def _to_onnx(model: str, params: str, opset: int, shape: Sequence[int]) -> str:
    """Convert to ``model.onnx`` beside ``model``, and see that it runs on zeros of a shape."""
    path = os.path.join(os.path.dirname(model), "model.onnx")
    command = [sys.executable, "-c", _CONVERT, model, params, path, *map(str, (opset, *shape))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise UserError(f"paddle2onnx could not convert the model at --opset {opset} "
                        f"({_complaint(done.stdout + done.stderr)}); try another, a fixed "
                        f"--input_shape such as 1 3 512 512, or --format paddle")
    return path


def _complaint(output: str) -> str:
    """Return the first error that the converter names, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line or "FatalError" in line]
    return (errors[:1] or lines[-1:] or ["no reason given"])[0][:200]


def _compare(model: nn.Layer, info: DeployInfo, name: str, pixels: np.ndarray) -> Parity:
    """Predict float32 [N, K, h, w] with the trained and the exported model."""
    scores, output = _logits(model, pixels), load_backend(info)(pixels)
    logits = scores.numpy()
    if info.output_op == "argmax":
        classes = output.astype(np.int64)
        chosen = np.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
        difference = logits.max(axis=1) - chosen
    else:
        expected = nn.functional.softmax(scores, axis=1) if info.output_op == "softmax" else scores
        classes, difference = output.argmax(axis=1), np.abs(output - expected.numpy())
    return Parity(name, float(difference.max()), float(np.abs(logits).max()),
                  float((classes == logits.argmax(axis=1)).mean()))
