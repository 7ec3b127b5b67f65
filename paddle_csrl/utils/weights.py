"""State dicts: from files, into models, and back."""

import os
import shutil

import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import atomic_path


def load_state(path: str) -> dict:
    """Read a state dict.

    Raises:
        UserError: the file is missing or torn.
    """
    if not os.path.isfile(path):
        raise UserError(f"no weights at {path}")
    try:
        return paddle.load(path)
    except Exception as error:  # Paddle raises many types for a torn file
        raise UserError(f"{path} is not a whole .pdparams or .pdopt file "
                        f"({' '.join(str(error).split())[:200]})") from None


def load_weights(model: paddle.nn.Layer, path: str) -> None:
    """Load a state dict that fits ``model`` exactly.

    Raises:
        UserError: the file is missing, torn, or its keys or shapes are not the model's.
    """
    set_weights(model, load_state(path), path)


def set_weights(model: paddle.nn.Layer, state: dict, path: str) -> None:
    """Give ``model`` the ``state`` of ``path``, as ``load_weights`` does."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [
        key for key in own if list(own[key].shape) != list(state[key].shape)]
    if wrong:
        raise UserError(f"{path} does not fit {type(model).__name__} of this config: {len(wrong)} "
                        f"entries differ, the first is {wrong[0]}; use the config it was "
                        f"trained with")
    require_finite(state, path)
    model.set_state_dict(state)


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
        with atomic_path(path) as temporary:
            paddle.save(state, temporary)
    parallel.barrier()


def keep_checkpoint(weights: str, path: str) -> None:
    """Copy the file ``weights`` to ``path``, atomically; only the first process writes."""
    if parallel.is_first():
        with atomic_path(path) as temporary:
            shutil.copyfile(weights, temporary)
        logger.info(f"kept {weights} as {path}")
    parallel.barrier()
