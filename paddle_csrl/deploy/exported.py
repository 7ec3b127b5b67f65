"""Exported models: what ``deploy.yaml`` says, and the two back ends that run them."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import paddle
from paddle import inference, nn
from paddleseg.core.infer import reverse_transform
from paddleseg.cvlibs import SegBuilder
from paddleseg.transforms import Compose

from paddle_csrl.classes import ClassTable
from paddle_csrl.config.components import UserErrorBuilder
from paddle_csrl.datasets.whole_view import require_whole_view
from paddle_csrl.deploy.images import Sample
from paddle_csrl.deploy.predict import Prediction
from paddle_csrl.errors import UserError
from paddle_csrl.utils.yaml_files import read_yaml

#: Kind of output -> its type. ``none`` leaves the logits.
OUTPUT_DTYPES = {"argmax": "int32", "softmax": "float32", "none": "float32"}
#: Where ``pip`` finds paddle2onnx and onnxruntime.
ONNX_EXTRA = "pip install '.[onnx]' (Paddle 3) or '.[onnx-paddle26]' (Paddle 2.6)"

_KEYS = ("model", "transforms", "input_shape", "output_op")
#: Runs a model: float32 [N, K, h, w] -> its first output.
Backend = Callable[[np.ndarray], np.ndarray]


class DeployInfo(NamedTuple):
    """The content of a ``deploy.yaml``.

    Attributes:
        model (str): path of ``model.json``, ``model.pdmodel`` or ``model.onnx``.
        params (str, optional): path of the weights, which an ONNX file holds itself.
        transforms (list[dict]): the validation transforms, as in a config.
        img_channels (int): channels of the images.
        input_shape (list[int]): batch, channels, height, width; -1 where it is free.
        output_op (str): a key of ``OUTPUT_DTYPES``.
        classes (ClassTable): names, unseen classes and colours.
    """

    model: str
    params: str | None
    transforms: list[dict[str, Any]]
    img_channels: int
    input_shape: list[int]
    output_op: str
    classes: ClassTable

    @classmethod
    def read(cls, path: str) -> "DeployInfo":
        """Read the file at ``path``.

        Raises:
            UserError: it or a file that it names is missing or wrong.
        """
        content = _read_yaml(path)
        missing = [key for key in _KEYS if key not in content]
        if missing:
            raise UserError(f"{path}: `Deploy.{missing[0]}` is missing; name a deploy.yaml that "
                            f"tools/export.py wrote")
        # Paddle crashes at files that end otherwise.
        endings: dict[str, tuple[str, ...]] = {"model": (".onnx", ".json", ".pdmodel")}
        if not str(content["model"]).endswith(".onnx"):
            endings["params"] = (".pdiparams",)
        files = {key: os.path.join(os.path.dirname(path), str(content.get(key))) for key in endings}
        for key, file in files.items():
            if not file.endswith(endings[key]):
                raise UserError(f"{path}: `Deploy.{key}: {content.get(key)}` must end in "
                                f"{' or '.join(endings[key])}; export the model again")
            if not os.path.isfile(file):
                raise UserError(f"{path}: `Deploy.{key}: {content[key]}` is not beside it; export "
                                f"the model again or copy all its files")
        shape = content["input_shape"]
        if not (isinstance(shape, list) and len(shape) == 4
                and all(isinstance(length, int) for length in shape)):
            raise UserError(f"{path}: `Deploy.input_shape: {shape}` must be four whole numbers")
        if content["output_op"] not in list(OUTPUT_DTYPES):
            raise UserError(f"{path}: `Deploy.output_op: {content['output_op']}` must be one of "
                            f"{', '.join(OUTPUT_DTYPES)}")
        return cls(files["model"], files.get("params"), content["transforms"] or [], shape[1],
                   shape, content["output_op"], ClassTable.parse(content, path))

    def describe(self) -> dict[str, Any]:
        """The content of the file: PaddleSeg's keys, then those of the classes."""
        return {"Deploy": {
            "model": os.path.basename(self.model),
            "params": self.params and os.path.basename(self.params),
            "transforms": self.transforms, "input_shape": self.input_shape,
            "output_op": self.output_op, "output_dtype": OUTPUT_DTYPES[self.output_op],
            **self.classes.describe()}}

    @property
    def compose(self) -> Compose:
        """The transforms, built."""
        if not isinstance(self.transforms, list) \
                or not all(isinstance(item, dict) and "type" in item for item in self.transforms):
            raise UserError(f"`Deploy.transforms: {self.transforms}` must be a list of transforms, "
                            f"such as [{{type: Normalize}}]")
        builder = UserErrorBuilder(None, SegBuilder(None).comp_list)
        steps = [builder.build_component(item) for item in self.transforms]
        require_whole_view(steps, "Deploy.transforms")
        return Compose(steps, img_channels=self.img_channels)


def _read_yaml(path: str) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise UserError(f"--config {path}: no such file; name the deploy.yaml of an exported "
                        f"model")
    content = read_yaml(path)
    section = content.get("Deploy") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"{path} has no section `Deploy`; name a deploy.yaml that tools/export.py "
                        f"wrote")
    return section


def paddle_backend(model: str, params: str, device: str = "cpu", threads: int = 1,
                   onednn: bool = False) -> Backend:
    """Load a model for Paddle Inference.

    oneDNN is off by default: the CPU predictor of Paddle 3.3 has no bilinear upsampling for it
    and ends with NotImplementedError, and on small models it brings next to nothing.

    Args:
        model, params (str): the files.
        device (str): ``cpu``, or ``gpu:1`` for the second GPU, as ``paddle.get_device()``.
        threads (int): threads on a CPU.
        onednn (bool): use oneDNN on a CPU.

    Raises:
        UserError: the files are broken or of another Paddle.
    """
    config = inference.Config(model, params)
    config.disable_glog_info()
    if device != "cpu":
        config.enable_use_gpu(256, _gpu_id(device))
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        if onednn:
            config.enable_mkldnn()
        elif hasattr(config, "disable_mkldnn"):  # on by default where it is there
            config.disable_mkldnn()
    try:
        predictor = inference.create_predictor(config)
    except Exception as error:  # Paddle raises many types
        raise UserError(f"{model} cannot be loaded by Paddle {paddle.__version__} "
                        f"({_brief(error)}); export it again with this version") from None
    images = predictor.get_input_handle(predictor.get_input_names()[0])
    output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(pixels: np.ndarray) -> np.ndarray:
        images.reshape(pixels.shape)
        images.copy_from_cpu(np.ascontiguousarray(pixels))
        predictor.run()
        return output.copy_to_cpu()

    return run


def onnx_backend(model: str, device: str = "cpu", threads: int = 1) -> Backend:
    """Load an ONNX model for onnxruntime; ``device`` and ``threads`` as for ``paddle_backend``.

    Raises:
        UserError: onnxruntime is missing (for a GPU it is onnxruntime-gpu), or the file is broken.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"onnxruntime, which runs {model}, is not installed: {ONNX_EXTRA}"
                        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # no word about initializers it leaves out
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": _gpu_id(device)}))
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no public type
        raise UserError(f"{model} cannot be loaded by onnxruntime ({_brief(error)}); export "
                        f"it again") from None
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _gpu_id(device: str) -> int:
    """Each of several processes has a GPU of its own."""
    return int(device.partition(":")[2] or 0)


def load_backend(info: DeployInfo, device: str = "cpu", threads: int = 1,
                 onednn: bool = False) -> Backend:
    """The back end for the model that ``info`` names, by the ending of its file.

    Raises:
        UserError: it cannot run the model.
    """
    if info.model.endswith(".onnx"):
        if onednn:
            raise UserError(f"--enable_mkldnn is for Paddle Inference, but {info.model} is an "
                            f"ONNX model; leave it out")
        return onnx_backend(info.model, device, threads)
    backend = paddle_backend(info.model, info.params or "", device, threads, onednn)
    if onednn:
        _require_run(backend, info)
    return backend


def _require_run(backend: Backend, info: DeployInfo) -> None:
    """Run once, for what oneDNN lacks does not show before."""
    batch, channels, *size = info.input_shape
    shape = [max(batch, 1), channels, *(64 if length < 1 else length for length in size)]
    try:
        backend(np.zeros(shape, np.float32))
    except Exception as error:  # Paddle raises many types
        raise UserError(f"--enable_mkldnn: Paddle {paddle.__version__} cannot run {info.model} "
                        f"with oneDNN ({_brief(error)}); leave it out") from None


def _brief(error: BaseException) -> str:
    """The last line of an error that says something, for Paddle's hold a C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


class ExportedPredictor:
    """Predicts with an exported model, as ``SegmentorPredictor`` does with a trained one.

    Where the model has a fixed size, the image is scaled to it and the prediction back. Logits
    are scaled bilinearly, before the class is chosen, and class ids by the nearest.

    Args:
        info (DeployInfo): the model.
        backend: runs it.
        confidence (bool): whether confidences are wanted.

    Raises:
        UserError: the model is for batches, or gives class ids where confidences are wanted.
    """

    def __init__(self, info: DeployInfo, backend: Backend, confidence: bool = False):
        if info.input_shape[0] not in (-1, 1):
            raise UserError(f"{info.model} takes {info.input_shape[0]} images at once; export it "
                            f"with --input_shape -1 or 1 first, for images come one by one")
        if confidence and info.output_op == "argmax":
            raise UserError(f"--confidence: {info.model} was exported with --output_op argmax and "
                            f"gives classes alone; export it with softmax")
        self.info, self.backend, self.confidence = info, backend, confidence

    def __call__(self, sample: Sample) -> Prediction:
        pixels, trans_info = fit_to_shape(sample.pixels, self.info.input_shape)
        output = paddle.to_tensor(self.backend(pixels))
        trans_info = [*sample.trans_info, *trans_info]
        if self.info.output_op == "argmax":
            label = reverse_transform(output.astype("int32").unsqueeze(1), trans_info, "nearest")
            return Prediction(label[0, 0].numpy(), None)
        if self.info.output_op == "softmax":  # up to a constant the logits, which predict.py scales
            output = paddle.log(output.clip(min=float(np.finfo(np.float32).tiny)))
        scores = reverse_transform(output, trans_info, "bilinear")
        label = paddle.argmax(scores, axis=1, dtype="int32")[0].numpy()
        if not self.confidence:
            return Prediction(label, None)
        return Prediction(label, nn.functional.softmax(scores, axis=1).max(axis=1)[0].numpy())


def fit_to_shape(pixels: np.ndarray, shape: list[int]) -> tuple:
    """Scale float32 [1, K, h, w] to the height and width that ``shape`` fixes.

    Returns:
        the pixels, and how to go back as PaddleSeg's ``trans_info`` has it.
    """
    height, width = pixels.shape[2:]
    wanted = tuple(length if fixed < 1 else fixed
                   for length, fixed in zip((height, width), shape[2:]))
    if wanted == (height, width):
        return pixels, []
    scaled = cv2.resize(pixels[0].transpose(1, 2, 0), wanted[::-1])
    scaled = scaled.reshape(*wanted, -1).transpose(2, 0, 1)[None]  # OpenCV drops a single channel
    return np.ascontiguousarray(scaled), [("resize", (height, width))]
