"""Loading ``pretrained`` weights: all of them or none."""

import os
from collections.abc import Sequence
from urllib.parse import urlparse

from paddle import nn
from paddleseg.utils import logger, utils

from paddle_csrl.errors import UserError
from paddle_csrl.utils.weights import fitting_state, load_state, require_finite


def load_fitting(model: nn.Layer, pretrained: str | None) -> None:
    """Load what fits of a file into ``model`` and say how much is missing.

    Stands in for PaddleSeg's ``load_pretrained_model``: see ``compat.pretrained_loading``.

    Raises:
        UserError: nothing fits, or the file is missing or torn.
    """
    if pretrained is None:
        return
    state = model.state_dict()
    fitting = fitting_state(model, load_state(_local(pretrained)))
    missing = [key for key in state if key not in fitting]
    title = type(model).__name__
    require_finite(fitting, pretrained)
    if len(missing) == len(state):
        raise UserError(f"`pretrained: {pretrained}` has none of the {len(state)} tensors of "
                        f"{title}, first {missing[0]}, so that all would stay random; give weights "
                        f"of this network, or null")
    if missing:
        logger.warning(f"`pretrained: {pretrained}` lacks {len(missing)} of the {len(state)} "
                       f"tensors of {title}, first {missing[0]}; these stay random")
    model.set_state_dict({**state, **fitting})
    logger.info(f"{len(fitting)} of the {len(state)} tensors of {title} are from {pretrained}")


def _local(pretrained: str) -> str:
    """The file of ``pretrained``, downloaded if it is an address."""
    return utils.download_pretrained_model(pretrained) if urlparse(pretrained).netloc \
        else pretrained


def load_pretrained(model: nn.Layer, pretrained: str, optional: Sequence[str] = ()) -> None:
    """Load every tensor of ``model``; PaddleSeg's loader leaves those that do not fit random.

    Args:
        model: the model; it is changed only if the weights fit.
        pretrained (str): path or URL of a ``.pdparams`` or ``.safetensors`` file. What else it
            holds is passed over.
        optional (sequence of str): names of tensors that may be missing or of another shape, and
            then stay as they are.

    Raises:
        UserError: there is no such file, or a tensor is missing in it or of another shape.
    """
    place = f"{type(model).__name__}: pretrained is {pretrained}"
    path = _local(pretrained)
    if not os.path.isfile(path):
        raise UserError(f"{place}, which is no file; give a .pdparams or .safetensors file "
                        f"or a URL")
    state = model.state_dict()
    fitting = fitting_state(model, load_state(path))
    misfits = [key for key in state if key not in fitting]
    needed = [key for key in misfits if key not in optional]
    if needed:
        raise UserError(f"{place}, which lacks {len(needed)} of {len(state)} tensors or has them "
                        f"in another shape, first {needed[0]}; give weights of this "
                        f"{type(model).__name__}")
    model.set_state_dict({**state, **fitting})
