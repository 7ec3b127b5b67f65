"""One training run: its config, folders and the record of what is finished."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from paddleseg.utils import logger

import paddle_csrl
from paddle_csrl import parallel
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.utils import read_json, write_json

#: The stages in the order they run.
STAGES = ("segmentor", "features", "generator", "classifier")

#: Those of a config with a `projection`, whose last one only folds.
PROJECTION_STAGES = ("segmentor", "classifier")

#: An optional last one, of a config with a section of that name.
SELF_TRAINING = "self_training"

_OUTPUTS = {"segmentor": "model.pdparams", "features": "bank.npz",
            "generator": "model.pdparams", "classifier": "model.pdparams",
            SELF_TRAINING: "model.pdparams"}

_SEGMENTOR_KEYS = ("model", "loss", "optimizer", "lr_scheduler", "iters", "batch_size",
                   "train_dataset", "val_dataset", "test_config", "to_static_training",
                   "precision", "amp_level", "do_eval", "save_interval")


class Run:
    """A config together with the folder its stages write to.

    Each stage keeps a ``stage.json`` with what it was made from: its part of the config, the
    data's fingerprint and the checksums of the stages before it. A stage is finished if that
    record is whole and still says the same.

    Args:
        config (ZeroShotConfig): the config.
        resume_model (str, optional): a checkpoint folder ``<stage>/iter_N`` to go on from.
        shared_dir (str, optional): folder of the stages that several runs share. Such a run
            ends with its new classification layer alone, not with a copy of the segmentor.
        shared_stages (sequence of str): the stages found there.
    """

    def __init__(self, config: ZeroShotConfig, resume_model: str | None = None,
                 shared_dir: str | None = None,
                 shared_stages: Sequence[str] = ("segmentor", "features")):
        self.config = config
        self.shared_dir = shared_dir
        self.shared_stages = tuple(shared_stages) if shared_dir else ()
        self.builder = ZeroShotBuilder(config)
        self.save_dir = config.save_dir
        self.resume_model = resume_model and os.path.abspath(resume_model)
        if self.resume_model and not _is_checkpoint(self.resume_model):
            raise UserError(f"--resume_model {resume_model}: no model.pdparams and model.pdopt in "
                            f"a folder of that name that ends in _N, the iterations done; name "
                            f"one such as {self.folder('segmentor')}/iter_1000")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run, in order."""
        if self.config.projection:
            return PROJECTION_STAGES
        return (*STAGES, SELF_TRAINING) if self.config.transductive else STAGES

    def folder(self, stage: str) -> str:
        parent = self.shared_dir if stage in self.shared_stages else self.save_dir
        return os.path.join(parent, stage)

    def output(self, stage: str) -> str:
        """The file that a finished stage leaves for the next ones."""
        return os.path.join(self.folder(stage), _OUTPUTS[stage])

    @property
    def final_model(self) -> str:
        """The state dict of a stock segmentor that the run ends with."""
        return os.path.join(self.save_dir, "model.pdparams")

    @property
    def final_layer(self) -> str:
        """The new classification layer, ``weight`` and ``bias``, where stages are shared."""
        return os.path.join(self.save_dir, "layer.npz")

    @property
    def result(self) -> str:
        """The file that the run ends with."""
        return self.final_layer if self.shared_dir else self.final_model

    @property
    def calibration(self) -> float:
        """What the final layer takes off the logits of seen classes, in logit units.

        Raises:
            UserError: it follows from the layer, which has not been trained.
        """
        wanted = Calibration.of(self.config.dic.get("classifier") or {})
        if not wanted.is_cost:
            return wanted.value
        record = read_json(self._calibration_record)
        if not isinstance(record, dict) or "calibration" not in record:
            raise UserError(f"{self._calibration_record} does not say which calibration the layer "
                            f"has; run --stage classifier again")
        return float(record["calibration"])

    def record_calibration(self, calibration: float) -> None:
        """Remember the calibration of the final layer where the config does not say it."""
        if parallel.is_first() and Calibration.of(self.config.dic["classifier"]).is_cost:
            write_json(self._calibration_record, {"calibration": calibration})

    @property
    def _calibration_record(self) -> str:
        return os.path.join(self.save_dir, "calibration.json")

    def trains(self, stage: str) -> bool:
        """Whether the stage has iterations, and so checkpoints."""
        return stage != "features" and not (self.config.projection and stage == "classifier")

    def seed(self, stage: str) -> int:
        return (self.config.dic.get(stage) or {}).get("seed", self.config.seed)

    def resumes(self, stage: str) -> str | None:
        """The checkpoint to go on from, if it is one of this stage."""
        parent = self.resume_model and os.path.basename(os.path.dirname(self.resume_model))
        if parent and self.trains(stage) and (
                parent == stage or (parent not in _OUTPUTS and stage == "segmentor")):
            return self.resume_model
        return None

    def inputs(self, stage: str) -> dict[str, Any]:
        """All that the stage's result depends on, as JSON-able values by name."""
        dic, zero_shot = self.config.dic, self.config.zero_shot
        embeddings = hashlib.sha256(self.builder.embeddings.tobytes()).hexdigest()
        common = {"paddle_csrl": paddle_csrl.__version__, "seed": self.seed(stage),
                  "unseen": {self.builder.class_names[c]: int(c)
                             for c in self.builder.unseen_ids}}
        if stage == "segmentor" and self.config.segmentor_weights:
            special = {"model": dic["model"],
                       "segmentor_weights": _weights_checksum(self.config.segmentor_weights)}
        elif stage == "segmentor":
            special = {key: dic.get(key) for key in _SEGMENTOR_KEYS}
            special.update(policy=zero_shot.get("policy", "drop"), data=self.builder.fingerprint)
            if self.builder.label_names is not None:
                special.update(label_names=self.builder.label_names,
                               class_names=self.builder.class_names)
            if self.config.projection:
                special.update(projection=self.config.projection, embeddings=embeddings)
        elif self.config.projection:
            special = {"calibration": self.calibration, "embeddings": embeddings,
                       "segmentor": checksum(self.output("segmentor"))}
        elif stage == "features":
            features = dict(zero_shot.get("features") or {})
            features.pop("normalize", None)
            transforms = features.pop("transforms", None) or dic["val_dataset"].get("transforms")
            special = {"features": features, "transforms": transforms,
                       "segmentor": checksum(self.output("segmentor")),
                       "data": self.builder.fingerprint}
            if self.config.option("precision", "fp32") != "fp32":
                special.update(precision=dic["precision"], amp_level=dic.get("amp_level", "O1"))
            if zero_shot.get("classifier_layer"):
                special["classifier_layer"] = zero_shot["classifier_layer"]
        elif stage == "generator":
            special = {"generator": _without_logging(dic["generator"]),
                       "bank": checksum(self.output("features")),
                       "normalize": self.builder.normalizes_features, "embeddings": embeddings}
        elif stage == SELF_TRAINING:
            features = zero_shot.get("features") or {}
            special = {SELF_TRAINING: _without_logging(dic[SELF_TRAINING]),
                       "classifier": _without_logging(dic["classifier"]), "embeddings": embeddings,
                       "transforms": features.get("transforms")
                       or dic["val_dataset"].get("transforms"),
                       "layer": checksum(self.output("classifier")),
                       "segmentor": checksum(self.output("segmentor")),
                       "bank": checksum(self.output("features")),
                       "generator": checksum(self.output("generator")),
                       "unlabelled": self.builder.unlabelled_fingerprint}
        else:
            special = {"classifier": _without_logging(dic["classifier"]), "embeddings": embeddings,
                       "segmentor": checksum(self.output("segmentor")),
                       "bank": checksum(self.output("features")),
                       "generator": checksum(self.output("generator"))}
            if self.config.leaks:
                special["labels"] = self.builder.whole_fingerprint
        # A copy, for PaddleSeg's builder adds to the config as it builds.
        return json.loads(json.dumps({**common, **special}))

    def is_finished(self, stage: str) -> bool:
        """Whether the stage has come to its end, from whatever inputs."""
        record = read_json(self._record(stage))
        return (isinstance(record, dict) and bool(record.get("finished"))
                and os.path.isfile(self.output(stage)))

    def changes(self, stage: str) -> list[str] | None:
        """Names of the inputs that changed since the stage finished; None if it never did."""
        if not self.is_finished(stage):
            return None
        inputs, old = self.inputs(stage), read_json(self._record(stage)).get("inputs", {})
        return sorted(key for key in set(inputs) | set(old) if inputs.get(key) != old.get(key))

    def has_final_model(self) -> bool:
        """Whether the final model is there and was made by the last stage of this config."""
        return os.path.isfile(self.result) and not self._is_self_trained()

    def _is_self_trained(self) -> bool:
        """Whether self-training, which this config does without, made the final model."""
        record = None if SELF_TRAINING in self.stages else read_json(self._record(SELF_TRAINING))
        return isinstance(record, dict) and bool(record.get("finished"))

    def require(self, stage: str) -> None:
        """Insist that an earlier stage is finished and up to date.

        Raises:
            UserError: it is not; the message says what is missing or changed.
        """
        changes = self.changes(stage)
        if changes is None:
            raise UserError(f"stage {stage} has not finished in {self.folder(stage)}; run "
                            f"--stage {stage} first, or leave --stage out to run all")
        if changes:
            raise UserError(f"stage {stage} in {self.folder(stage)} was made with another "
                            f"{', '.join(changes)}; run --stage {stage} again, or leave "
                            f"--stage out")

    def check_folder(self, stage: str) -> None:
        """Raise ``UserError`` if the stage's folder holds what no stage has written."""
        folder = self.folder(stage)
        if os.path.isdir(folder) and os.listdir(folder) and not self.resumes(stage) \
                and not os.path.isfile(self._record(stage)):
            raise UserError(f"{folder} holds files of something else; choose another --save_dir")

    def begin(self, stage: str) -> None:
        """Clear the stage's folder, unless it is resumed, and mark it as begun."""
        folder = self.folder(stage)
        parallel.barrier()  # no process is still reading there
        if parallel.is_first():
            self.check_folder(stage)
            if os.path.isdir(folder) and not self.resumes(stage):
                shutil.rmtree(folder)
            os.makedirs(folder, exist_ok=True)
            write_json(self._record(stage), {"finished": False})
        parallel.barrier()

    def finish(self, stage: str, inputs: dict[str, Any],
               made: dict[str, Any] | None = None) -> None:
        """Mark the stage as finished from ``inputs``; ``made`` tells a reader how."""
        if parallel.is_first():
            write_json(self._record(stage), {"finished": True, "inputs": inputs,
                                             **({"made": made} if made else {})})
            if stage == self.stages[-1] and self._is_self_trained():
                write_json(self._record(SELF_TRAINING), {"finished": False})
        parallel.barrier()
        logger.info(f"[{stage}] finished: {self.output(stage)}")

    def _record(self, stage: str) -> str:
        return os.path.join(self.folder(stage), "stage.json")


def open_run(folder: str, opts: Sequence[str] = ()) -> Run:
    """The run in a folder, from the config that it wrote there.

    Args:
        folder (str): such as output/demo.
        opts (list[str]): overrides as for ``ZeroShotConfig``, such as where the data are now.

    Raises:
        UserError: the folder holds no config.
    """
    path = os.path.join(folder, "config.yml")
    if not os.path.isfile(path):
        raise UserError(f"no config.yml in {folder}; name the folder of a finished run, such as "
                        f"output/demo")
    return Run(ZeroShotConfig(path, opts=opts, overrides={"save_dir": folder}))


def _is_checkpoint(folder: str) -> bool:
    """Whether PaddleSeg's trainer, which reads the iteration off the name, can go on from it."""
    files = (os.path.join(folder, name) for name in ("model.pdparams", "model.pdopt"))
    return folder.rsplit("_", 1)[-1].isdigit() and all(map(os.path.isfile, files))


def _without_logging(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items()
            if key not in ("log_iters", "save_interval")}


def _weights_checksum(path: str) -> str:
    if not os.path.isfile(path):
        raise UserError(f"`segmentor_weights: {path}` is no file; give a .pdparams file, or null "
                        f"to train stage 1")
    return checksum(path)


def checksum(path: str) -> str:
    """SHA-256 of a file, in hexadecimal; read again only once the file has changed."""
    status = os.stat(path)
    return _checksum(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _checksum(path: str, *status: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
