"""Stage 2: the generator learns to make visual features from class embeddings."""

import os
from typing import Annotated, Any, Literal

import numpy as np
import paddle
from paddleseg.utils import utils
from pydantic import Field

from paddle_csrl import parallel, visualize
from paddle_csrl.config import StageConfig
from paddle_csrl.config.components import try_losses, try_out
from paddle_csrl.config.schema import (
    Component,
    Count,
    Loss,
    Settings,
    StageSection,
    Whole,
    key,
    section,
)
from paddle_csrl.errors import UserError
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.parallel import Share
from paddle_csrl.run import Run
from paddle_csrl.stages.batches import GeneratorBatches
from paddle_csrl.stages.feature_bank import FeatureBank, Scale
from paddle_csrl.stages.fit import Fit, StageBuilder, load_weights, save_state, train_stage
from paddle_csrl.utils.visualdl import StageLogWriter


@section("generator")
class GeneratorSection(StageSection):
    """Stage 2."""

    required = True

    model: Component = key(
        ..., "`StructuralGenerator` (CSRL) or `MLPGenerator` (ZS3Net) with the arguments below")
    iters: Count = key(..., "iterations; one is one update over all classes at once")
    optimizer: Component = key(..., "as at the top level")
    lr_scheduler: Component = key(..., "as at the top level")
    loss: Loss = key(..., "as at the top level")
    num_samples: Count = key(..., "generated and real features per class and iteration")
    relation: Literal["edges", "prototypes"] = key(
        "prototypes", "`edges`: the learned relations e^L against e⁰, as printed in the paper. "
        "`prototypes`: centred cosines between generated unseen and real seen prototypes against "
        "those of the embeddings, rows z-scored; the only one for `MLPGenerator`")
    relation_warmup: Whole = key(
        0, "iterations over which the losses on unseen classes grow to full weight")
    unseen_prototypes: Literal["free", "hull"] = key(
        "free", "`hull`: the features generated for an unseen class are moved, all by one vector, "
        "so that their mean lies at the convex hull of the seen prototypes (`docs/results.md` says "
        "why); `free`: they stay")
    outside_hull: Annotated[float, Field(ge=0, le=1)] = key(
        0.0, "with `hull`: the share, 0 to 1, of its distance to the hull that the mean keeps; "
        "0.0 puts it into the hull")

    def check(self, settings: Settings) -> None:
        """Make generator and losses once."""
        generator = try_out(self.model, "generator.model", embed_dim=1, feature_dim=1)
        if self.relation == "edges" and not getattr(generator, "learns_relations", True):
            raise UserError(f"`generator.relation: edges` compares relations that "
                            f"{type(generator).__name__} does not learn; take prototypes")
        try_losses(self.loss, "generator.loss", of_generator=True)


def load_bank(run: Run) -> tuple[FeatureBank, Scale]:
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


def make_task(section: dict[str, Any], embeddings: np.ndarray, bank: FeatureBank,
              unseen_ids: np.ndarray) -> GeneratorTask:
    """The generator of a config's section ``generator``, untrained, with its objective.

    Args:
        section: the section.
        embeddings: float32 [C, d_w], one per class.
        bank: real features; the classes that have some are the seen ones.
        unseen_ids: int64 [U], the classes to generate for.
    """
    present = seen_in(bank)
    generator = StageBuilder(StageConfig(section)).build_component({
        **section["model"], "embed_dim": embeddings.shape[1], "feature_dim": bank.feature_dim})
    return GeneratorTask(generator, embeddings, bank.prototypes(present), present, unseen_ids,
                         section["num_samples"], section.get("relation", "prototypes"),
                         section.get("relation_warmup", 0),
                         section.get("unseen_prototypes", "free"),
                         section.get("outside_hull", 0.0))


def fit_generator(fit: Fit, section: dict[str, Any], embeddings: np.ndarray, bank: FeatureBank,
                  unseen_ids: np.ndarray, seed: int) -> GeneratorTask:
    """Make the generator and have it trained on the bank.

    Args:
        fit: trains the model of the builder that it is called with on the data set.
        section, embeddings, bank, unseen_ids: as ``make_task``.
        seed: of initial weights, noise and batches.
    """
    utils.set_seed(seed)
    task = make_task(section, embeddings, bank, unseen_ids)
    config = StageConfig(section)
    fit(StageBuilder(config, task),
        GeneratorBatches(bank, seen_in(bank), task.num_samples,
                         config.iters, seed))
    return task


def train_generator(run: Run) -> None:
    """Train the generator on the bank with PaddleSeg's trainer."""
    bank, _ = load_bank(run)
    section = run.config.dic["generator"]
    interval = run.config.option("save_interval", 1000, "generator")

    def fit(builder: StageBuilder, batches: GeneratorBatches) -> None:
        def record_relations(writer: StageLogWriter, iteration: int) -> None:
            if iteration % interval == 0 or iteration == section["iters"]:
                writer.add_picture("Relations/semantic_generated",
                                   relation_picture(run, bank, builder.model), iteration)

        builder.model.share = Share.of_this_process(len(builder.model.embeddings))
        parallel.add_gradients_before(builder.optimizer, builder.model.parameters())
        folder = train_stage(run, "generator", builder, batches, batch_size=1,
                             on_logged=record_relations, alone=True)
        builder.model.set_state_dict(paddle.load(os.path.join(folder, "model.pdparams")))

    task = fit_generator(fit, section, run.builder.embeddings, bank, run.builder.unseen_ids,
                         run.seed("generator"))
    save_state(task.generator.state_dict(), run.output("generator"))
    if parallel.is_first():
        visualize.save_png(os.path.join(run.folder("generator"), "relations.png"),
                           relation_picture(run, bank, task))


def load_generator(run: Run, bank: FeatureBank) -> GeneratorTask:
    """The trained generator of stage 2."""
    task = make_task(run.config.dic["generator"], run.builder.embeddings, bank,
                     run.builder.unseen_ids)
    load_weights(task.generator, run.output("generator"))
    return task


def relation_picture(run: Run, bank: FeatureBank, task: GeneratorTask) -> np.ndarray:
    """Semantic and generated relations [U, S] side by side, uint8 RGB [H, W, 3]."""
    names = run.builder.class_names
    state = paddle.get_rng_state()  # looking at the generator must not change its training
    with paddle.no_grad():
        _, unseen, *relations = task()
        generated, semantic = task.compared_relations(unseen.mean(1), relations)
    paddle.set_rng_state(state)
    semantic, generated = semantic.numpy(), generated.numpy()
    limit = float(max(np.abs(semantic).max(), np.abs(generated).max(), 1e-6))
    return visualize.relation_panel(
        semantic, generated, [names[c] for c in run.builder.unseen_ids],
        [names[c] for c in seen_in(bank)], vmin=-limit, vmax=limit)
