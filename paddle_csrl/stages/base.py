"""Stages, and the context that they are handed.

A stage is one object in one file: its name, its output, what its result depends on, its section
of the config, the flags of tools/train.py that mean it, its checks and its run. ``register`` adds
it behind those registered before it; nothing else has to know of it.
"""

import abc
import hashlib
import itertools
import os
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank, Moments, Scale
from paddle_csrl.builder import ZeroShotBuilder, pretrained_in, without_pretrained
from paddle_csrl.classes import ClassTable
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.schema import SECTIONS, Features, Section, Settings, TestConfig
from paddle_csrl.datasets.fingerprint import FileList
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import AUGMENTED_KEYS, WINDOW_KEYS
from paddle_csrl.run_folder import RunFolder
from paddle_csrl.utils.record import checksum

Loaded = TypeVar("Loaded")


class StageContext:
    """The context of stages: config, data, folder, and the results of earlier stages.

    Everything is loaded when it is first asked for, and once.

    Attributes:
        files (RunFolder): where the stages keep their files.
        resume_model (str, optional): the checkpoint folder that the running stage goes on from.
        makes_model (bool): whether the running stage is the one that saves the final model.
    """

    def __init__(self, config: ZeroShotConfig, builder: ZeroShotBuilder, files: RunFolder):
        self.config, self.builder, self.files = config, builder, files
        self.settings: Settings = config.settings
        self.resume_model: str | None = None
        self.makes_model = False
        self._loaded: dict[str, Any] = {}

    @property
    def classes(self) -> ClassTable:
        return self.builder.classes

    @property
    def embeddings(self) -> np.ndarray:
        """float32 [C, d_w]."""
        return self.builder.embeddings

    def seed(self, stage: str) -> int:
        """The seed of a stage: that of its section, else of the config."""
        return getattr(self.config.section(stage), "seed", self.settings.seed)

    @cached_property
    def segmentor(self) -> paddle.nn.Layer:
        """The trained segmentor of stage 1, in eval mode; its last layer may be exchanged.

        One with a projection is folded into a stock one, without calibration.
        """
        path = self.files.output("segmentor")
        if self.config.projection:
            return self.builder.trained_projection(path).fold()
        return self.builder.trained_segmentor(path)

    @cached_property
    def _bank_and_scale(self) -> tuple[FeatureBank, Scale]:
        path = self.files.output("features")
        bank = FeatureBank.load(path)
        if bank.counts[self.classes.unseen_ids].any():
            raise UserError(f"{path} holds features of unseen classes; make it anew with --stage "
                            f"features --restart")
        scale = bank.scale() if self.settings.zero_shot.features.normalize \
            else Scale.identity(bank.feature_dim)
        return bank.scaled(scale), scale

    @property
    def bank(self) -> FeatureBank:
        """The feature bank, standardized by ``scale``; ``UserError`` if it is missing or broken."""
        return self._bank_and_scale[0]

    @property
    def scale(self) -> Scale:
        """The scale by which ``bank`` was standardized."""
        return self._bank_and_scale[1]

    @cached_property
    def moments(self) -> Moments:
        """Those of ``bank``."""
        return self.bank.moments()

    def loaded(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        """Return what ``load`` gives, called once for a ``name``: for what a stage makes itself."""
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]


class Stage(abc.ABC):
    """One step of a run. Subclasses are stateless and are registered by ``register``."""

    #: Names the stage's folder, its section of the config, and ``--stage``.
    name: ClassVar[str]
    #: What it does, in a line for ``--help``.
    help: ClassVar[str]
    #: The file that it leaves in its folder.
    output: ClassVar[str] = "model.pdparams"
    #: What later stages call its result in their records.
    result: ClassVar[str]
    #: Raised when the same inputs would give another result, which makes old ones out of date.
    format: ClassVar[int] = 1
    #: Inputs that records of before 0.2.0 do not hold.
    new_inputs: ClassVar[tuple[str, ...]] = ()
    #: Earlier stages whose outputs the result depends on, where the run has them.
    needs: ClassVar[tuple[str, ...]] = ()
    #: The flags of tools/train.py, of those here, that mean something to it.
    flags: ClassVar[tuple[str, ...]] = ("iters", "batch_size", "learning_rate", "save_interval",
                                        "log_iters")
    #: Why the others do not.
    no_flags: ClassVar[str] = ""
    #: Whether it is also of use to a config with a ``projection``.
    projects: ClassVar[bool] = False
    #: Whether it makes the final model, unless a later stage of the run does.
    makes_model: ClassVar[bool] = False
    #: Whether its training can go on from a checkpoint.
    resumable: ClassVar[bool] = True

    def takes_part(self, config: ZeroShotConfig) -> bool:
        """Tell whether a run of ``config`` has the stage: if it has the section of that name."""
        return (self.name not in SECTIONS or config.section(self.name) is not None) \
            and (config.projection is None or self.projects)

    def iterations(self, config: ZeroShotConfig) -> int:
        """Return how many iterations its training has."""
        return config.section(self.name).iters

    def is_random(self, config: ZeroShotConfig) -> bool:
        """Tell whether its result depends on its seed."""
        return True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Return what else the result depends on, besides seed, classes and ``needs``.

        The values are for JSON. Keys of logging and saving are none, and files are in it by
        their contents, so that they may move.
        """
        return {}

    def check(self, context: StageContext) -> None:
        """Raise ``UserError`` for what is bound to fail, before any stage of the run begins."""

    def check_start(self, context: StageContext) -> None:
        """Raise ``UserError`` for what is bound to fail if the run begins with this stage."""

    @abc.abstractmethod
    def run(self, context: StageContext) -> dict[str, Any] | None:
        """Do it, from ``context.files.begin(self.name)`` to the output.

        What is returned, values for JSON by name, goes into the stage's record.
        """


#: All stages, in the order in which they run.
STAGES: list[Stage] = []


def register(stage: type[Stage]) -> type[Stage]:
    """Add a stage behind those registered before it."""
    STAGES.append(stage())
    return stage


def stage_names() -> tuple[str, ...]:
    """Return the names of all stages, in order, each once."""
    return tuple(dict.fromkeys(stage.name for stage in STAGES))


def stages_of(config: ZeroShotConfig) -> tuple[Stage, ...]:
    """Return the stages that take part in a run of ``config``, in order."""
    return tuple(stage for stage in STAGES if stage.takes_part(config))


def all_inputs(stage: Stage, context: StageContext) -> dict[str, Any]:
    """Return all that the stage's result depends on, as values for JSON by name."""
    classes = context.classes
    results = {other.name: other.result for other in STAGES}
    return {**({"seed": context.seed(stage.name)} if stage.is_random(context.config) else {}),
            "unseen": {classes.names[c]: int(c) for c in classes.unseen_ids},
            **{results[name]: checksum(context.files.output(name)) for name in stage.needs
               if name in context.files.outputs},
            **stage.inputs(context)}


def section_inputs(section: Section) -> dict[str, Any]:
    """Return the keys of a section that its result depends on."""
    return section.model_dump(exclude=_NO_INPUTS, mode="json")


def dataset_input(content: dict[str, Any], files: FileList) -> dict[str, Any]:
    """Return the keys of a data set that count beside its ``files``, wherever these are."""
    return {key: value for key, value in content.items() if not files or key not in _PLACES}


def pretrained_input(content: Any) -> dict[str, str]:
    """Return the weights that a section ``model`` starts from, by their dotted keys.

    A file counts by its content, and what is no file by its name, as the address of a download.
    """
    return {place: checksum(weights) if os.path.isfile(weights) else weights
            for place, weights in pretrained_in(content).items()}


def embeddings_input(context: StageContext) -> str:
    return hashlib.sha256(context.embeddings.tobytes()).hexdigest()


#: Of a section, what its result does not depend on, or what is an input by itself.
_NO_INPUTS = {"save_interval", "log_iters", "seed", "unseen_prototypes", "outside_hull"}
#: What records of 0.1.0 hold besides, although no result depends on it.
_NO_LONGER = {"paddle_csrl"}
#: Where a data set finds its files.
_PLACES = {"dataset_root", "train_path", "val_path", "test_path"}
#: Of stage 1, what a checkpoint is chosen by.
_OF_CHOICE = ("val_dataset", "val_data", "test_config", "save_interval")
#: Inputs that are fingerprints of files, and of which ones.
_FINGERPRINTS = {"data": "seen", "labels": "all", "unlabelled": "unlabelled"}
#: What may change where a training goes on from a checkpoint.
MAY_CHANGE = {"iters", "batch_size", "optimizer", "lr_scheduler", "do_eval", *_OF_CHOICE,
              "to_static_training", "precision", "amp_level", "seed"}


def changed_inputs(old: dict[str, Any], new: dict[str, Any],
                   apart: Collection[str] = ()) -> list[str]:
    """Return the names of the inputs that differ; a value left out is its default.

    Names ``apart`` do not count, of inputs and within sections.
    """
    old, new = (_settled(inputs, {*_NO_INPUTS, *apart}) for inputs in (old, new))
    for key in {*old, *new} & {"train_dataset", "val_dataset"}:
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            old[key], new[key] = ({name: value for name, value in one.items()
                                   if name in other or name not in _PLACES}
                                  for one, other in itertools.permutations((old[key], new[key])))
    if "pretrained" in old and "pretrained" in new:  # not by their names, then
        for inputs in (old, new):
            inputs["model"] = without_pretrained(inputs.get("model"))
    return sorted(key for key in {*old, *new} - {*apart} if old.get(key) != new.get(key))


def brought_up(old: dict[str, Any], new: dict[str, Any], stage: Stage, builder: ZeroShotBuilder,
               sections: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a record of before 0.2.0 as it would hold them now.

    It knows files by their sizes and times; where these are as they were, so are the files. Of
    what it does not hold (``stage.new_inputs``) nothing is known to have changed, unless another
    stage's record does, whose ``sections`` of the config are given.
    """
    known = {key: _known_by(sections, key, value) for key, value in new.items()
             if key in stage.new_inputs}
    same = {key: new[key] for key, use in _FINGERPRINTS.items()
            if key in old and key in new and old[key] != new[key]
            and old[key] == builder.fingerprint_by_times(use)}
    return {**known, **old, **same}


def _known_by(sections: dict[str, Any], name: str, otherwise: Any) -> Any:
    section, _, key = name.rpartition(".")
    if not isinstance(sections.get(section), dict):
        return otherwise
    return sections[section].get(key, SECTIONS[section].model_fields[key].default)


def _settled(inputs: dict[str, Any], apart: Collection[str]) -> dict[str, Any]:
    kinds: dict[str, type[Section]] = {**SECTIONS, "features": Features, "test_config": TestConfig}
    result: dict[str, Any] = {}
    for key, value in inputs.items():
        if key in kinds and isinstance(value, (dict, type(None))):
            defaults = {name: field.default for name, field in kinds[key].model_fields.items()
                        if not field.is_required()}
            result[key] = {name: item for name, item in {**defaults, **(value or {})}.items()
                           if name not in apart}
        elif key not in _NO_LONGER:
            field = Settings.model_fields.get(key)
            result[key] = field.default if value is None and field else value
    if isinstance(result.get("unseen"), dict):  # names are those of the embeddings
        result["unseen"] = sorted(result["unseen"].values())
    if "test_config" in result:
        test = result["test_config"]
        idle = {*(() if test["aug_eval"] else AUGMENTED_KEYS),
                *(() if test["is_slide"] else WINDOW_KEYS)}
        result["test_config"] = {name: item for name, item in test.items() if name not in idle}
    if result.get("save_interval", 0) >= result.get("iters", 1):
        result["save_interval"] = None  # the checkpoint at the end, which is there in any case
    if result.get("do_eval") is False:
        result = {key: value for key, value in result.items() if key not in _OF_CHOICE}
    return result
