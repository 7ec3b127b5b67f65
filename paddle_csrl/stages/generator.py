"""Stage 2: the generator learns to make visual features from class embeddings."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import paddle
from paddleseg.cvlibs import manager
from paddleseg.utils import logger, utils
from pydantic import Field

from paddle_csrl import parallel, visualize
from paddle_csrl.bank.batches import GeneratorBatches
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.components import once, try_losses, try_out
from paddle_csrl.config.schema import (
    Component,
    Count,
    Settings,
    TrainedSection,
    Whole,
    key,
    section,
)
from paddle_csrl.errors import UserError
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.parallel import Share
from paddle_csrl.stages.base import Stage, StageContext, embeddings_input, register, section_inputs
from paddle_csrl.stages.fit import Fit, check_training, fit, fit_in_folder
from paddle_csrl.stages.trial import try_stage
from paddle_csrl.utils.weights import load_state, save_state, set_weights

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter

#: Share of the spread of real features below which generated ones are as good as one point.
COLLAPSED = 0.01
_SPREAD_SAMPLES = 64


@section("generator")
class GeneratorSection(TrainedSection):
    """Stage 2."""

    required = True

    model: Component = key(
        ..., "`StructuralGenerator` (CSRL) or `MLPGenerator` (ZS3Net) with the arguments below; "
        "`RidgePrototypes`, `ConvexPrototypes` or `MeanPrototypes`, which are not trained: no "
        "other key but `unseen_prototypes` and `outside_hull` means anything to them")
    iters: Count = key(..., "iterations; one is one update over all classes at once")
    num_samples: Annotated[int, Field(ge=1, le=2 ** 14)] = key(
        ..., "generated and real features per class and iteration")
    relation: Literal["edges", "prototypes"] = key(
        "prototypes", "`edges`: the learned relations e^L against e⁰, as printed in the paper. "
        "`prototypes`: centred cosines between generated unseen and real seen prototypes against "
        "those of the embeddings, rows z-scored; the only one for `MLPGenerator`")
    relation_warmup: Whole = key(
        0, "iterations over which the losses on unseen classes grow to full weight")
    unseen_prototypes: Literal["free", "hull"] = key(
        "free", "`hull`: the features generated for an unseen class are moved, all by one vector, "
        "so that their mean lies at the convex hull of the seen prototypes (`docs/research.md` "
        "says why); `free`: they stay")
    outside_hull: Annotated[float, Field(ge=0, le=1)] = key(
        0.0, "with `hull`: the share, 0 to 1, of its distance to the hull that the mean keeps; "
        "0.0 puts it into the hull")

    def check(self, settings: Settings) -> None:
        """Make generator and losses once."""
        _try_model(self.model, self.relation)
        try_losses(self.loss, "generator.loss", of_generator=True)


@once
def _try_model(model: Component, relation: str) -> None:
    generator = try_out(model, "generator.model", embed_dim=1, feature_dim=1)
    if relation == "edges" and not getattr(generator, "learns_relations", True):
        raise UserError(f"`generator.relation: edges` compares relations that "
                        f"{type(generator).__name__} does not learn; take prototypes")


class _StageOfGenerator(Stage):
    """Base of the two ways to a generator."""

    name = result = "generator"
    needs = ("features",)

    def check(self, context: StageContext) -> None:
        check_generator(context.config.section(self.name), context.embeddings,
                        context.classes.seen_ids, context.classes.unseen_ids)


@register
class GeneratorStage(_StageOfGenerator):
    """Trains the generator on the bank."""

    help = "learns to make features from class embeddings (CSRL's losses)"

    def takes_part(self, config: ZeroShotConfig) -> bool:
        return super().takes_part(config) and is_trained(config.section(self.name))

    def inputs(self, context: StageContext) -> dict[str, Any]:
        return {"generator": section_inputs(context.config.section(self.name)),
                "normalize": context.settings.zero_shot.features.normalize,
                "embeddings": embeddings_input(context)}

    def run(self, context: StageContext) -> dict[str, Any]:
        section, bank = context.config.section(self.name), context.bank
        shown: list[GeneratorTask] = []

        def record(writer: "StageLogWriter", iteration: int) -> None:
            writer.add_picture("Relations/semantic_generated",
                               relation_picture(shown[0], context.classes.names), iteration)

        def share_out(task: GeneratorTask, batches: paddle.io.Dataset, trained: Any) -> None:
            task.share = Share.of_this_process(len(task.embeddings))
            shown.append(task)
            fit_in_folder(context, self.name, section, record)(task, batches, trained)

        return _keep_generator(context, train_generator(
            section, context.embeddings, bank, context.classes.unseen_ids,
            context.seed(self.name), share_out))


@register
class FittingStage(_StageOfGenerator):
    """Fits a generator that has no training to the bank."""

    help = "with prototypes instead of a generator: these are computed from the bank"
    flags, no_flags = (), "the generator is computed, not trained"
    resumable = False

    def takes_part(self, config: ZeroShotConfig) -> bool:
        return super().takes_part(config) and not is_trained(config.section(self.name))

    def is_random(self, config: ZeroShotConfig) -> bool:
        return False

    def inputs(self, context: StageContext) -> dict[str, Any]:
        return {"generator": {"model": context.config.section(self.name).model},
                "normalize": context.settings.zero_shot.features.normalize,
                "embeddings": embeddings_input(context)}

    def run(self, context: StageContext) -> dict[str, Any]:
        task = train_generator(context.config.section(self.name), context.embeddings, context.bank,
                               context.classes.unseen_ids, context.seed(self.name))
        context.files.begin(self.name)
        return _keep_generator(context, task)


def is_trained(section: GeneratorSection) -> bool:
    """Tell whether the generator of a section is trained by iterations."""
    return getattr(manager.MODELS.components_dict[section.model["type"]], "is_trained", True)


def _keep_generator(context: StageContext, task: GeneratorTask) -> dict[str, Any]:
    """Save the generator and draw its relations; return what is for the stage's record."""
    stage, names = GeneratorStage.name, context.classes.names
    save_state(task.generator.state_dict(), context.files.output(stage))
    if parallel.is_first():
        visualize.save_png(os.path.join(context.files.folder(stage), "relations.png"),
                           relation_picture(task, names))
    return {"spread": spread_of_classes(task, context.bank, names, context.seed(stage))}


def new_task(section: GeneratorSection, embeddings: np.ndarray, bank: FeatureBank,
             unseen_ids: np.ndarray) -> GeneratorTask:
    """Make the generator of a section, untrained, with its objective.

    Args:
        embeddings: float32 [C, d_w], one per class.
        bank: real features; the classes that have some are the seen ones to learn from.
        unseen_ids: int64 [U], the classes to generate for.
    """
    generator = UserErrorBuilder(None).build_component({
        **section.model, "embed_dim": embeddings.shape[1], "feature_dim": bank.feature_dim})
    return GeneratorTask(
        generator, embeddings, bank.prototypes(bank.present_ids), bank.present_ids, unseen_ids,
        num_samples=section.num_samples, relation=section.relation,
        relation_warmup=section.relation_warmup, unseen_prototypes=section.unseen_prototypes,
        outside_hull=section.outside_hull)


def check_generator(section: GeneratorSection, embeddings: np.ndarray, seen_ids: np.ndarray,
                    unseen_ids: np.ndarray) -> None:
    """Build what a section names, on features of a single channel, to see whether it can be."""
    counts = np.isin(np.arange(len(embeddings)), seen_ids).astype(np.int64)
    bank = FeatureBank(np.zeros((counts.sum(), 1), np.float32), counts, counts)
    with paddle.utils.unique_name.guard():
        task = new_task(section.model_copy(update={"num_samples": 2}), embeddings, bank, unseen_ids)
    if not is_trained(section):
        _fit(task, bank)
        task()
        return
    check_training(section, len(embeddings), "generator: ")
    try_stage(task, GeneratorBatches(bank, bank.present_ids, 2, 1, 0), section, "generator: ")


def train_generator(section: GeneratorSection, embeddings: np.ndarray, bank: FeatureBank,
                    unseen_ids: np.ndarray, seed: int,
                    fit: Fit[GeneratorTask] = fit) -> GeneratorTask:
    """Make the generator of a section and train it on the bank with the loop ``fit``.

    One that is not trained is fitted, without the loop. ``seed`` is that of initial weights, noise
    and batches; the others are as for ``new_task``.
    """
    utils.set_seed(seed)
    task = new_task(section, embeddings, bank, unseen_ids)
    if not is_trained(section):
        _fit(task, bank)
        return task
    fit(task, GeneratorBatches(bank, bank.present_ids, section.num_samples, section.iters, seed),
        section)
    return task


def _fit(task: GeneratorTask, bank: FeatureBank) -> None:
    """Fit a generator that is not trained to the classes of the bank."""
    task.generator.fit(task.embeddings[:task.num_seen].numpy(), *bank.moments())


def load_generator(section: GeneratorSection, embeddings: np.ndarray, bank: FeatureBank,
                   unseen_ids: np.ndarray, path: str) -> GeneratorTask:
    """Make the generator of a section with the trained weights at ``path``."""
    with paddle.utils.unique_name.guard():
        task = new_task(section, embeddings, bank, unseen_ids)
    state = load_state(path)
    if not is_trained(section):
        task.generator.make_room(state)
    set_weights(task.generator, state, path)
    return task


def trained_generator(context: StageContext) -> GeneratorTask:
    """Return the generator that stage 2 has trained, loaded once."""
    return context.loaded("generator", lambda: load_generator(
        context.config.section("generator"), context.embeddings, context.bank,
        context.classes.unseen_ids, context.files.output("generator")))


def generate(task: GeneratorTask, number: int, seed: int, seen_too: bool = False) -> np.ndarray:
    """Generate features of the unseen classes, float32 [U, number, D], in the bank's scale.

    The generator stays in training mode: the distribution that MMD fitted is the one with
    dropout, whose noise is part of the samples' spread. With ``seen_too`` those of the S seen
    classes stand ahead, [S + U, number, D].
    """
    utils.set_seed(seed)
    task.train()
    with paddle.no_grad():
        make = task.generate if seen_too else task.generate_unseen
        return make(number).astype("float32").numpy()


def unseen_prototypes(task: GeneratorTask, number: int, seed: int) -> np.ndarray:
    """Prototypes of the unseen classes, float64 [U, D], in the bank's scale.

    They are the means of ``number`` generated features each or, of a generator that is not
    trained, those that it has by itself, on which number and seed have no influence.
    """
    utils.set_seed(seed)
    task.train()
    with paddle.no_grad():
        return task.prototypes_of_unseen(number).numpy().astype(np.float64)


def spread_of_classes(task: GeneratorTask, bank: FeatureBank, names: Sequence[str],
                      seed: int) -> dict[str, float]:
    """Compare the spread of generated features with that of real ones, and warn of a collapse.

    Returns:
        As ``relative_spread``, of all classes by name. A seen class is compared with its own
        features, an unseen one with those of seen classes on average.
    """
    generated = generate(task, _SPREAD_SAMPLES, seed, seen_too=True)
    real = [spread(bank.of(class_id)) for class_id in task.seen_ids]
    return relative_spread([names[c] for c in (*task.seen_ids, *task.unseen_ids)], generated,
                           [*real, *[float(np.mean(real))] * task.num_unseen])


def relative_spread(names: Sequence[str], generated: np.ndarray,
                    real: Sequence[float]) -> dict[str, float]:
    """Divide the spread of generated features by a real one, and warn where next to none is left.

    Args:
        names: K classes.
        generated: float32 [K, P, D], their features.
        real: the spread of real features, one for each class; without any nothing is compared.

    Returns:
        The quotients by name: about 1 for a generator that has learned the spread.
    """
    found = {name: round(spread(rows) / reference, 4)
             for name, rows, reference in zip(names, generated, real) if reference > 0}
    collapsed = {name: value for name, value in found.items() if value < COLLAPSED}
    if collapsed:
        told = ", ".join(f"{name} ({value:.2%})" for name, value in collapsed.items())
        logger.warning(f"the generator has collapsed: it makes nearly one and the same feature of "
                       f"{told}, in brackets the share of the spread of real ones; lower its "
                       f"learning rate, or look at its losses")
    return found


def spread(features: np.ndarray) -> float:
    """Mean standard deviation of the channels of features [P, D]."""
    return float(features.std(0, dtype=np.float64).mean())


def relation_picture(task: GeneratorTask, names: Sequence[str]) -> np.ndarray:
    """Draw semantic and generated relations [U, S] side by side, uint8 RGB [H, W, 3].

    ``names`` are those of all classes, by id.
    """
    state = paddle.get_rng_state()  # looking at the generator must not change its training
    with paddle.no_grad():
        _, unseen, *relations = task()
        generated, semantic = task.compared_relations(unseen.mean(1), relations)
    paddle.set_rng_state(state)
    semantic, generated = semantic.numpy(), generated.numpy()
    limit = float(max(np.abs(semantic).max(), np.abs(generated).max(), 1e-6))
    rows, columns = ([visualize.name_or_id(names[c], c) for c in ids]
                     for ids in (task.unseen_ids, task.seen_ids))
    return visualize.relation_panel(semantic, generated, rows, columns, vmin=-limit, vmax=limit)
