"""One training run: its config, its folder, and which of its stages are current."""

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from paddle_csrl import parallel
from paddle_csrl.builder import ZeroShotBuilder, classes_beside
from paddle_csrl.classes import ClassTable
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.run_folder import SHARED_STAGES, RunFolder
from paddle_csrl.stages import Stage, StageContext, stages_of
from paddle_csrl.stages.base import MAY_CHANGE, STAGES, all_inputs, brought_up, changed_inputs
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.checkpoints import is_checkpoint, iterations_done, newest_checkpoint
from paddle_csrl.utils import read_json
from paddle_csrl.utils.record import name_before

#: The file in a run's folder with all of its config.
CONFIG_FILE = "config.yml"


class Run(RunFolder):
    """A config together with the folder its stages write to.

    Each stage keeps a ``stage.json`` with what it was made from: its part of the config, the
    data's fingerprint and the checksums of the stages before it. A stage is current if that
    record is whole and still says the same.

    Example:
        >>> run = Run.open("output/demo")
        >>> run.classes.unseen_names
        ['red checkered', 'blue dotted', 'green striped', 'yellow plain']
        >>> run.stages
        ('segmentor', 'features', 'generator', 'classifier')
        >>> run.is_current("generator")
        True

    Args:
        config (ZeroShotConfig): the config.
        resume_model (str, optional): a checkpoint folder ``<stage>/iter_N`` to go on from.
        shared_dir, shared_stages, restart: as for ``RunFolder``.
        builder (ZeroShotBuilder, optional): of the config.
        resume (bool): insist that something is there to go on from, and go on although inputs
            of ``MAY_CHANGE`` have.

    Raises:
        UserError: ``resume_model`` is no checkpoint, or does not go with ``resume`` or
            ``restart``.
    """

    def __init__(self, config: ZeroShotConfig, resume_model: str | None = None,
                 shared_dir: str | None = None,
                 shared_stages: Sequence[str] = SHARED_STAGES,
                 restart: bool = False, builder: ZeroShotBuilder | None = None,
                 resume: bool = False):
        if sum(map(bool, (resume_model, restart, resume))) > 1:
            raise UserError("--resume, --resume_model and --restart begin in different places; "
                            "give one of them")
        self.config, self.builder = config, builder or ZeroShotBuilder(config)
        self._stages = {stage.name: stage for stage in stages_of(config)}
        super().__init__(config.save_dir,
                         {name: stage.output for name, stage in self._stages.items()},
                         shared_dir, shared_stages, restart)
        self.resume = resume
        self.resume_model = resume_model and os.path.abspath(resume_model)
        if self.resume_model and not is_checkpoint(self.resume_model):
            raise UserError(f"--resume_model {resume_model}: no model.pdparams and model.pdopt in "
                            f"a folder of that name that ends in _N, the iterations done; name "
                            f"one such as {self.folder('segmentor')}/iter_1000")

    @classmethod
    def open(cls, folder: str, opts: Sequence[str] = (),
             overrides: Mapping[str, Any] | None = None) -> "Run":
        """Open the run in a folder. Its data are not looked at before they are asked for.

        Args:
            folder (str): such as output/demo.
            opts (list[str]): overrides as for ``ZeroShotConfig``, such as where the data are now.
            overrides (dict, optional): the same as dotted key to value.

        Raises:
            UserError: the folder holds no config, or no classes that go with it.
        """
        path = os.path.join(folder, CONFIG_FILE)
        if not os.path.isfile(path):
            raise UserError(f"no {CONFIG_FILE} in {folder}; name the folder of a finished run, "
                            f"such as output/demo")
        config = ZeroShotConfig(path, opts=opts,
                                overrides={**(overrides or {}), "save_dir": folder})
        classes = classes_beside(config, os.path.join(folder, "model.pdparams"))
        return cls(config, builder=ZeroShotBuilder(config, classes))

    @property
    def classes(self) -> ClassTable:
        """Names, unseen classes and colours: a ``ClassTable``."""
        return self.builder.classes

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages of this run, in order."""
        return tuple(self._stages)

    @property
    def model_stage(self) -> str:
        """The name of the stage that makes the final model."""
        return [name for name, stage in self._stages.items() if stage.makes_model][-1]

    def stage(self, name: str) -> Stage:
        """Return a stage by its name; ``UserError`` if the run has none such."""
        if name not in self._stages:
            reason = "a `projection`" if self.config.projection else f"no `{name}`"
            raise UserError(f"--stage {name}: {self.config.path} has {reason} and its stages are "
                            f"{', '.join(self.stages)}; name one of them")
        return self._stages[name]

    @cached_property
    def context(self) -> StageContext:
        """The context that the stages are handed."""
        return StageContext(self.config, self.builder, self)

    def forget(self) -> None:
        """Let go of what stages have made, which takes memory and changes as they run again."""
        self.__dict__.pop("context", None)

    def seed(self, stage: str) -> int:
        return self.context.seed(stage)

    def inputs(self, stage: str) -> dict[str, Any]:
        """Return all that the stage's result depends on, as JSON-able values by name."""
        return all_inputs(self.stage(stage), self.context)

    def changed_inputs(self, stage: str, recorded: dict[str, Any],
                       apart: Collection[str] = ()) -> list[str]:
        """Return the names of a stage's inputs, but those ``apart``, that were others once."""
        inputs = self.inputs(stage)
        return changed_inputs(self._brought_up(stage, recorded, inputs), inputs, apart)

    def bring_up_record(self, stage: str) -> None:
        """Have the record of a current stage, if of before 0.2.0, hold all inputs from now on."""
        record = self.record(stage)
        inputs = self._brought_up(stage, record["inputs"], self.inputs(stage))
        if inputs != record["inputs"] and parallel.is_first():
            self._write_record(stage, {**record, "inputs": inputs})

    def _brought_up(self, stage: str, recorded: dict[str, Any],
                    inputs: dict[str, Any]) -> dict[str, Any]:
        sections = {name: self.record(name).get("inputs", {}).get(name) for name in self.stages}
        return brought_up(recorded, inputs, self.stage(stage), self.builder, sections)

    def changes(self, stage: str) -> list[str] | None:
        """Return the names of inputs changed since the stage finished; None if it never did."""
        if not self.is_finished(stage):
            return None
        return self._changes(stage)

    def _changes(self, stage: str, apart: Collection[str] = ()) -> list[str]:
        record = self.record(stage)
        changed = self.changed_inputs(stage, record.get("inputs", {}), apart)
        # Records of 0.1.0 say no format; it was the first.
        return changed + ["format"] * (record.get("format", 1) != self.stage(stage).format)

    def is_current(self, stage: str) -> bool:
        """Tell whether the stage is finished and would give the same result again."""
        return self.changes(stage) == []

    def made_files(self, stage: str) -> list[str]:
        """Return the files that the stage leaves, those of the final model among them."""
        files = super().made_files(stage)
        if stage == self.model_stage:
            files.append(self.result)
            if Calibration.of(self.config.section("classifier")).is_cost:
                files.append(self.calibration_record)
        return files

    def has_final_model(self) -> bool:
        """Tell whether the final model is there and was made by a stage of this config."""
        return os.path.isfile(self.result) and not self.foreign_makers()

    def foreign_makers(self) -> list[str]:
        """Return finished stages of other configs in this folder, whose the final model may be."""
        return [stage.name for stage in STAGES if stage.makes_model
                and stage.name not in self.stages and self.record(stage.name).get("finished")]

    def require_finished(self, stages: Sequence[str]) -> None:
        """Raise ``UserError`` unless all ``stages`` have finished, whatever their inputs were."""
        for stage in stages:
            if not self.is_finished(stage):
                reason = self.damage(stage) or (f"{self.output(stage)} is missing or stage {stage} "
                                                f"has not finished")
                raise UserError(f"{reason}; run tools/train.py -c {self.save_dir}/{CONFIG_FILE} "
                                f"--save_dir {self.save_dir} --stage {stage}")

    def require_current(self, stage: str) -> None:
        """Raise ``UserError``, with what is missing or changed, unless the stage is current."""
        changes = self.changes(stage)
        if changes is None:
            reason = self.damage(stage) or (f"stage {stage} has not finished in "
                                            f"{self.folder(stage)}")
            raise UserError(f"{reason}; run --stage {stage} first, or leave --stage out to run all")
        if changes:
            raise UserError(f"stage {stage} in {self.folder(stage)} was made with another "
                            f"{', '.join(changes)}; run --stage {stage} again, or leave "
                            f"--stage out")

    def has_begun(self) -> bool:
        """Tell whether a stage has left something to go on from."""
        return any(self.is_finished(stage) or newest_checkpoint(self.folder(stage))
                   for stage in self.stages)

    def goes_on_from(self, stage: str, insists: bool = False) -> str | None:
        """Return the checkpoint that a stage goes on from, after the stages before it.

        That is ``resume_model``, unless it is another run's that the stage has gone on from and
        was stopped; or, if the stage was begun with its present inputs, the newest whole one in
        its folder. With ``insists``, as for the stage that ``resume`` is about, inputs of
        ``MAY_CHANGE`` may be others, those of a finished stage too.

        Raises:
            UserError: it insists and cannot.
        """
        record, made_by = self.record(stage), self.stage(stage)
        given = self.resumes(stage)
        if given and (self.holds(stage, given) or record.get("finished")
                      or record.get("resumed_from") != given):
            return given
        if self.restart or not made_by.resumable or "inputs" not in record:
            return None
        if self.is_finished(stage) and (not insists or self.is_current(stage)):
            return None
        changed = self._changes(stage, MAY_CHANGE if insists else ())
        if insists and changed:
            raise UserError(f"--resume: stage {stage} in {self.folder(stage)} was begun with "
                            f"another {', '.join(changed)}; go on with the config it was begun "
                            f"with, or leave the flag out to begin it again")
        checkpoint = None if changed else newest_checkpoint(self.folder(stage))
        iters = made_by.iterations(self.config)
        if checkpoint and iterations_done(checkpoint) > iters - self.is_finished(stage):
            raise UserError(f"--resume: {checkpoint} has done all of `iters: {iters}` of stage "
                            f"{stage}; raise it, or leave the flag out to begin it again")
        if insists and not checkpoint and self.is_finished(stage):
            raise UserError(f"--resume: {self.folder(stage)} has no whole checkpoint; leave the "
                            f"flag out to begin stage {stage} again")
        return checkpoint or given

    def resumes(self, stage: str) -> str | None:
        """Return ``resume_model`` if it is a checkpoint of this stage."""
        if not self.resume_model or not self.stage(stage).resumable:
            return None
        parent = name_before(os.path.basename(os.path.dirname(self.resume_model)))
        of_stage = parent if parent in self.stages else "segmentor"
        return self.resume_model if stage == of_stage else None

    @property
    def calibration(self) -> float:
        """The number that the final layer takes off the logits of seen classes, in logit units.

        ``UserError`` if it follows from the layer and that has not been trained.
        """
        wanted = Calibration.of(self.config.section("classifier"))
        if not wanted.is_cost:
            return wanted.value
        record = read_json(self.calibration_record)
        if not isinstance(record, dict) or "calibration" not in record:
            raise UserError(f"{self.calibration_record} does not say which calibration the layer "
                            f"has; run --stage classifier again")
        return float(record["calibration"])
