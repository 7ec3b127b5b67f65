"""What is bound to fail is found before anything is trained, which takes hours, or replaced."""

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.config import StageConfig
from paddle_csrl.errors import UserError
from paddle_csrl.run import SELF_TRAINING, Run
from paddle_csrl.stages.classifier import make_batches
from paddle_csrl.stages.feature_bank import FeatureBank
from paddle_csrl.stages.features import make_sampler
from paddle_csrl.stages.fit import StageBuilder, require_full_batch
from paddle_csrl.stages.generator import make_task
from paddle_csrl.stages.legacy import label_counts
from paddle_csrl.utils import make_folder
from paddle_csrl.utils.weights import load_state


def check(run: Run, stages: Sequence[str]) -> None:
    """Make sure that ``stages`` can be run, and make the run's folder.

    Raises:
        UserError: as ``examine``, or the folder cannot be made.
    """
    examine(run, stages)
    make_folder(run.save_dir, "save_dir")


def examine(run: Run, stages: Sequence[str]) -> None:
    """Look at the data, the model, all sections, the checkpoint to resume and the folders.

    Raises:
        UserError: something is wrong with one of them.
    """
    require_full_batch(run.builder.train_dataset, run.config.batch_size, parallel.world_size())
    run.builder.val_dataset.audit()  # reads every label and the end of every image, once
    _check_losses(run.config.dic, len(run.builder.class_names))
    _check_optimizer(run.config.dic)
    if not run.config.projection:
        make_sampler(run.config.zero_shot, len(run.builder.class_names), ignore_index=255)
        check_sections(run.config.dic, run.builder.embeddings, run.builder.seen_ids,
                       run.builder.unseen_ids)
    if stages[0] == "segmentor":
        _check_last_layer(run)
        _check_batch(run)
    _check_unseen_images(run)
    _check_resumed(run, stages)
    for stage in stages:
        run.check_folder(stage)


def check_sections(sections: dict[str, Any], embeddings: np.ndarray, seen_ids: np.ndarray,
                   unseen_ids: np.ndarray) -> None:
    """Build what ``generator`` and ``classifier`` name, on features of a single channel.

    Raises:
        UserError: something in them cannot be built.
    """
    counts = np.zeros(len(embeddings), np.int64)
    counts[seen_ids] = 1
    bank = FeatureBank(np.zeros((counts.sum(), 1), np.float32), counts, counts)
    with paddle.utils.unique_name.guard():
        make_task(sections["generator"], embeddings, bank, unseen_ids)
        for stage in ("generator", "classifier"):
            _check_losses(sections[stage], len(embeddings))
            _check_optimizer(sections[stage], f"{stage}: ")
    make_batches(sections["classifier"], bank, np.zeros((len(unseen_ids), 1, 1), np.float32),
                 unseen_ids, seed=0)


def _check_unseen_images(run: Run) -> None:
    """Whether what the config says of the images of unseen classes can be done."""
    if run.config.leaks and run.config.transductive:
        raise UserError("`self_training` needs `classifier.mode: clean`, for legacy draws by "
                        "labels, of which its images have none; leave one of the two out")
    if run.config.leaks:
        label_counts(run)
        _tell_of_weights(run)
    if run.config.transductive:
        run.builder.unlabelled_dataset


def _tell_of_weights(run: Run) -> None:
    """Warn of class weights that stand where other classes are unseen, as after copying them."""
    for loss in run.config.dic["classifier"]["loss"]["types"]:
        weight = np.asarray(loss.get("weight") or [0])
        heavy = np.flatnonzero(weight > weight.min())
        if len(heavy) and not np.array_equal(heavy, run.builder.unseen_ids):
            names = [run.builder.class_names[c] for c in heavy]
            logger.warning(f"[classifier] {loss['type']} has larger weights for "
                           f"{', '.join(names)}, not for the unseen classes; ZS3Net's are 100 for "
                           f"those and 1 for all others")


def _check_last_layer(run: Run) -> None:
    """Whether an untrained segmentor has a last layer that can be taken away and put back."""
    if run.config.projection:
        with paddle.utils.unique_name.guard():
            run.builder.projecting().model.fold(run.calibration)
    else:
        run.builder.classification_layer(run.builder.throwaway_model())


def _check_batch(run: Run) -> None:
    """Whether the transforms bring images to one size, seen by as many as are in a batch.

    The state of the random numbers stays as it was.
    """
    dataset, number = run.builder.train_dataset, run.config.batch_size
    states = random.getstate(), np.random.get_state()
    places = np.linspace(0, len(dataset) - 1, number).round().astype(int)
    shapes = sorted({dataset[place]["img"].shape for place in places.tolist()})
    random.setstate(states[0])
    np.random.set_state(states[1])
    if 0 in shapes[0]:
        raise UserError(f"`train_dataset.transforms` make an image of {shapes[0][1:]} (height, "
                        f"width), which has no pixel; look at its crop")
    if len(shapes) > 1:
        raise UserError(f"`train_dataset.transforms` make images of {shapes[0][1:]} and of "
                        f"{shapes[-1][1:]} (height, width), which are no batch; add "
                        f"RandomPaddingCrop with a `crop_size`, or set `batch_size: 1`")


def _check_optimizer(section: dict[str, Any], place: str = "") -> None:
    """Whether optimizer and schedule can be built; for groups of parameters it takes the model."""
    section = {**section, "optimizer": {key: value for key, value in section["optimizer"].items()
                                        if key != "custom_cfg"}}
    with paddle.utils.unique_name.guard():
        builder = StageBuilder(StageConfig(section), paddle.nn.Linear(1, 1))
        builder.show_msg = lambda *_: None
        try:
            builder.optimizer
        except UserError as error:
            raise UserError(f"{place}{error}") from error


def _check_losses(section: dict[str, Any], num_classes: int) -> None:
    for loss in section["loss"]["types"]:
        component = UserErrorBuilder(None).build_component(loss)
        ignored, weight = (getattr(component, name, None) for name in ("ignore_index", "weight"))
        if isinstance(weight, paddle.Tensor) and len(weight) != num_classes:
            raise UserError(f"{loss['type']} has {len(weight)} weights for {num_classes} classes; "
                            f"give `weight` one number per class, in the order of their ids")
        if ignored is not None and 0 <= ignored < num_classes:
            raise UserError(f"{loss['type']} ignores {ignored}, one of the {num_classes} classes; "
                            f"set its `ignore_index` to that of the data sets, such as 65535")


def _check_resumed(run: Run, stages: Sequence[str]) -> None:
    if not run.resume_model:
        return
    stage = next(filter(run.resumes, stages), None)
    if stage is None:
        raise UserError(f"--resume_model {run.resume_model} is no checkpoint of --stage "
                        f"{stages[0]}; leave one of the two flags out")
    if stage == "segmentor" and run.config.segmentor_weights:
        raise UserError(f"--resume_model {run.resume_model} goes on training stage 1, which "
                        f"`segmentor_weights: {run.config.segmentor_weights}` replaces; leave one "
                        f"of the two out")
    if stage == SELF_TRAINING:
        raise UserError(f"--resume_model {run.resume_model}: stage {stage} labels its images anew "
                        f"and cannot go on from within a round; leave the flag out")
    section = run.config.dic if stage == "segmentor" else run.config.dic[stage]
    done = int(run.resume_model.rsplit("_", 1)[-1])
    if done >= section["iters"]:
        raise UserError(f"--resume_model {run.resume_model} has done all of `iters: "
                        f"{section['iters']}` of stage {stage}; raise it above {done}")
    for name in ("model.pdparams", "model.pdopt"):
        load_state(os.path.join(run.resume_model, name))
