"""Other classes for a finished run, in seconds: no pixel and no training of the segmentor.

What the segmentor and the generator learned does not depend on how many classes there are. A new
class c takes its embedding a_c through the trained generator, x ~ G(a_c, z), and the
classification layer is trained anew, by the code and settings of stage 3, on the run's bank of
real seen features and the generated ones of all unseen classes. ``docs/add_class.md`` has more.
"""

import contextlib
import copy
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddleseg.utils import logger
from prettytable import PrettyTable

from paddle_csrl import visualize
from paddle_csrl.add_class.class_list import VOCABULARY_FILE, Changes, ClassList
from paddle_csrl.add_class.layer import (
    Progress,
    folded_projection,
    has_vectors_of_training,
    keep_layer,
    new_layer,
)
from paddle_csrl.add_class.resize import class_axes, require_classless_features, take_over
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.classes import CLASSES_FILE, ClassTable
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import fold_name
from paddle_csrl.embeddings import words_of
from paddle_csrl.embeddings.resolve import DEFAULT
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.evaluation.score import score
from paddle_csrl.models.last_layer import put_back
from paddle_csrl.pretraining import pretraining_of
from paddle_csrl.run import CONFIG_FILE, Run
from paddle_csrl.utils import read_json, write_json, write_text
from paddle_csrl.utils.io import folder_aside, require_written_out
from paddle_csrl.utils.provenance import versions
from paddle_csrl.utils.record import STAGE_FILE
from paddle_csrl.utils.weights import save_state
from paddle_csrl.utils.yaml_files import dump_yaml

#: Folder, in that of a run whose classes were changed, of the run as it was trained.
TRAINED = "trained"


class ClassChange(NamedTuple):
    """The outcome of ``add_classes``.

    Attributes:
        save_dir (str): folder of the new run.
        classes (list[str]): names by id.
        unseen (list[str]): those without a pixel in training, in the order of their ids.
        added (dict[str, str]): name to the words whose embedding it has.
        removed (list[str]): names.
        renamed (dict[str, str]): old name to new.
        before, after (dict[str, float], optional): share of the bank's features of each seen
            class that the old and the new layer give to it; None where the run has no bank.
        taken (dict[str, float]): share of the bank's features, every seen class weighing alike,
            that go to each new class.
        iou_before, iou_after (dict[str, float], optional): IoU of each seen class on the
            validation set, if that was asked for.
        seconds (float): how long it took.
    """

    save_dir: str
    classes: list[str]
    unseen: list[str]
    added: dict[str, str]
    removed: list[str]
    renamed: dict[str, str]
    before: dict[str, float] | None
    after: dict[str, float] | None
    taken: dict[str, float]
    iou_before: dict[str, float] | None
    iou_after: dict[str, float] | None
    seconds: float

    def table(self) -> str:
        """Return the seen classes' moves, in percent, as a text table."""
        measures = {title: (old, new) for title, old, new in (
            ("features kept %", self.before, self.after),
            ("IoU %", self.iou_before, self.iou_after)) if old and new}
        table = PrettyTable(["seen class", *measures], align="r")
        table.align["seen class"] = "l"
        names = list(next(iter(measures.values()))[0]) if measures else []
        for name in names:
            table.add_row([name, *(_cell(old[name], new[name]) for old, new in measures.values())],
                          divider=name == names[-1])
        if names:
            table.add_row(["mean", *(_cell(_mean(old), _mean(new))
                                     for old, new in measures.values())])
        return str(table)


def _mean(scores: dict[str, float]) -> float:
    return float(np.mean(list(scores.values())))


def _cell(old: float, new: float) -> str:
    return f"{100 * old:.2f} -> {100 * new:.2f} {100 * (new - old):+7.2f}"


def add_classes(run_dir: str, names: Sequence[str], save_dir: str, *, remove: Sequence[str] = (),
                rename: Sequence[str] = (), seed: int | None = None, opts: Sequence[str] = (),
                evaluate: bool = False, on_progress: Progress | None = None,
                trained: Run | None = None) -> ClassChange:
    """Give a finished run more or other classes, and write it as a run of its own.

    Kept classes keep their order, new ones follow. Where none is added, the layer is not trained:
    it loses the rows of the removed classes, and the logits of the others stay as they are.

    Example:
        >>> change = add_classes("output/demo", ["flag=red blue striped"], "output/demo_v2")
        >>> change.unseen
        ['red checkered', 'blue dotted', 'green striped', 'yellow plain', 'flag']

    Args:
        run_dir: folder of a finished run, trained or itself written by this function.
        names: "name", or "name=word" where other words stand for it than its name;
            "name=word1,word2" gives synonyms to try in turn.
        save_dir: folder for the new run; missing or empty. It appears at the end, whole.
        remove: names of classes.
        rename: "old=new".
        seed: of generated features, initial weights and batches; the run's own by default.
        opts: overrides of the run's config as ``key=value``, such as where word vectors are.
        evaluate: also take the IoU of the seen classes on the validation set.
        on_progress: told what is being done.
        trained: ``trained_run(run_dir)``, if it is open already; what it has loaded and computed
            serves again, and serves the next change.

    Raises:
        UserError: a name that is no class or is one already, a word without a vector, a run that
            cannot be changed, or a ``save_dir`` that is in use. Nothing is written then.
    """
    start = time.time()
    _check_free(save_dir, run_dir)
    tell = on_progress or (lambda text, share: None)
    tell("reading the run", 0.0)
    source = _Source.read(run_dir, opts, trained)
    classes, changes = source.classes.changed(names, remove, rename)
    with _written_whole(save_dir) as aside:
        target = _write_description(source, classes, changes, aside, save_dir, seed)
        _check_pretraining(target, changes)
        new = _new_model(source, target, classes, changes, tell)
        save_state(new.state_dict(), target.final_model)
        tell("comparing", 0.9)
        moved = _compare(source, target, classes, changes, new)
        moved.update(_evaluate(source, target, changes, new) if evaluate else
                     {"iou_before": None, "iou_after": None})
        unseen = target.classes.unseen_names
        change = ClassChange(save_dir, classes.names, unseen, *changes,
                             seconds=time.time() - start, **moved)
        _write_record(source, classes, change, aside)
        _keep_trained(source.trained, os.path.join(aside, TRAINED))
    tell("done", 1.0)
    return change


class _Source(NamedTuple):
    """The run to be changed; and ``trained``, as it was before any change."""

    run: Run
    trained: Run
    classes: ClassList
    model: nn.Layer
    opts: Sequence[str]

    @classmethod
    def read(cls, folder: str, opts: Sequence[str], trained: Run | None) -> "_Source":
        run = Run.open(folder)
        if not os.path.isfile(run.final_model):
            raise UserError(f"no model.pdparams in {folder}; name the folder of a finished run, "
                            f"such as output/demo")
        names, is_changed = run.classes.names, _is_changed(folder)
        classes = ClassList.read(folder, names) if is_changed else ClassList.trained(names)
        trained = trained or trained_run(folder, list(filter(_is_of_vectors, opts)))
        return cls(run, trained, classes, run.builder.trained_segmentor(run.final_model), opts)


def trained_run(folder: str, opts: Sequence[str] = ()) -> Run:
    """Open the run in a folder as it was trained, before any change of its classes.

    ``opts`` override its config unless it was changed, but for the word vectors: with those of
    training the new ones are compared. Their file may have moved: another one, of ``opts`` or of
    the changed run, is read in its place if it has the very vectors.
    """
    place, own = (os.path.join(folder, TRAINED), []) if _is_changed(folder) else (
        folder, [item for item in opts if not _is_of_vectors(item)])
    run = Run.open(place, own)
    path = Run.open(folder, opts).config.settings.zero_shot.embeddings.path
    if path == run.config.settings.zero_shot.embeddings.path:
        return run
    moved = Run.open(place, own, {"zero_shot.embeddings.path": path or DEFAULT})
    with contextlib.suppress(UserError):  # told of where new classes are looked up in that file
        return moved if has_vectors_of_training(moved) else run
    return run


def _is_of_vectors(item: str) -> bool:
    return item.startswith("zero_shot.embeddings")


def _is_changed(folder: str) -> bool:
    return os.path.isdir(os.path.join(folder, TRAINED)) \
        and not os.path.isdir(os.path.join(folder, "segmentor"))


def _check_free(save_dir: str, run_dir: str) -> None:
    require_written_out(save_dir, "--save_dir")
    inside, run = os.path.realpath(save_dir), os.path.realpath(run_dir)
    if os.path.commonpath([inside, run]) == run and inside != run:
        raise UserError(f"--save_dir {save_dir} lies in {run_dir}, which is left as it is; name a "
                        f"folder beside it")
    if os.path.exists(save_dir) and (not os.path.isdir(save_dir) or os.listdir(save_dir)):
        raise UserError(f"--save_dir {save_dir} is there already and not empty; name another "
                        f"folder, for nothing is replaced")


@contextlib.contextmanager
def _written_whole(folder: str) -> Iterator[str]:
    """A folder beside ``folder`` that takes its place if the block succeeds, or else goes."""
    try:
        aside = folder_aside(folder)
    except OSError as error:
        raise UserError(f"--save_dir {folder} cannot be made ({error.strerror}); choose "
                        f"another") from None
    try:
        yield aside
        try:
            os.rename(aside, folder)
        except OSError as error:
            raise UserError(f"--save_dir {folder} was made by something else meanwhile "
                            f"({error.strerror}); name another") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_description(source: _Source, classes: ClassList, changes: Changes, aside: str,
                       save_dir: str, seed: int | None) -> Run:
    """Write ``config.yml`` and ``classes.json`` and return the run that they describe."""
    table = source.run.classes
    seen = {changes.renamed.get(name, name)
            for name in set(table.seen_names) - set(changes.removed)}
    unseen = [class_id for class_id, name in enumerate(classes.names)
              if name in changes.added or name not in seen]
    if not unseen:
        raise UserError("no unseen class would be left; keep one, or add another instead")
    if len(unseen) == len(classes.names):
        raise UserError("no seen class would be left; keep one")
    palette = visualize.colors_by_name(
        table.palette, [changes.renamed.get(name, name) for name in table.names], classes.names)
    new = ClassTable(classes.names, np.array(unseen, np.int64), palette)
    write_json(os.path.join(aside, CLASSES_FILE), new.describe())
    config = Run.open(source.run.save_dir, source.opts,
                      {} if source.run.config.projection else {"classifier.seed": seed}).config
    content = _config_of(copy.deepcopy(config.given), source.run, new, changes)
    _require_unlearned(changes.added, content["zero_shot"]["label_names"], source.trained.classes)
    content["save_dir"] = os.path.normpath(save_dir)
    write_text(os.path.join(aside, CONFIG_FILE), dump_yaml(content))
    return Run.open(aside)


def _require_unlearned(added: Iterable[str], labels: Sequence[str], trained: ClassTable) -> None:
    """Insist that an added class, which counts as unseen, has no label that was seen in training.

    ``labels`` are the names of the data set's labels after the changes, by id.
    """
    before = dict(zip(map(fold_name, labels), trained.label_names or trained.names))
    seen = set(map(fold_name, trained.seen_names))
    for name in added:
        old = before.get(fold_name(name))
        if old is not None and fold_name(old) in seen:
            raise UserError(f"{name} was a seen class in training, so that its scores as an unseen "
                            f"one would not be zero-shot; go on from a run that still has it, or "
                            f"give another name, which has no labels, such as \"{name} 2={name}\"")


def _check_pretraining(target: Run, changes: Changes) -> None:
    """Tell of new classes that were named in pretraining, or refuse them if the config does."""
    pretraining = pretraining_of(target.config, list(changes.added))
    pretraining.require_allowed(target.config)
    for warning in pretraining.warnings() if changes.added else ():
        logger.warning("; ".join(warning))


def _config_of(content: dict[str, Any], run: Run, table: ClassTable,
               changes: Changes) -> dict[str, Any]:
    """The config with the new classes; the data set's labels are told by their names."""
    for section in ("train_dataset", "val_dataset"):
        if "num_classes" in content[section]:
            content[section]["num_classes"] = len(table.names)
    content["model"]["num_classes"] = len(table.names)
    zero_shot = content["zero_shot"]
    labels = list(run.classes.label_names or run.classes.names)
    zero_shot["label_names"] = _renamed_labels(labels, changes.renamed)
    zero_shot["class_names"] = list(table.names)
    zero_shot["unseen"] = table.unseen_names
    embeddings = zero_shot["embeddings"] = dict(zero_shot.get("embeddings") or {})
    words = dict(embeddings.get("words") or {})
    for name in changes.removed:
        words.pop(name, None)
    words.update({new: words.pop(old, None) or words_of(old, embeddings.get("path"))
                  for old, new in changes.renamed.items()})
    words.update({name: text for name, text in changes.added.items() if text != name})
    embeddings["words"] = words
    if changes.added and content.pop("self_training", None) is not None:
        logger.warning("the run was self-trained, which needs its images; the new layer is trained "
                       "without, as stage classifier does")
    return content


def _renamed_labels(labels: Sequence[str], renamed: dict[str, str]) -> list[str]:
    by_folded = {fold_name(old): new for old, new in renamed.items()}
    result = [by_folded.get(fold_name(label), label) for label in labels]
    folded = list(map(fold_name, result))
    for old, new in renamed.items():
        if folded.count(fold_name(new)) > 1:
            raise UserError(f"--rename {old}={new}: the labels of the data set know another class "
                            f"{new}; choose another name")
    return result


def _new_model(source: _Source, target: Run, classes: ClassList, changes: Changes,
               tell: Progress) -> nn.Layer:
    """The final model of ``target``."""
    axes = source.trained.context.loaded(
        "class axes", lambda: class_axes(source.run.builder, source.model))
    with paddle.utils.unique_name.guard():
        new = target.builder.new_segmentor(pretrained=False)
    take_over(source.model, new, axes, classes.positions_in(source.classes, changes.renamed),
              source.run.final_model)
    layer_name, layer = source.run.builder.classification_layer(source.model)
    if changes.added or changes.removed:
        require_classless_features(new, len(classes.names), layer_name, axes,
                                   target.builder.img_channels)
    if not changes.added:
        keep_layer(source.trained, source.run, target)
        return new
    if target.config.projection:
        values = folded_projection(source.trained, target, classes, axes, tell)
    else:
        values = new_layer(source.trained, target, classes, layer.bias is not None, tell)
    put_back(dict(new.named_sublayers())[layer_name], values)
    return new


def _compare(source: _Source, target: Run, classes: ClassList, changes: Changes,
             new: nn.Layer) -> dict[str, Any]:
    """``before``, ``after`` and ``taken`` of ``ClassChange``."""
    if "features" not in source.trained.stages or not source.trained.is_finished("features"):
        return {"before": None, "after": None, "taken": {}}
    bank, scale = source.trained.context.bank, source.trained.context.scale
    seen = {class_id: classes.trained_ids[class_id] for class_id in target.classes.seen_ids
            if bank.counts[classes.trained_ids[class_id]]}
    places = classes.positions_in(source.classes, changes.renamed)
    first, second = (run.builder.classification_layer(model)[1] for run, model in (
        (source.run, source.model), (target, new)))
    before, after, taken = {}, {}, dict.fromkeys(changes.added, 0.0)
    for class_id, trained_id in seen.items():
        features, name = scale.undone(bank.of(trained_id)), classes.names[class_id]
        before[name] = float((_predict(first, features) == places[class_id]).mean())
        shares = np.bincount(_predict(second, features), minlength=len(places)) / len(features)
        after[name] = float(shares[class_id])
        for added in taken:
            taken[added] += float(shares[classes.names.index(added)]) / len(seen)
    return {"before": before, "after": after, "taken": taken}


def _predict(layer: nn.Conv2D, features: np.ndarray) -> np.ndarray:
    """int64 [K]: the class to which a 1×1 convolution gives each of float32 [K, D] features."""
    logits = features.astype(np.float32, copy=False) @ layer.weight.numpy()[:, :, 0, 0].T
    return (logits if layer.bias is None else logits + layer.bias.numpy()).argmax(1)


def _evaluate(source: _Source, target: Run, changes: Changes,
              new: nn.Layer) -> dict[str, dict[str, float]]:
    """``iou_before`` and ``iou_after`` of ``ClassChange``; writes ``metrics.json``."""
    run = Run.open(source.run.save_dir, source.opts)
    builder = ZeroShotBuilder(run.config)
    old_scores = evaluate_as_configured(builder, source.model, new_evaluator(builder)
                                  ).compute()["class_iou"]
    old = {changes.renamed.get(name, name): float(iou)
           for name, iou in zip(source.classes.names, old_scores)}
    config = ZeroShotConfig(os.path.join(target.save_dir, CONFIG_FILE))
    metrics = score(ZeroShotBuilder(config), new)
    write_json(os.path.join(target.save_dir, "metrics.json"), metrics)
    after = {item["name"]: item["iou"] for item in metrics["classes"] if item["seen"]}
    return {"iou_before": {name: old[name] for name in after}, "iou_after": after}


def _write_record(source: _Source, classes: ClassList, change: ClassChange, aside: str) -> None:
    """Write what was done, now and before."""
    earlier = read_json(os.path.join(source.run.save_dir, VOCABULARY_FILE)) \
        if _is_changed(source.run.save_dir) else {}
    done = {key: value for key, value in change._asdict().items()
            if key not in ("save_dir", "classes", "unseen")}
    write_json(os.path.join(aside, VOCABULARY_FILE), {
        **classes.describe(), "changes": [*earlier.get("changes", []), done],
        "versions": versions()})


def _keep_trained(run: Run, folder: str) -> None:
    """Link, or else copy, what another change needs of the trained run into ``folder``."""
    stages = ("segmentor", "features") if run.config.projection else ("features", "generator")
    results = (path for stage in stages if stage in run.stages for path in (
        run.output(stage), os.path.join(run.folder(stage), STAGE_FILE)))
    for path in (*(os.path.join(run.save_dir, name) for name in (CONFIG_FILE, CLASSES_FILE)),
                 *results):
        copied = os.path.join(folder, os.path.relpath(path, run.save_dir))
        if not os.path.isfile(path):
            continue
        os.makedirs(os.path.dirname(copied), exist_ok=True)
        try:
            os.link(path, copied)
        except OSError:
            shutil.copy2(path, copied)
    if not os.path.isfile(os.path.join(folder, CLASSES_FILE)):
        write_json(os.path.join(folder, CLASSES_FILE), run.classes.describe())
