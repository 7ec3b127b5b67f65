"""Checks before anything is trained, which takes hours, or replaced."""

import inspect
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from paddleseg.cvlibs import manager
from paddleseg.transforms import Normalize
from paddleseg.utils import logger

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import fold_name
from paddle_csrl.datasets.fingerprint import FileList
from paddle_csrl.datasets.sources import crossed_pairs
from paddle_csrl.errors import UserError
from paddle_csrl.pretraining import pretraining_of
from paddle_csrl.run import Run
from paddle_csrl.stages.base import MAY_CHANGE
from paddle_csrl.stages.checkpoints import iterations_done, torn_file
from paddle_csrl.stages.fit import learning_rates
from paddle_csrl.utils import make_folder
from paddle_csrl.utils.record import name_before, read_record
from paddle_csrl.utils.weights import load_state, load_weights

#: Share of pixels without a class that tells why classes are absent.
_MUCH_VOID = 0.2
#: Of means and deviations, as shares of the range of colours: no more than a grey level or two.
_MEAN_TOLERANCE = 0.01
#: Transforms of PaddleSeg that take what they get for colours from 0 to 255; the second ones where
#: nothing says by what they pad.
_OF_COLORS = ("Normalize", "RandomAffine", "RandomBlur", "RandomDistort", "RandomNoise",
              "ScalePadding")
_PADDING = ("Padding", "PaddingByAspectRatio", "RandomPaddingCrop", "RandomRotation")
#: Names, folded, by which lists of classes mean that a pixel has none.
_NO_CLASS = {"ignore", "ignored", "ignoreregion", "void", "unlabeled", "unlabelled", "unannotated",
             "nodata", "nolabel", "dontcare"}


def check(run: Run, stages: Sequence[str]) -> None:
    """Make sure that ``stages`` can be run, as ``examine`` does, and make the run's folder."""
    examine(run, stages)
    for warning in (*data_warnings(run.builder), *schedule_warnings(run),
                    *transform_warnings(run.config), *backbone_warnings(run.config),
                    *pretraining_of(run.config, run.classes.unseen_names).warnings()):
        logger.warning("; ".join(warning))
    make_folder(run.save_dir, "save_dir")


def examine(run: Run, stages: Sequence[str]) -> None:
    """Look at data, model, all sections, folders and the checkpoint to resume, or ``UserError``."""
    pretraining_of(run.config, run.classes.unseen_names).require_allowed(run.config)
    to_run = _from_the_first_that_runs(run)
    for stage in to_run:
        run.stage(stage).check(run.context)
    if stages[0] in to_run:
        run.stage(stages[0]).check_start(run.context)
    _check_resumed(run, stages)
    for stage in stages:
        run.check_folder(stage)


def _from_the_first_that_runs(run: Run) -> tuple[str, ...]:
    """The stages of ``run`` but for the first ones that stay as they are: those were checked."""
    stays = not run.restart
    for place, stage in enumerate(run.stages):
        stays = stays and run.is_current(stage)
        if not stays:
            return run.stages[place:]
    return ()


def data_warnings(builder: ZeroShotBuilder) -> list[tuple[str, str]]:
    """Find what the data make of no use: what is amiss, and what to do."""
    train, found = builder.train_dataset, class_warnings(builder)
    audit = train.audit()
    absent, void = audit.get("seen_classes_absent", []), audit.get("pixels_unlabelled", 0)
    if absent:
        share = void / max(1, void + audit["pixels_seen"] + audit["pixels_ignored_unseen"])
        found.append((f"no training pixel of {', '.join(absent)}" + (
            f", and {share:.0%} of all pixels are {train.ignore_index}, which means no class"
            if share > _MUCH_VOID else ""), "they are never predicted; mend the labels, name them "
                                            "unseen, or leave them out of the data set"))
    learned = set(builder.classes.seen_names).difference(absent)
    if len(learned) == 1:
        found.append((f"{learned.pop()} is the only seen class in training",
                      "stage 1 has nothing to tell it from, so that its features mean little; name "
                      "fewer classes unseen"))
    found += _pair_warnings(builder.files("all"), "training")
    before, after = train.label_colors(), builder.val_dataset.label_colors()
    recolored = [label_id for label_id, color in before.items()
                 if after.get(label_id, color) != color]
    if recolored:
        found.append((f"{len(recolored)} label ids, such as {recolored[0]}, have one colour in the "
                      f"palettes of training and another in those of validation",
                      "ids are read, not colours; if each was exported by itself, see that an id "
                      "means the same in both"))
    copies = builder.kept_copies()
    if copies:
        found.append((f"{len(copies)} of {len(train)} training images are copies of images that "
                      f"show unseen classes, such as {copies[0]}",
                      "their labels do not say so, and `policy: drop` keeps them; take them out"))
    shared = builder.shared_images()
    if shared:
        found.append((f"{len(shared)} of {len(builder.val_dataset)} validation images are training "
                      f"images, too, such as {shared[0]}", "scores on them are no measurement; "
                                                           "take them out of one of the lists"))
    return [*found, *validation_warnings(builder)]


def _pair_warnings(files: FileList, kind: str) -> list[tuple[str, str]]:
    """Find what is unlikely to be right of images and labels of a ``kind``, as ``data_warnings``.
    """
    pairs = [(image, label[0]) for image, *label in files if label and label[0]]
    found, labels, images = [], _partners(pairs), _partners([pair[::-1] for pair in pairs])
    several = [image for image, own in labels.items() if len(own) > 1]
    if several:
        found.append((f"{len(several)} of {len(labels)} {kind} images have several labels, such "
                      f"as {several[0]}", "each is taken for all of the image, so that an object "
                                          "of one is something else in another; join them"))
    shared = [label for label, own in images.items() if len(own) > 1]
    if shared:
        found.append((f"{len(shared)} of {len(images)} {kind} labels are those of several images, "
                      f"such as {shared[0]}", "give each image its own"))
    crossed = crossed_pairs(pairs)
    if crossed:
        image, label = crossed[0]
        found.append((f"{len(crossed)} of {len(pairs)} {kind} images have, by the names, the label "
                      f"of another one, such as {image} with {label}",
                      "write each image beside its own; lists that are sorted apart may differ in "
                      "their order"))
    return found


def _partners(pairs: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    partners: dict[str, set[str]] = {}
    for first, second in pairs:
        partners.setdefault(first, set()).add(second)
    return partners


def class_warnings(builder: ZeroShotBuilder) -> list[tuple[str, str]]:
    """Find names that mean no class, and sides that a flip exchanges, as ``data_warnings``."""
    names = list(builder.classes.names)
    folded, void = [fold_name(name) for name in names], builder.train_dataset.ignore_index
    found = [(f"`class_names` has {names[class_id]} as class {class_id}, learned and scored like "
              f"any other", f"if it means no class, take it out; where labels have {class_id} for "
                            f"it and not {void}, also set zero_shot.label_names to all the names")
             for class_id, name in enumerate(folded) if name in _NO_CLASS]
    sided = [name for name, own in zip(names, folded)
             if "left" in own and own.replace("left", "right") in folded]
    if sided and any(transform["type"] == "RandomHorizontalFlip" for transform in
                     builder.config.train_dataset_cfg.get("transforms") or ()):
        found.append((f"RandomHorizontalFlip of `train_dataset.transforms` makes {sided[0]} look "
                      f"like its counterpart on the right and keeps its label",
                      "take it out of the transforms"))
    return found


def validation_warnings(builder: ZeroShotBuilder) -> list[tuple[str, str]]:
    """Find what validation does not measure, or more than once, as ``data_warnings``."""
    names, pixels, found = builder.classes.names, builder.val_dataset.class_pixels(), []
    missing = [] if pixels is None else [names[c] for c in np.flatnonzero(~pixels.any(0))]
    if missing:
        found.append((f"no validation pixel of {', '.join(missing)}",
                      "an IoU of 0 is no measurement of them; add images that show them"))
    found += _pair_warnings(builder.files("val"), "validation")
    times = Counter(pair[0] for pair in builder.files("val"))
    repeated = [path for path, number in times.items() if number > 1]
    if repeated:
        found.append((f"{len(repeated)} of {len(times)} validation images are listed more than "
                      f"once, such as {repeated[0]}", "each counts as often; leave one line"))
    return found


def schedule_warnings(run: Run) -> list[tuple[str, str]]:
    """Find the stages that end while their learning rate warms up, or long after it has ended."""
    found = []
    for name in run.stages:
        section = run.config.settings if name == "segmentor" else run.config.section(name)
        if "iters" not in run.stage(name).flags or not getattr(section, "lr_scheduler", None):
            continue
        iters, warmup = section.iters, section.lr_scheduler.get("warmup_iters") or 0
        if warmup >= iters:
            found.append((f"stage {name} ends after `iters: {iters}`, within the warm-up of "
                          f"`warmup_iters: {warmup}`", "make it shorter, or train longer"))
        used = np.flatnonzero(learning_rates(section))
        learned = int(used[-1]) + 1 if len(used) else 0
        if learned < iters - 1:  # a last one may be 0 by rounding
            found.append((f"stage {name} learns nothing after {learned} of `iters: {iters}`, for "
                          f"its learning rate is 0 then", "stretch `lr_scheduler` over `iters`"))
    return found


def transform_warnings(config: ZeroShotConfig) -> list[tuple[str, str]]:
    """Find what transforms make of images unlike those of training, as ``data_warnings``."""
    found, places = [], _transforms(config)
    for place, transforms in places.items():
        types = [transform["type"] for transform in transforms]
        normalised = types.index("Normalize") + 1 if "Normalize" in types else len(types)
        late = [transform["type"] for transform in transforms[normalised:]
                if transform["type"] in _OF_COLORS
                or transform["type"] in _PADDING and "im_padding_value" not in transform]
        if late:
            found.append((f"in `{place}` {', '.join(late)} comes after Normalize, but is for "
                          f"colours from 0 to 255", "put Normalize last"))
    drawn = [transform["type"] for transform in places.get("val_dataset.transforms", [])
             if transform["type"].startswith("Random")]
    if drawn:
        found.append((f"`val_dataset.transforms` draw at random ({', '.join(drawn)}), so that "
                      f"scores and predictions are not those of the images",
                      "leave them to train_dataset.transforms"))
    trained = _normalization(places.get("train_dataset.transforms", []))
    found += [(f"`{place}` normalise images otherwise than `train_dataset.transforms`",
               "write the same Normalize into both") for place, transforms in places.items()
              if not _are_alike(_normalization(transforms), trained)]
    return found


def backbone_warnings(config: ZeroShotConfig) -> list[tuple[str, str]]:
    """Find a frozen backbone that stays random, and images that pretrained weights do not know.

    Those are normalised otherwise than a backbone says in ``input_mean`` and ``input_std``. Of
    images with other channels these say nothing; that the first layer stays random is told.
    """
    cfg = config.model_cfg.get("backbone") or {}
    backbone = manager.BACKBONES.components_dict.get(cfg.get("type"))
    if not cfg.get("pretrained"):
        is_random = cfg.get("relative_lr") == 0 and not config.model_cfg.get("pretrained") \
            and not config.settings.segmentor_weights
        return [("`model.backbone.relative_lr: 0` freezes a backbone that is random without "
                 "`pretrained`", "set model.backbone.relative_lr=1.0, or name weights")] \
            if is_random else []
    if not hasattr(backbone, "input_mean"):
        return []
    wanted = [np.round(values, 4).tolist() for values in (backbone.input_mean, backbone.input_std)]
    return [(f"`{place}` normalise images otherwise than those that `pretrained: "
             f"{cfg['pretrained']}` was made on", "write {{type: Normalize, mean: {}, std: {}}} "
                                                  "there".format(*wanted))
            for place, transforms in _transforms(config).items()
            if not _are_alike(_normalization(transforms), wanted)]


def _transforms(config: ZeroShotConfig) -> dict[str, list[dict[str, Any]]]:
    """The lists of transforms of a config by their keys, those that are there."""
    places = {"train_dataset.transforms": config.train_dataset_cfg.get("transforms"),
              "val_dataset.transforms": config.val_dataset_cfg.get("transforms"),
              "zero_shot.features.transforms":
                  config.settings.zero_shot.features.transforms or None}
    return {place: steps for place, steps in places.items() if steps is not None}


def _are_alike(normalization: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """Compare means and deviations, where they are of as many channels or of one for all."""
    return all(np.allclose(given, values, rtol=0, atol=_MEAN_TOLERANCE)
               for given, values in zip(normalization, other)
               if len(given) == len(values) or 1 in (len(given), len(values)))


def _normalization(transforms: Sequence[dict[str, Any]]) -> list[Sequence[float]]:
    """Mean and deviation of ``Normalize`` in ``transforms``; zeros where there is none."""
    defaults = inspect.signature(Normalize).parameters
    for transform in transforms:
        if transform["type"] == "Normalize":
            return [transform.get(key, defaults[key].default) for key in ("mean", "std")]
    return [[0.0], [0.0]]


def _check_resumed(run: Run, stages: Sequence[str]) -> None:
    path, weights = run.resume_model, run.config.settings.segmentor_weights
    if run.resume and not run.has_begun():
        raise UserError(f"--resume: {run.save_dir} has nothing to go on from; leave the flag out "
                        f"to begin")
    if not path:
        return
    parent = name_before(os.path.basename(os.path.dirname(path)))
    if parent in stages and not run.stage(parent).resumable:
        raise UserError(f"--resume_model {path}: stage {parent} cannot go on from a checkpoint; "
                        f"leave the flag out")
    stage = next(filter(run.resumes, stages), None)
    if stage is None:
        raise UserError(f"--resume_model {path} is no checkpoint of --stage {stages[0]}; leave "
                        f"one of the two flags out")
    if stage == "segmentor" and weights:
        raise UserError(f"--resume_model {path} goes on training stage 1, which "
                        f"`segmentor_weights: {weights}` replaces; leave one of the two out")
    iters, done = run.stage(stage).iterations(run.config), iterations_done(path)
    if done >= iters:
        raise UserError(f"--resume_model {path} has done all of `iters: {iters}` of stage {stage}; "
                        f"raise it above {done}")
    _check_origin(run, stage)
    torn = torn_file(path)
    if torn:
        raise UserError(f"--resume_model {path}: {torn} is not a whole file as it was saved; name "
                        f"another checkpoint, or leave the flag out")
    if stage == "segmentor":  # PaddleSeg's trainer would go on from what fits, or from nothing
        model = run.builder.new_trainee(pretrained=False)
        load_weights(model, os.path.join(path, "model.pdparams"))
    if "LR_Scheduler" not in load_state(os.path.join(path, "model.pdopt")):
        raise UserError(f"--resume_model {path}: model.pdopt has no LR_Scheduler, so that nothing "
                        f"tells the learning rate; name another checkpoint")


def _check_origin(run: Run, stage: str) -> None:
    """Insist that the checkpoint was trained on what the run trains on.

    One of another split has seen labels of classes that are unseen now.
    """
    path = str(run.resume_model)
    record = read_record(os.path.dirname(path))
    if record is None:
        raise UserError(f"--resume_model {path}: no stage.json in the folder above says what it "
                        f"was trained on; to start from its weights set `model.pretrained`")
    if "inputs" not in record:
        logger.warning(f"--resume_model {path}: stage {stage} was begun by 0.1.0, which did not "
                       f"write down what it was trained on; that this is the same is for you to "
                       f"say")
        return
    changed = run.changed_inputs(stage, record["inputs"], apart=MAY_CHANGE)
    if changed:
        raise UserError(f"--resume_model {path} was trained with another {', '.join(changed)}; go "
                        f"on with the config it was trained with, or leave the flag out")
