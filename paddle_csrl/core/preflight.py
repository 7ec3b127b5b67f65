"""What is bound to fail is found before anything is trained, which takes hours, or replaced."""

import copy
import os
from typing import Sequence

import numpy as np
import paddle

from paddle_csrl.core.classifier import classifier_batches
from paddle_csrl.core.feature_bank import FeatureBank
from paddle_csrl.core.generator import build_task
from paddle_csrl.core.run import Run
from paddle_csrl.core.trainer import load_state, require_full_batch
from paddle_csrl.errors import UserError
from paddle_csrl.utils import make_folder


def check(run: Run, stages: Sequence[str]) -> None:
    """Look at the data, the sections of all stages, the checkpoint to resume and the folders.

    Raises:
        UserError: something is wrong with one of them.
    """
    require_full_batch(run.builder.train_dataset, run.config.batch_size)
    run.builder.val_dataset.audit()  # reads every label and the end of every image, once
    _check_sections(run)
    _check_resumed(run, stages)
    for stage in stages:
        run.check_folder(stage)
    make_folder(run.save_dir, "save_dir")


def _check_sections(run: Run) -> None:
    """Build what the sections of stages 2 and 3 name, on features of a single channel."""
    builder, dic = run.builder, run.config.dic
    counts = np.zeros(len(builder.class_names), np.int64)
    counts[builder.seen_ids] = 1
    bank = FeatureBank(np.zeros((counts.sum(), 1), np.float32), counts, counts)
    with paddle.utils.unique_name.guard():
        build_task(run, bank)
        for section in (dic, dic["generator"], dic["classifier"]):
            for loss in section["loss"]["types"]:
                builder.build_component(copy.deepcopy(loss))
    classifier_batches(run, bank, np.zeros((len(builder.unseen_ids), 1, 1), np.float32))


def _check_resumed(run: Run, stages: Sequence[str]) -> None:
    if not run.resume_model:
        return
    stage = next(filter(run.resumes, stages), None)
    if stage is None:
        raise UserError(f"--resume_model {run.resume_model} is no checkpoint of --stage "
                        f"{stages[0]}; leave one of the two flags out")
    section = run.config.dic if stage == "segmentor" else run.config.dic[stage]
    done = int(run.resume_model.rsplit("_", 1)[-1])
    if done >= section["iters"]:
        raise UserError(f"--resume_model {run.resume_model} has done all of `iters: "
                        f"{section['iters']}` of stage {stage}; raise it above {done}")
    for name in ("model.pdparams", "model.pdopt"):
        load_state(os.path.join(run.resume_model, name))
