"""The last layer of a run whose classes have changed: what of stage 3 is done once more."""

import hashlib
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl.add_class.class_list import ClassList
from paddle_csrl.add_class.resize import take_over
from paddle_csrl.bank.feature_bank import FeatureBank, Moments
from paddle_csrl.errors import UserError
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.last_layer import read_layer
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.run import CONFIG_FILE, Run
from paddle_csrl.stages.base import embeddings_input
from paddle_csrl.stages.calibration import Calibration, unit_direction
from paddle_csrl.stages.classifier import (
    CLOSED_FORM,
    ClassifierSection,
    calibrated_layer,
    record_calibration,
    train_classifier,
)
from paddle_csrl.stages.closed_form import closed_form_layer, require_bias
from paddle_csrl.stages.fit import Step, fit
from paddle_csrl.stages.generator import (
    generate,
    load_generator,
    relative_spread,
    spread,
    trained_generator,
    unseen_prototypes,
)
from paddle_csrl.stages.seen_cost import settled
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.weights import load_weights

#: Least cosine between a class's embedding in training and now.
_MIN_COSINE = 0.98

#: Called with what is being done and the share of all work done, 0 to 1.
Progress = Callable[[str, float], None]


def folded_projection(trained: Run, target: Run, classes: ClassList,
                      axes: dict[str, int], tell: Progress) -> dict[str, np.ndarray]:
    """Fold the layer of a projection, which takes the new embeddings as they are.

    With the projection p = W x + b its rows are e_c·W and its bias e_c·b, less the calibration
    for seen classes; one of ``auto`` is found on the bank anew. ``trained`` is the run as it was
    trained, ``target`` that with the new ``classes``; the layer is as of ``fold``.
    """
    section, unseen_ids = target.config.section("classifier"), target.classes.unseen_ids
    wanted = Calibration.of(section)
    trained.require_finished(["segmentor", "features"] if wanted.is_cost else ["segmentor"])
    _require_made_together(trained)
    _require_same_space(trained, target, classes)
    _warn_of_other_vectors(trained)
    tell("folding the projection", 0.3)
    with paddle.utils.unique_name.guard():
        old, new = (run.builder.new_projection(pretrained=False) for run in (trained, target))
        load_weights(old, trained.output("segmentor"))
        take_over(old, new, axes, classes.trained_ids, trained.output("segmentor"),
                  prefix="segmentor.")
    calibration = wanted.value
    if wanted.is_cost:
        bank = trained.context.bank.renumbered(classes.trained_ids)
        wanted = _wanted(trained, section, bank, target.context.embeddings, len(unseen_ids))
        calibration = wanted.found(read_layer(new.folded_layer()), bank, trained.context.scale,
                                   unseen_ids)
    record_calibration(target.calibration_record, calibration, wanted)
    return read_layer(new.folded_layer(calibration))


def new_layer(trained: Run, target: Run, classes: ClassList,
              has_bias: bool, tell: Progress) -> dict[str, np.ndarray]:
    """Make the layer as stage 3 does, from the bank and generated features.

    What ``trained`` has loaded or computed for it stays in its context, for another change.

    Raises:
        UserError: the run leaks, its bank or generator is gone or newer than its model, or
            ``target`` has other embeddings or another section ``generator``.
    """
    section, unseen_ids = target.config.section("classifier"), target.classes.unseen_ids
    make = _computed if section.mode == CLOSED_FORM else _trained
    if target.config.leaks:
        raise UserError("the run was trained with `classifier.mode: legacy`, which reads labels of "
                        "unseen classes, and a class without pixels has none; add to a run of "
                        "`mode: clean`")
    trained.require_finished(["features", "generator"])
    _require_made_together(trained)
    _require_same_settings(trained, target)
    _require_same_space(trained, target, classes)
    _warn_of_other_vectors(trained)
    bank, scale = trained.context.bank.renumbered(classes.trained_ids), trained.context.scale
    classifier = make(trained, target, classes, bank, None if has_bias else scale.origin, tell)
    unit = None if has_bias else unit_direction(bank, scale)
    wanted = _wanted(trained, section, bank, target.context.embeddings, len(unseen_ids))
    values, calibration = calibrated_layer(wanted, classifier, bank, scale, unseen_ids, unit)
    record_calibration(target.calibration_record, calibration, wanted)
    return values


def keep_layer(trained: Run, run: Run, target: Run) -> None:
    """Have ``target``, which keeps the layer of ``run``, keep the record of its calibration, too.

    Raises:
        UserError: its config has another calibration, or another generator than ``trained``.
    """
    if not target.config.projection:
        _require_same_settings(trained, target)
    own, wanted = (Calibration.of(one.config.section("classifier")) for one in (run, target))
    if own != wanted:
        raise UserError(f"`classifier.calibration` or `seen_cost` is another than that of "
                        f"{run.save_dir}, whose layer stays as it is where no class is added; "
                        f"leave it out of --opts")
    if own.is_cost and os.path.isfile(run.calibration_record):
        shutil.copyfile(run.calibration_record, target.calibration_record)


def _computed(trained: Run, target: Run, classes: ClassList, bank: FeatureBank,
              origin: np.ndarray | None, tell: Progress) -> PixelClassifier:
    """Compute the layer in closed form; the arguments are those of ``_trained``."""
    require_bias(origin is None)
    section, seed = target.config.section("classifier"), target.seed("classifier")
    number = section.num_generated
    prototypes = _of_unseen(
        _prototypes_of(number, seed), trained, target, classes,
        _known_prototypes(trained, number, seed),
        lambda task: unseen_prototypes(task, number, seed), tell)
    with paddle.utils.unique_name.guard():
        return closed_form_layer(section, bank, prototypes, target.classes.unseen_ids,
                                 _moments(trained, bank))


def _moments(trained: Run, bank: FeatureBank) -> Moments:
    """Moments of the ``bank`` of some classes of ``trained``: with all, those of the whole one."""
    is_whole = bank.features is trained.context.bank.features
    return trained.context.moments if is_whole else bank.moments()


def _trained(trained: Run, target: Run, classes: ClassList, bank: FeatureBank,
             origin: np.ndarray | None, tell: Progress) -> PixelClassifier:
    """Train the layer of ``target`` on its part of the ``bank``; ``origin`` as for that layer."""
    section, seed = target.config.section("classifier"), target.seed("classifier")
    _check_class_weights(section.loss["types"], len(classes.names))
    generated, state = _generate(trained, target, classes, seed, tell)

    def told_fit(classifier: paddle.nn.Layer, batches: paddle.io.Dataset,
                 section: Any) -> None:
        def progress(step: Step) -> None:
            tell("training the layer", 0.5 + 0.4 * step.iteration / section.iters)

        fit(classifier, batches, section, [progress])

    paddle.set_rng_state(state)
    with paddle.utils.unique_name.guard():
        return train_classifier(section, bank, generated, target.classes.unseen_ids, seed,
                                origin=origin, fit=told_fit)


def _check_class_weights(losses: list[dict[str, Any]], number: int) -> None:
    for place, loss in enumerate(losses):
        weight = loss.get("weight")
        if isinstance(weight, (list, tuple)) and len(weight) != number:
            raise UserError(f"`classifier.loss.types.{place}.weight` has {len(weight)} weights for "
                            f"the {number} classes there would be; give them with --opts "
                            f"\"classifier.loss.types.{place}.weight=[...]\"")


def _require_made_together(trained: Run) -> None:
    """Insist that the final model was made from the stages as they are now.

    Stages that ran again, in a training that has yet to end, would give a layer for another
    segmentor. Those that a run with changed classes keeps have no model beside them.
    """
    if not os.path.isfile(trained.final_model):
        return
    last = trained.stage(trained.model_stage)
    trained.require_finished([last.name])
    recorded = trained.record(last.name).get("inputs", {})
    for name in filter(trained.outputs.get, last.needs):
        result, path = trained.stage(name).result, trained.output(name)
        if os.path.isfile(path) and recorded.get(result) not in (None, checksum(path)):
            raise UserError(f"stage {name} of {trained.save_dir} ran again after model.pdparams "
                            f"was made, so that a new class would not fit it; finish that training "
                            f"first, with the tools/train.py command that began it")


def _require_same_settings(trained: Run, target: Run) -> None:
    """Refuse settings of stages that do not run: the new config would say what is not so."""
    generators = [run.config.section("generator").model_dump(
        exclude={"seed", "save_interval", "log_iters"}) for run in (trained, target)]
    normalize = [run.config.settings.zero_shot.features.normalize for run in (trained, target)]
    for key, (old, new) in (("generator", generators), ("zero_shot.features.normalize", normalize)):
        if old != new:
            raise UserError(f"`{key}` is another than in the training of {trained.save_dir}, whose "
                            f"generator and features new classes are made with; leave it out of "
                            f"--opts")


def _require_same_space(trained: Run, target: Run, classes: ClassList) -> None:
    """Insist that the embeddings of kept classes are those of training."""
    pairs = [(new, old) for new, old in enumerate(classes.trained_ids) if old is not None]
    new_ids, old_ids = map(list, zip(*pairs))
    new = target.context.embeddings[new_ids]
    try:
        old = trained.context.embeddings[old_ids]
    except UserError as error:
        raise UserError(f"`zero_shot.embeddings` does not give the classes the very vectors that "
                        f"{trained.save_dir} was trained with, and those are not here to compare "
                        f"with: {error}") from None
    if new.shape != old.shape or (
            (new * old).sum(1) < _MIN_COSINE * np.linalg.norm(new, axis=1)
            * np.linalg.norm(old, axis=1)).any():
        raise UserError(f"`zero_shot.embeddings` gives the classes other vectors than those that "
                        f"{trained.save_dir} was trained with; take the same vectors, or a larger "
                        f"file of them")


def has_vectors_of_training(trained: Run) -> bool | None:
    """Tell whether the run's classes have the very embeddings of its training; None: unknown."""
    recorded = trained.record(_stage_of_vectors(trained)).get("inputs", {}).get("embeddings")
    return None if recorded is None else recorded == embeddings_input(trained.context)


def _stage_of_vectors(trained: Run) -> str:
    return "segmentor" if trained.config.projection else "generator"


def _warn_of_other_vectors(trained: Run) -> None:
    """Tell where the trained run's own classes have other embeddings now than in its training."""
    if has_vectors_of_training(trained) is not False:
        return
    logger.warning(
        f"the classes of {trained.save_dir} have other word vectors now than when stage "
        f"{_stage_of_vectors(trained)} was trained: the file was changed, or this version finds a "
        f"name under another word; the new layer is made of those of now. A word that "
        f"`zero_shot.embeddings.words` gives in {trained.save_dir}/{CONFIG_FILE}, as in "
        f"{{aeroplane: aeroplane}}, is taken as it is")


def _generate(trained: Run, target: Run, classes: ClassList, seed: int,
              tell: Progress) -> tuple[np.ndarray, Any]:
    """Features of the unseen classes, float32 [U, P, D], and Paddle's random state for training.

    Those of the classes that the generator was trained with are the very features of stage 3.
    """
    number = target.config.section("classifier").num_generated
    tell("generating features", 0.1)
    known, state = _known_features(trained, number, seed)
    result = _of_unseen(_features_of(number, seed), trained, target, classes, known,
                        lambda task: generate(task, number, seed), tell)
    added = [name for name, old in zip(classes.names, classes.trained_ids) if old is None]
    bank = trained.context.bank
    real = float(np.mean([spread(bank.of(class_id)) for class_id in bank.present_ids]))
    relative_spread(added, result[-len(added):], [real] * len(added))
    return result, state


def _wanted(trained: Run, section: ClassifierSection, bank: FeatureBank, embeddings: np.ndarray,
            num_unseen: int) -> Calibration:
    """Settle a section's calibration, as ``settled``; with all seen classes once."""

    def settle() -> Calibration:
        return settled(wanted, bank, embeddings, num_unseen, _moments(trained, bank))

    wanted = Calibration.of(section)
    if not wanted.is_open or bank.features is not trained.context.bank.features:
        return settle() if wanted.is_open else wanted
    digest = hashlib.sha256(embeddings[bank.present_ids].tobytes()).hexdigest()
    return trained.context.loaded(f"cost of {num_unseen} unseen classes: {digest}", settle)


def prepare(trained: Run, num_unseen: int) -> None:
    """Load and compute what ``new_layer`` needs of ``trained``, whatever class will be added.

    There will be ``num_unseen`` unseen classes then.

    Raises:
        UserError: something is gone or broken.
    """
    section = trained.config.section("classifier")
    if trained.config.projection or trained.config.leaks:
        return
    trained.require_finished(["features", "generator"])
    number, seed = section.num_generated, trained.seed("classifier")
    if section.mode == CLOSED_FORM:
        _known_prototypes(trained, number, seed)
    else:
        _known_features(trained, number, seed)
    if section.mode == CLOSED_FORM or Calibration.of(section).is_open:
        trained.context.moments  # noqa: B018  computed and kept
    _wanted(trained, section, trained.context.bank, trained.context.embeddings, num_unseen)


def _features_of(number: int, seed: int) -> str:
    return f"{number} features, seed {seed}"


def _prototypes_of(number: int, seed: int) -> str:
    return f"prototypes of {_features_of(number, seed)}"


def _known_prototypes(trained: Run, number: int, seed: int) -> np.ndarray:
    return trained.context.loaded(
        _prototypes_of(number, seed),
        lambda: unseen_prototypes(trained_generator(trained.context), number, seed))


def _known_features(trained: Run, number: int, seed: int) -> tuple[np.ndarray, Any]:
    """Return what stage 3 was trained on, and the state of Paddle's random numbers thereafter."""
    return trained.context.loaded(
        _features_of(number, seed),
        lambda: (generate(trained_generator(trained.context), number, seed),
                 paddle.get_rng_state()))


def _of_unseen(what: str, trained: Run, target: Run, classes: ClassList, known: np.ndarray,
               make: Callable[[GeneratorTask], np.ndarray], tell: Progress) -> np.ndarray:
    """Stack what there is of each unseen class of ``target``, in the order of their ids.

    A new class joins the graph of the trained ones by itself, so that it moves none of them and
    does not depend on what else is added.

    Args:
        what: names it, with all that it depends on beside classes and generator.
        known: of the unseen classes of ``trained``, [U, ...].
        make: makes the same from a generator's task, of its unseen classes.
    """
    embeddings = trained.context.embeddings
    kept = [class_id for class_id in classes.trained_ids if class_id is not None]
    added = [class_id for class_id, old in enumerate(classes.trained_ids) if old is None]
    rows = dict(zip(trained.classes.unseen_ids.tolist(), known))
    result = [rows[class_id] for class_id in kept if class_id in rows]
    neighbours = np.array([*(place for place, class_id in enumerate(kept) if class_id in rows),
                           len(kept)], np.int64)
    for place, class_id in enumerate(added):
        tell(f"generating features of {classes.names[class_id]}", 0.1 + 0.4 * place / len(added))
        beside = np.concatenate([embeddings[kept], target.context.embeddings[[class_id]]])

        def new(beside: np.ndarray = beside) -> np.ndarray:
            return make(load_generator(
                trained.config.section("generator"), beside,
                trained.context.bank.renumbered([*kept, None]), neighbours,
                trained.output("generator")))[-1]

        result.append(trained.context.loaded(
            f"{what} of one beside {kept}: {hashlib.sha256(beside.tobytes()).hexdigest()}", new))
    return np.stack(result)
