"""Scoring trained weights on seen and unseen classes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from paddleseg.utils import logger

from paddle_csrl.builder import ZeroShotBuilder, classes_beside
from paddle_csrl.classes import CLASSES_FILE
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core import preflight
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.score import score
from paddle_csrl.utils import make_folder, make_folder_of
from paddle_csrl.utils.weights import load_state, set_weights


def evaluate(config: str, model_path: str, *, opts: Sequence[str] = (),
             overrides: Mapping[str, Any] | None = None, out: str | None = None,
             picture_dir: str | None = None) -> dict[str, Any]:
    """Score a segmentor on the validation set, with every class.

    Example:
        >>> scores = evaluate("output/demo/config.yml", "output/demo/model.pdparams")
        >>> print(f"unseen {100 * scores['unseen_miou']:.1f} %")
        unseen ... %
        >>> [item["name"] for item in scores["classes"] if not item["seen"]]
        ['red checkered', 'blue dotted', 'green striped', 'yellow plain']

    Args:
        config: path of the YAML file that the weights were trained with.
        model_path: the weights, ``.pdparams`` or ``.safetensors``.
        opts: overrides of the config, each ``key.subkey=value``.
        overrides: the same as dotted key to value, such as ``{"test_config.aug_eval": True}``.
        out: file for the scores as JSON, if wanted.
        picture_dir: folder for prediction pictures, if wanted.

    Returns:
        The content of ``metrics.json``: IoUs in [0, 1], by class and as means.

    Raises:
        UserError: a mistake in the config, the data or the weights; or these were trained with
            other classes, as the file beside them says.
    """
    read = ZeroShotConfig(config, opts=opts, overrides=dict(overrides or {}))
    state = load_state(model_path)  # before the data, which may have to be drawn
    builder = ZeroShotBuilder(read)
    for warning in preflight.validation_warnings(builder):  # looks at every file, as training does
        logger.warning("; ".join(warning))
    model = builder.new_segmentor(pretrained=False)
    set_weights(model, state, model_path)
    _require_trained_classes(builder, model_path)
    if out:
        make_folder_of(out, "--out")
    if picture_dir:
        make_folder(picture_dir, "--picture_dir")
    return score(builder, model, out and os.path.normpath(out), picture_dir,
                 model_path=model_path)


def _require_trained_classes(builder: ZeroShotBuilder, model_path: str) -> None:
    """Refuse to score classes as others than those they were in training."""
    trained, given = classes_beside(builder.config, model_path), builder.classes
    if trained is None:
        return
    for number, (old, new) in enumerate(zip(trained.names, given.names)):
        if old != new:
            raise UserError(f"{CLASSES_FILE} beside {model_path} calls class {number} {old}, but "
                            f"`zero_shot.class_names` {new}; give the names of training there, "
                            f"and those of the labels as `zero_shot.label_names`")
    if trained.unseen_names != given.unseen_names:
        raise UserError(f"{CLASSES_FILE} beside {model_path} has the unseen classes "
                        f"{', '.join(trained.unseen_names)}, but `zero_shot.unseen` is "
                        f"{', '.join(given.unseen_names)}; score it with --opts "
                        f"\"zero_shot.unseen={trained.unseen_names}\"")
