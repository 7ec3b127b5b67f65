"""The last layer of a run whose classes have changed: what of stage 3 is done once more."""

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl.add_class.class_list import ClassList
from paddle_csrl.add_class.resize import take_over
from paddle_csrl.errors import UserError
from paddle_csrl.run import CONFIG_FILE, Run
from paddle_csrl.stages.base import embeddings_input
from paddle_csrl.stages.calibration import Calibration, unit_direction
from paddle_csrl.stages.classifier import calibrated_layer, record_calibration, train_classifier
from paddle_csrl.stages.fit import Step, fit
from paddle_csrl.stages.generator import (
    generate,
    load_generator,
    relative_spread,
    spread,
    trained_generator,
)
from paddle_csrl.stages.seen_cost import settled
from paddle_csrl.utils.weights import load_weights

#: Least cosine between a class's embedding in training and now.
_MIN_COSINE = 0.98

#: Called with what is being done and the share of all work done, 0 to 1.
Progress = Callable[[str, float], None]


def folded_projection(trained: Run, target: Run, classes: ClassList,
                      axes: dict[str, int], tell: Progress) -> dict[str, np.ndarray]:
    """Fold the layer of a projection, which takes the new embeddings as they are.

    With the projection p = W x + b its rows are e_c·W and its bias e_c·b, less the calibration
    for seen classes. ``trained`` is the run as it was trained, ``target`` that with the new
    ``classes``; the layer is as of ``fold``.
    """
    trained.require_finished(["segmentor"])
    _require_same_space(trained, target, classes)
    _warn_of_other_vectors(trained, "segmentor")
    tell("folding the projection", 0.3)
    with paddle.utils.unique_name.guard():
        old, new = (run.builder.new_projection(pretrained=False) for run in (trained, target))
        load_weights(old, trained.output("segmentor"))
        take_over(old, new, axes, classes.trained_ids, trained.output("segmentor"),
                  prefix="segmentor.")
        name = new.layer_name
        layer = dict(new.fold(target.calibration).named_sublayers())[name]
    return {key: value.numpy() for key, value in layer.state_dict().items()}


def trained_layer(trained: Run, target: Run, classes: ClassList,
                  has_bias: bool, tell: Progress) -> dict[str, np.ndarray]:
    """Train the layer as stage 3 does, on the bank and generated features.

    Raises:
        UserError: the run leaks, its bank or generator is gone, or its embeddings changed.
    """
    section, unseen_ids = target.config.section("classifier"), target.classes.unseen_ids
    if target.config.leaks:
        raise UserError("the run was trained with `classifier.mode: legacy`, which reads labels of "
                        "unseen classes, and a class without pixels has none; add to a run of "
                        "`mode: clean`")
    _check_class_weights(section.loss["types"], len(classes.names))
    trained.require_finished(["features", "generator"])
    bank, scale = trained.context.bank, trained.context.scale
    _require_same_space(trained, target, classes)
    _warn_of_other_vectors(trained, "generator")
    seed = target.seed("classifier")
    generated, state = _generate(trained, target, classes, seed, tell)
    own = bank.renumbered(classes.trained_ids)

    def told_fit(classifier: paddle.nn.Layer, batches: paddle.io.Dataset,
                 section: Any) -> None:
        def progress(step: Step) -> None:
            tell("training the layer", 0.5 + 0.4 * step.iteration / section.iters)

        fit(classifier, batches, section, [progress])

    paddle.set_rng_state(state)
    with paddle.utils.unique_name.guard():
        classifier = train_classifier(section, own, generated, unseen_ids, seed,
                                      origin=None if has_bias else scale.origin, fit=told_fit)
    unit = None if has_bias else unit_direction(own, scale)
    wanted = settled(Calibration.of(section), own, target.context.embeddings, len(unseen_ids))
    values, calibration = calibrated_layer(wanted, classifier, own, scale, unseen_ids, unit)
    record_calibration(target.calibration_record, calibration, wanted)
    return values


def _check_class_weights(losses: list[dict[str, Any]], number: int) -> None:
    for place, loss in enumerate(losses):
        weight = loss.get("weight")
        if isinstance(weight, (list, tuple)) and len(weight) != number:
            raise UserError(f"`classifier.loss.types.{place}.weight` has {len(weight)} weights for "
                            f"the {number} classes there would be; give them with --opts "
                            f"\"classifier.loss.types.{place}.weight=[...]\"")


def _require_same_space(trained: Run, target: Run, classes: ClassList) -> None:
    """Insist that the embeddings of kept classes are those of training."""
    pairs = [(new, old) for new, old in enumerate(classes.trained_ids) if old is not None]
    new_ids, old_ids = map(list, zip(*pairs))
    new, old = target.context.embeddings[new_ids], trained.context.embeddings[old_ids]
    if new.shape != old.shape or (
            (new * old).sum(1) < _MIN_COSINE * np.linalg.norm(new, axis=1)
            * np.linalg.norm(old, axis=1)).any():
        raise UserError(f"`zero_shot.embeddings` gives the classes other vectors than those that "
                        f"{trained.save_dir} was trained with; take the same vectors, or a larger "
                        f"file of them")


def _warn_of_other_vectors(trained: Run, stage: str) -> None:
    """Tell where the trained run's own classes have other embeddings now than in its training."""
    if trained.record(stage).get("inputs", {}).get("embeddings") in (
            None, embeddings_input(trained.context)):
        return
    logger.warning(
        f"the classes of {trained.save_dir} have other word vectors now than when stage {stage} "
        f"was trained: the file was changed, or this version finds a name under another word; the "
        f"new layer is made of those of now. A word that `zero_shot.embeddings.words` gives in "
        f"{trained.save_dir}/{CONFIG_FILE}, as in {{aeroplane: aeroplane}}, is taken as it is")


def _generate(trained: Run, target: Run, classes: ClassList, seed: int,
              tell: Progress) -> tuple[np.ndarray, Any]:
    """Features of the unseen classes, float32 [U, P, D], and Paddle's random state for training.

    Those of the classes that the generator was trained with are the very features of stage 3. A
    new class joins the graph of the trained ones by itself, so that it moves none of them and
    does not depend on what else is added.
    """
    number = target.config.section("classifier").num_generated
    embeddings = trained.context.embeddings
    kept = [class_id for class_id in classes.trained_ids if class_id is not None]
    added = [class_id for class_id, old in enumerate(classes.trained_ids) if old is None]
    unseen = trained.classes.unseen_ids
    tell("generating features", 0.1)
    old = generate(trained_generator(trained.context), number, seed)
    state = paddle.get_rng_state()
    rows = dict(zip(unseen.tolist(), old))
    result = [rows[class_id] for class_id in kept if class_id in rows]
    neighbours = np.array([*(place for place, class_id in enumerate(kept) if class_id in rows),
                           len(kept)], np.int64)
    for place, class_id in enumerate(added):
        tell(f"generating features of {classes.names[class_id]}", 0.1 + 0.4 * place / len(added))
        task = load_generator(
            trained.config.section("generator"),
            np.concatenate([embeddings[kept], target.context.embeddings[[class_id]]]),
            trained.context.bank.renumbered([*kept, None]), neighbours,
            trained.output("generator"))
        result.append(generate(task, number, seed)[-1])
    bank = trained.context.bank
    real = float(np.mean([spread(bank.of(class_id)) for class_id in bank.present_ids]))
    new = len(added)
    relative_spread([classes.names[class_id] for class_id in added], np.stack(result)[-new:],
                    [real] * new)
    return np.stack(result), state
