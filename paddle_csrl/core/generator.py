"""Stage 2: the generator learns to make visual features from class embeddings."""

import os
from typing import Tuple

import numpy as np
import paddle
from paddleseg.utils import utils

from paddle_csrl import visualize
from paddle_csrl.config import StageConfig
from paddle_csrl.core.feature_bank import FeatureBank, Scale
from paddle_csrl.core.monitor import StageLogWriter
from paddle_csrl.core.run import Run
from paddle_csrl.core.stage_data import GeneratorBatches
from paddle_csrl.core.trainer import StageBuilder, load_weights, save_state, train_stage
from paddle_csrl.errors import UserError
from paddle_csrl.models.generator_task import GeneratorTask


def load_bank(run: Run) -> Tuple[FeatureBank, Scale]:
    """The feature bank as stages 2 and 3 use it, and the scale its features were divided by."""
    bank = FeatureBank.load(run.output("features"))
    if bank.counts[run.builder.unseen_ids].any():
        raise UserError(f"{run.output('features')} holds features of unseen classes; "
                        f"make it anew with --stage features")
    scale = bank.scale() if run.builder.normalizes_features else Scale.identity(bank.feature_dim)
    return bank.scaled(scale), scale


def seen_in(bank: FeatureBank) -> np.ndarray:
    """int64 [S]: ids of the classes that have features, which are the seen ones."""
    return np.flatnonzero(bank.counts)


def build_task(run: Run, bank: FeatureBank) -> GeneratorTask:
    """The generator of the config, untrained, with its objective."""
    builder, section = run.builder, run.config.dic["generator"]
    present = seen_in(bank)
    generator = builder.build_component({
        **section["model"], "embed_dim": builder.embeddings.shape[1],
        "feature_dim": bank.feature_dim})
    return GeneratorTask(generator, builder.embeddings, bank.prototypes(present), present,
                         builder.unseen_ids, section["num_samples"],
                         section.get("relation", "prototypes"),
                         section.get("relation_warmup", 0))


def train_generator(run: Run) -> None:
    """Train the generator on the bank with PaddleSeg's trainer."""
    utils.set_seed(run.seed("generator"))
    bank, _ = load_bank(run)
    task = build_task(run, bank)
    config = StageConfig(run.config.dic["generator"])
    batches = GeneratorBatches(bank, seen_in(bank), task.num_samples,
                               config.iters * paddle.distributed.get_world_size(),
                               run.seed("generator"))
    interval = run.config.option("save_interval", 1000, "generator")

    def record_relations(writer: StageLogWriter, iteration: int) -> None:
        if iteration % interval == 0 or iteration == config.iters:
            writer.add_picture("Relations/semantic_generated", relation_picture(run, bank, task),
                               iteration)

    folder = train_stage(run, "generator", StageBuilder(config, task), batches, batch_size=1,
                         on_logged=record_relations)
    task.set_state_dict(paddle.load(os.path.join(folder, "model.pdparams")))
    save_state(task.generator.state_dict(), run.output("generator"))
    visualize.save_png(os.path.join(run.folder("generator"), "relations.png"),
                       relation_picture(run, bank, task))


def load_generator(run: Run, bank: FeatureBank) -> GeneratorTask:
    """The trained generator of stage 2."""
    task = build_task(run, bank)
    load_weights(task.generator, run.output("generator"))
    return task


def relation_picture(run: Run, bank: FeatureBank, task: GeneratorTask) -> np.ndarray:
    """Semantic and generated relations [U, S] side by side, uint8 RGB [H, W, 3]."""
    names = run.builder.class_names
    with paddle.no_grad():
        _, unseen, *relations = task()
        generated, semantic = task.compared_relations(unseen.mean(1), relations)
    semantic, generated = semantic.numpy(), generated.numpy()
    limit = float(max(np.abs(semantic).max(), np.abs(generated).max(), 1e-6))
    return visualize.relation_panel(
        semantic, generated, [names[c] for c in run.builder.unseen_ids],
        [names[c] for c in seen_in(bank)], vmin=-limit, vmax=limit)
