"""State dicts: from files, into models, and back."""

import os
import shutil
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import paddle
import safetensors.numpy
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils import unpickle
from paddle_csrl.utils.io import atomic_path
from paddle_csrl.utils.record import require_unchanged

SAFETENSORS = ".safetensors"

#: NumPy's types of those of a .safetensors file that Paddle has, too. For bfloat16, which NumPy
#: lacks, Paddle takes 16 bits without a sign.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64",
           "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


def load_state(path: str) -> dict:
    """Read a state dict from a ``.pdparams``, ``.pdopt`` or ``.safetensors`` file.

    Nothing in the file is run, whatever it holds.

    Raises:
        UserError: the file is missing, torn, not as its stage has left it, or holds something else
            than tensors and plain values.
    """
    if not os.path.isfile(path):
        raise UserError(f"no weights at {path}")
    try:
        state = paddle.load(path)  # with `read_weights`: see compat.mend_trust
    except UserError:
        raise
    except Exception as error:  # Paddle raises many types for arrays that it has no tensors for
        raise unpickle.not_whole(path, error) from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state dict but a {type(state).__name__}; give weights")
    require_unchanged(path)
    return state


def read_weights(file: BinaryIO) -> Any:
    """Read an open file of weights; stands in for ``pickle.load`` inside ``paddle.load``.

    Returns:
        What ``paddle.load`` makes tensors of: plain values and NumPy arrays, bfloat16 as uint16.

    Raises:
        UserError: the file is torn, or holds something else than tensors and plain values.
    """
    path = str(getattr(file, "name", ""))
    return (_read_safetensors(path, file.read()) if path.endswith(SAFETENSORS)
            else unpickle.load(file))


def _read_safetensors(path: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole .safetensors file ({str(error)[:200]})") from None
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name} has the type {tensor['dtype']}, which Paddle lacks; "
                            f"save it as float32")
    return {name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors}


def load_weights(model: paddle.nn.Layer, path: str) -> None:
    """Load a state dict that fits ``model`` exactly.

    Raises:
        UserError: the file is missing, torn, or its keys or shapes are not the model's.
    """
    set_weights(model, load_state(path), path)


def set_weights(model: paddle.nn.Layer, state: dict, path: str) -> None:
    """Give ``model`` the ``state`` of ``path``, as ``load_weights`` does."""
    fitting = fitting_state(model, state)
    wrong = sorted(set(model.state_dict()) ^ set(state)) or [
        key for key in state if key not in fitting]
    if wrong:
        raise UserError(f"{path} does not fit {type(model).__name__} of this config: {len(wrong)} "
                        f"entries differ, the first is {wrong[0]}; use the config it was "
                        f"trained with")
    require_finite(fitting, path)
    model.set_state_dict(fitting)


def fitting_state(model: paddle.nn.Layer, state: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
    """Return what of ``state`` ``model`` has a place for, by name, shape and kind of number.

    Floating numbers become those of the model, which have more bits than float16 and bfloat16.
    """
    own, fitting = model.state_dict(), {}
    for name, value in state.items():
        if name in own and isinstance(value, (paddle.Tensor, np.ndarray)) \
                and list(value.shape) == list(own[name].shape):
            tensor = paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
            if tensor.is_floating_point() == own[name].is_floating_point():
                fitting[name] = tensor if tensor.dtype == own[name].dtype \
                    else tensor.astype(own[name].dtype)
    return fitting


def require_finite(state: dict, path: str) -> None:
    """Insist that a training has not diverged.

    Raises:
        UserError: a tensor of ``state`` holds what is no finite number; the message names it and
            the file at ``path``.
    """
    for name, value in state.items():
        if isinstance(value, paddle.Tensor) and value.is_floating_point() \
                and not bool(paddle.isfinite(value.astype("float32")).all()):
            raise UserError(f"{path}: {name} holds values that are not finite, so the training "
                            f"has diverged; train again with a lower learning rate")


def save_state(state: dict, path: str) -> None:
    """Write a state dict as ``.pdparams``, atomically; only the first process writes."""
    if parallel.is_first():
        with atomic_path(path, lasting=True) as temporary:
            paddle.save(state, temporary)
    parallel.barrier()


def save_safetensors(state: Mapping[str, paddle.Tensor], path: str,
                     metadata: Mapping[str, str]) -> None:
    """Write a state dict as ``.safetensors``, atomically; bfloat16, as NumPy, becomes float32."""
    arrays = {name: (value.astype("float32") if value.dtype == paddle.bfloat16 else value).numpy()
              for name, value in state.items()}
    with atomic_path(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, dict(metadata))


def keep_checkpoint(weights: str, path: str) -> None:
    """Copy the file ``weights`` to ``path``, a ``.pdparams``, atomically.

    Only the first process writes.
    """
    if weights.endswith(SAFETENSORS):
        save_state(load_state(weights), path)
        return
    if parallel.is_first():
        with atomic_path(path, lasting=True) as temporary:
            shutil.copyfile(weights, temporary)
        logger.info(f"kept {weights} as {path}")
    parallel.barrier()
