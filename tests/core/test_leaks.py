"""Nothing of an unseen class reaches a weight: what may not matter is changed, no bit differs.

Class ids of the data: 0 background, 1 cat, 2 dog, 3 cow, 4 car; cow and car are unseen.
"""

import os
from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset
from PIL import Image

from helpers.fabricated import pairs, read_label, write_label
from helpers.tiny_runs import Finished, cells, custom, differing, digest, recorded, run_all
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import train

UNSEEN = (3, 4)
# Long enough that more is predicted than the background.
LONGER = ("iters=24", "save_interval=12", "lr_scheduler.learning_rate=0.01")
CLOSED = ("classifier.mode=closed_form",)
RIDGE = ("generator.model={'type': 'RidgePrototypes'}", "generator.relation=prototypes")
DROP, IGNORE = "zero_shot.policy=drop", "zero_shot.policy=ignore"


def holds_unseen(label: np.ndarray) -> bool:
    return bool(np.isin(label, UNSEEN).any())


def overwrite_unseen_images(root: str, split: str) -> int:
    """Noise for pixels and labels of every image that shows an unseen class.

    The labels keep one unseen pixel, for an image without any would be a seen one.
    """
    rng, number = np.random.default_rng(9), 0
    for image_path, label_path in pairs(root, split):
        label = read_label(label_path)
        if not holds_unseen(label):
            continue
        number += 1
        noise = rng.integers(0, 256, (*label.shape, 3), np.uint8)
        Image.fromarray(noise).save(image_path, quality=95)
        label = rng.integers(0, 5, label.shape).astype(np.uint8)
        label[0, 0] = 3
        write_label(label_path, label)
    return number


def remove_unseen_images(root: str, split: str) -> int:
    """Take every image that shows an unseen class out of the list."""
    kept, removed = [], 0
    for image_path, label_path in pairs(root, split):
        if holds_unseen(read_label(label_path)):
            removed += 1
        else:
            kept.append(f"{os.path.relpath(image_path, root)} "
                        f"{os.path.relpath(label_path, root)}\n")
    with open(os.path.join(root, f"{split}.txt"), "w", encoding="utf-8") as file:
        file.writelines(kept)
    return removed


def renaming(mapping: dict[int, int]) -> Callable[[str, str], int]:
    """Write other ids into the labels."""
    table = np.arange(256, dtype=np.uint8)
    table[list(mapping)] = list(mapping.values())

    def change(root: str, split: str) -> int:
        number = 0
        for _, label_path in pairs(root, split):
            label = read_label(label_path)
            number += holds_unseen(label)
            write_label(label_path, table[label])
        return number

    return change


def same_training(first: Finished, second: Finished) -> None:
    """Weights, statistics of batch norm, bank and choice of checkpoint, bit for bit."""
    generated = ["generator"] if os.path.exists(first.path("generator")) else []
    for name in ("segmentor/iter_12", "segmentor/iter_24", "segmentor/best_model", "segmentor",
                 *generated, "classifier", ""):
        assert not differing(first.weights(name), second.weights(name)), name
    if os.path.exists(first.path("features")):
        one, other = (run.path("features", "bank.npz") for run in (first, second))
        assert digest(one) == digest(other)
    assert selection(first) == selection(second)


def selection(run: Finished) -> list:
    """The scores by which the checkpoint was chosen."""
    scores = recorded(run.path("segmentor"))["Evaluate/selection_miou"]
    assert list(scores) == [12, 24]
    return list(scores.values())


@pytest.fixture(scope="module", params=[DROP, IGNORE], ids=["drop", "ignore"])
def original(request, tmp_path_factory) -> Finished:
    """A run under each policy, with its data in ``data`` beside its folder."""
    base = tmp_path_factory.mktemp("original")
    recipe = custom(str(base / "data"), str(base / "cache"), num_val=8)
    recipe = recipe._replace(opts=(*recipe.opts, *LONGER, request.param,
                                   "classifier.calibration=auto", "classifier.seen_cost=0.5"))
    return run_all(recipe, base / "run")


@pytest.fixture(scope="module")
def closed(original, tmp_path_factory) -> dict[tuple, Finished]:
    """The same run with layers in closed form, by their options."""
    runs = {}
    for opts in (CLOSED, (*CLOSED, *RIDGE)):
        runs[opts] = original.copy(tmp_path_factory.mktemp("closed") / "run")
        runs[opts].again(*opts)
    return runs


def policy(run: Finished) -> str:
    return run.metrics["config"]["zero_shot"]["policy"]


def run_on_changed_data(original: Finished, folder, change, splits=("train", "val"),
                        **flags) -> Finished:
    """The same run on a changed copy of the data."""
    recipe = original.moved(folder)
    for split in splits:
        assert change(os.path.join(folder, "data", "custom"), split) > 0
    return run_all(recipe, os.path.join(folder, "run"), **flags)


CHANGES = {
    "drop": {"overwritten": overwrite_unseen_images, "removed": remove_unseen_images},
    "ignore": {"swapped": renaming({3: 4, 4: 3}), "unlabelled": renaming({3: 255, 4: 255})},
}


@pytest.mark.parametrize("number", [0, 1])
def test_unseen_classes_change_no_bit(original, closed, tmp_path, number):
    """Training and validation data at once: neither training nor selection may notice."""
    change = list(CHANGES[policy(original)].values())[number]
    changed = run_on_changed_data(original, tmp_path, change)
    same_training(original, changed)
    # The final scores look at every class, so that the change is there to be seen.
    assert changed.metrics["classes"] != original.metrics["classes"]
    for place, (opts, expected) in enumerate(closed.items()):
        run = changed.copy(tmp_path / f"closed{place}")
        run.again(*opts)
        same_training(expected, run)


def test_seen_classes_do_change_bits(original, tmp_path):
    """The control: the comparison notices a change that may matter."""
    changed = run_on_changed_data(original, tmp_path, renaming({1: 2, 2: 1}), ["train"],
                                  stage="segmentor")
    with pytest.raises(AssertionError):
        same_training(original, changed)


def test_selection_depends_on_seen_classes(original, tmp_path):
    """The control for the choice of the checkpoint: seen pixels of validation do count."""
    changed = run_on_changed_data(original, tmp_path, renaming({0: 1, 1: 0}), ["val"],
                                  stage="segmentor")
    first, second = selection(original)
    assert first != second and selection(changed) not in ([first, second], [second, first])


# Projections onto the embeddings.

PROJECTIONS = {"spnet/spnet_custom": (DROP, overwrite_unseen_images),
               "segdevise/segdevise_custom": (IGNORE, renaming({3: 255, 4: 255}))}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_unseen_classes_change_no_bit_of_a_projection(name, tmp_path):
    """The network knows the embeddings of unseen classes, and nothing else of them."""
    option, change = PROJECTIONS[name]
    recipe = custom(str(tmp_path / "data"), str(tmp_path / "cache"), name, num_val=8)
    recipe = recipe._replace(opts=(*recipe.opts, *LONGER, option, "classifier.calibration=auto",
                                   "classifier.seen_cost=auto"))
    first = run_all(recipe, tmp_path / "run")
    changed = run_on_changed_data(first, tmp_path / "changed", change)
    same_training(first, changed)
    assert changed.open().calibration == first.open().calibration
    assert changed.metrics["classes"] != first.metrics["classes"]
    control = run_on_changed_data(first, tmp_path / "control", renaming({1: 2, 2: 1}), ["train"],
                                  stage="segmentor")
    with pytest.raises(AssertionError):
        same_training(first, control)


def test_validation_images_with_unseen_classes_alone(tmp_path, capsys):
    """With policy drop nothing is left to choose by: the last checkpoint, and it is said."""
    recipe = custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    root = str(tmp_path / "data" / "custom")
    with open(os.path.join(root, "val.txt"), "w", encoding="utf-8") as file:
        for image, label in pairs(root, "train"):
            if holds_unseen(read_label(label)):
                file.write(f"{image} {label}\n")
    train.main(recipe.argv(DROP, save_dir=tmp_path / "run", stage="segmentor"))
    assert "the last checkpoint is taken" in capsys.readouterr().out
    folder = str(tmp_path / "run" / "segmentor")
    assert not os.path.exists(os.path.join(folder, "best_model"))
    assert digest(os.path.join(folder, "model.pdparams")) == digest(
        os.path.join(folder, "iter_4", "model.pdparams"))


# The feature bank.

def features_by_pixel(run: Finished) -> tuple:
    """Sets of the features of seen and of unseen training pixels, as bytes, computed here."""
    builder = run.builder()
    builder.model.set_state_dict(paddle.load(run.path("segmentor", "model.pdparams")))
    builder.model.eval()
    kept = []
    builder.model.head.decoder.conv.register_forward_pre_hook(
        lambda layer, inputs: kept.append(inputs[0].numpy()[0]))
    seen, unseen = set(), set()
    plain = builder.val_dataset.transforms
    for image_path, label_path in builder.train_dataset.dataset.file_list:
        data = plain({"img": image_path, "trans_info": []})
        with paddle.no_grad():
            builder.model(paddle.to_tensor(data["img"][None]))
        for value, feature in cells(kept.pop(), read_label(label_path)):
            if value != 255:
                (unseen if value in UNSEEN else seen).add(feature.tobytes())
    return seen, unseen


def test_bank_holds_features_of_seen_pixels_alone(original):
    bank = FeatureBank.load(original.path("features", "bank.npz"))
    seen, unseen = features_by_pixel(original)
    rows = {row.tobytes() for row in bank.features}
    assert len(rows) > 64 and rows <= seen and not rows & unseen
    assert len(unseen) > 64


@pytest.mark.parametrize("name", ["shapes", "voc", "context", "custom"])
def test_bank_counts_no_unseen_pixel(finished, name):
    run = finished(name)
    bank = FeatureBank.load(run.path("features", "bank.npz"))
    unseen = [not item["seen"] for item in run.metrics["classes"]]
    assert not bank.counts[unseen].any() and not bank.pixel_counts[unseen].any()
    assert bank.counts.sum() > 0


def test_extraction_leaves_batch_norm_alone(original, tmp_path):
    copy = original.copy(tmp_path / "run")
    run = copy.open()
    run.stage("features").run(run.context)
    after = {key: value.numpy() for key, value in run.context.segmentor.state_dict().items()}
    assert any(key.endswith("._mean") for key in after)
    assert not differing(copy.weights("segmentor"), after)
    assert digest(copy.path("features", "bank.npz")) == digest(
        original.path("features", "bank.npz"))


def test_bank_with_unseen_features_is_refused(original, tmp_path):
    """A bank from elsewhere, put in place of the run's own."""
    copy = original.copy(tmp_path / "run").without_checksums()
    bank = FeatureBank.load(copy.path("features", "bank.npz"))
    counts = bank.counts.copy()
    counts[[2, 3]] = counts[[2, 3]] + [-1, 1]
    FeatureBank(bank.features, counts, bank.pixel_counts).save(copy.path("features", "bank.npz"))
    with pytest.raises(ValueError, match="bank.npz holds features of unseen classes"):
        copy.again(stage="generator")


# Data sets that do not keep to the rules.

class _Five(Dataset):
    NUM_CLASSES = 5
    IGNORE_INDEX = 255


class _Liar(_Five):
    """Shows the scan files without unseen classes and gives samples with them."""

    def __getitem__(self, index):
        data = super().__getitem__(index)
        data["label"] = np.where(data["label"] == 1, 3, data["label"]).astype(np.uint8)
        return data


class _Miscounter(_Five):
    """Has a histogram of its own that denies unseen classes."""

    def label_histogram(self):
        return np.tile([9, 9, 9, 0, 0], (len(self.file_list), 1))


class _Painter:
    """A transform that paints a pixel in an unseen class."""

    def __call__(self, data):
        if "label" in data:
            data["label"] = np.array(data["label"])
            data["label"][0, 0] = 4
        return data


@pytest.fixture
def registered(monkeypatch):
    for registry, component in ((manager.DATASETS, _Liar), (manager.DATASETS, _Miscounter),
                                (manager.TRANSFORMS, _Painter)):
        monkeypatch.setitem(registry._components_dict, component.__name__, component)


PAINT = "transforms=[{'type': '_Painter'}, {'type': 'Normalize'}]"


@pytest.mark.parametrize("policy, opt", [
    (DROP, "type=_Liar"), (DROP, "type=_Miscounter"), (DROP, PAINT), (IGNORE, PAINT),
], ids=["liar", "miscounter", "painter-drop", "painter-ignore"])
def test_data_set_that_lies_is_stopped(finished, tmp_path, registered, policy, opt):
    recipe = finished("custom").recipe
    with pytest.raises(RuntimeError, match="must never happen: .* with the unseen class c"):
        train.main(recipe.argv(policy, f"train_dataset.{opt}", "batch_size=1", "iters=24",
                               "save_interval=24", save_dir=tmp_path))
    assert not list(tmp_path.glob("**/*.pdparams"))


@pytest.mark.parametrize("policy", [DROP, IGNORE])
def test_feature_transforms_that_paint_are_stopped(finished, tmp_path, registered, policy):
    recipe = finished("custom").recipe
    with pytest.raises(RuntimeError, match="must never happen: .* with the unseen class car"):
        train.main(recipe.argv(policy, f"zero_shot.features.{PAINT}", save_dir=tmp_path))
    assert not (tmp_path / "features" / "bank.npz").exists()


def test_selection_set_is_guarded(finished, registered):
    """The validation samples that choose a checkpoint pass the same guard."""
    builder = finished("custom").builder(f"val_dataset.{PAINT}")
    with pytest.raises(RuntimeError, match="must never happen: .* with the unseen class car"):
        builder.selection_dataset[0]
    assert 4 in np.unique(builder.val_dataset[0]["label"])
