"""The trained layer as the segmentor's own: standardization and calibration folded in."""

import zipfile

import numpy as np
from paddle import nn
from paddleseg.utils import logger

from paddle_csrl.errors import UserError
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.stages.feature_bank import FeatureBank, Scale
from paddle_csrl.utils import atomic_path


def final_layer(classifier: PixelClassifier, scale: Scale, seen_ids: np.ndarray,
                calibration: float, unit: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The layer for raw features: standardization and calibration folded into its weights.

    With x' = (x − m)/s, W x' + b = (W/s) x + (b − (W/s) m). The calibration δ is taken off the
    logits of seen classes (calibrated stacking), so that it too ends in the bias; without one
    in the weights, as δ u·x with u·x ≈ 1.

    Args:
        classifier: what stage 3 trained.
        scale: of the features it was trained on.
        seen_ids (int array [S]): the classes to calibrate.
        calibration (float): δ, in logit units.
        unit (float32 array [D], optional): u, of ``unit_direction``; for a layer without bias.

    Returns:
        ``weight`` float32 [C, D, 1, 1] and, unless the layer has none, ``bias`` float32 [C].
    """
    weight = classifier.conv.weight.numpy() / scale.deviation[None, :, None, None]
    if classifier.conv.bias is None:
        if calibration:
            weight[seen_ids] -= calibration * unit[:, None, None]
        return {"weight": weight}
    bias = classifier.conv.bias.numpy() - weight[:, :, 0, 0] @ scale.mean
    bias[seen_ids] -= calibration
    return {"weight": weight, "bias": bias}


def unit_direction(bank: FeatureBank, scale: Scale) -> np.ndarray:
    """float32 [D]: u with u·x nearest to 1 over raw features x, in least squares.

    Every seen class weighs alike. ``bank`` holds features standardized by ``scale``.
    """
    origin = scale.origin.astype(np.float64)
    present = np.flatnonzero(bank.counts)
    mean, moment = 0.0, 0.0
    for rows in (bank.of(c) + origin for c in present):
        mean = mean + rows.mean(0) / len(present)
        moment = moment + rows.T @ rows / (len(rows) * len(present))
    unit = np.linalg.lstsq(moment, mean, rcond=1e-6)[0]
    error = np.sqrt(max(0.0, 1 - 2 * mean @ unit + unit @ moment @ unit))
    logger.info(f"[classifier] the layer has no bias: the calibration goes into its weights, "
                f"exact up to {100 * error:.1f} % (root mean square over seen features)")
    return (unit / scale.deviation).astype(np.float32)


def put_back(layer: nn.Conv2D, values: dict[str, np.ndarray]) -> None:
    """Write ``weight`` and ``bias`` into the segmentor's classification layer."""
    for name, value in values.items():
        getattr(layer, name).set_value(value)


def read_layer(layer: nn.Conv2D) -> dict[str, np.ndarray]:
    """What ``put_back`` would write: ``weight`` and ``bias``, if it has one."""
    values = {"weight": layer.weight.numpy()}
    if layer.bias is not None:
        values["bias"] = layer.bias.numpy()
    return values


def save_layer(values: dict[str, np.ndarray], path: str) -> None:
    """Write what ``final_layer`` returned as ``.npz``, atomically."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **values)


def load_layer(path: str) -> dict[str, np.ndarray]:
    """Read what ``save_layer`` wrote.

    Raises:
        UserError: the file is missing or not whole.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no whole classification layer ({error}); run its stage "
                        f"classifier again") from None
