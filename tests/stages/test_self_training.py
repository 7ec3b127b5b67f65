"""Self-training: which images and pixels are taken, that no label is, and the stage in a run."""

import os

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from helpers.fabricated import read_label, write_label
from helpers.tiny_runs import STAGES, config_path, differing, recorded, run_all, zs3net
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import LabelScan, ZeroShotDataset
from paddle_csrl.datasets.unlabelled import UnlabelledImages
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.stages import self_training
from paddle_csrl.stages.self_training import PseudoLabelledBatches, most_confident
from paddle_csrl.utils import read_json

ON = "self_training={'share': 0.5}"
DROP, IGNORE = "zero_shot.policy=drop", "zero_shot.policy=ignore"
UNSEEN = (3, 4)


# Parts.

@pytest.mark.parametrize("share", [0.25, 0.5, 1.0, 1e-9])
def test_the_most_confident_share_of_each_class_is_kept(share):
    rng = np.random.default_rng(0)
    counts = np.array([0, 7, 0, 1, 12])
    features = rng.normal(size=(20, 3)).astype(np.float32)
    sample = FeatureBank(features, counts, counts * 10)
    found = most_confident(sample, share)
    assert found.counts.tolist() == [int(np.ceil(share * count)) for count in counts]
    for class_id in (1, 3, 4):
        rows = sorted(sample.of(class_id).tolist(), key=lambda row: -row[-1])
        kept = {tuple(row[:-1]) for row in rows[:found.counts[class_id]]}
        assert {tuple(row) for row in found.of(class_id).tolist()} == kept
    assert found.feature_dim == 2 and np.array_equal(found.pixel_counts, counts * 10)


def test_of_no_predictions_nothing_is_kept():
    none = np.zeros(3, np.int64)
    found = most_confident(FeatureBank(np.zeros((0, 4), np.float32), none, none), 0.5)
    assert found.features.shape == (0, 3) and not found.counts.any()


def test_real_features_are_mixed_with_generated_ones():
    counts = np.array([4, 0, 0, 4])
    bank = FeatureBank(np.ones((8, 2), np.float32), counts, counts)
    # Class 1 has pseudo-labelled features, 5 to 7, class 2 has none; generated ones are negative.
    pseudo = FeatureBank(np.array([[5, 5], [6, 6], [7, 7]], np.float32), np.array([0, 3, 0, 0]),
                         np.array([0, 3, 0, 0]))
    generated = np.stack([np.full((6, 2), -1), np.full((6, 2), -2)]).astype(np.float32)
    batches = PseudoLabelledBatches(
        bank, generated, np.array([1, 2]), 500, unseen_share=0.5, class_balance="balanced",
        length=20, seed=0, pseudo=pseudo, pseudo_share=0.3)
    items = [batches[index] for index in range(20)]
    values = np.concatenate([item["img"][0, :, 0] for item in items])
    labels = np.concatenate([item["label"][:, 0] for item in items])
    assert (values[np.isin(labels, [0, 3])] == 1).all() and (values[labels == 2] == -2).all()
    of_one = values[labels == 1]
    assert set(of_one) == {-1, 5, 6, 7} and abs((of_one > 0).mean() - 0.3) < 0.03
    assert (generated[0] == -1).all()
    assert np.array_equal(batches[3]["img"], items[3]["img"])


def test_unlabelled_images_are_images_and_nothing_else(finished):
    builder = finished("zs3net").builder(DROP)
    dataset = builder.unlabelled_dataset
    assert isinstance(dataset, UnlabelledImages) and not hasattr(dataset, "file_list")
    for index, path in enumerate(dataset.paths):
        item = dataset[index]
        assert list(item) == ["img", "shown"] and item["shown"].all()
        assert item["shown"].shape == item["img"].shape[1:]
        whole = builder.val_dataset.dataset.transforms({"img": path, "trans_info": []})
        assert np.array_equal(item["img"], whole["img"]) and item["img"].dtype == np.float32


def test_with_drop_these_are_the_images_left_out_and_with_ignore_the_unlabelled_ones(finished):
    for policy in (DROP, IGNORE):
        builder = finished("zs3net").builder(policy)
        expected = []
        for image, label in builder.train_dataset.dataset.file_list:
            values = read_label(label)
            if np.isin(values, UNSEEN).any() or (policy == IGNORE and (values == 255).any()):
                expected.append(image)
        assert builder.unlabelled_dataset.paths == expected and expected
        used = {image for image, _ in builder.train_dataset.file_list}
        assert (not used & set(expected)) == (policy == DROP)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xd8 cut"])
def test_a_broken_image_is_named(finished, tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    dataset = UnlabelledImages([str(path)], finished("zs3net").builder().val_dataset.transforms)
    with pytest.raises(UserError, match="image .*broken.jpg"):
        dataset[0]


def test_nothing_unlabelled_is_said(finished):
    builder = finished("zs3net").builder(DROP)
    dataset = builder.train_dataset
    counts = dataset._scan.counts.toarray()
    counts[:, list(UNSEEN)] = 0
    dataset._scan = LabelScan.of_dense(counts)
    with pytest.raises(UserError, match="`self_training` has nothing to learn from"):
        dataset.unlabelled_images


def test_a_data_set_without_files_is_refused():
    class Arrays(paddle.io.Dataset):
        num_classes, class_names = 2, ["dog", "cow"]

        def __len__(self):
            return 3

    with pytest.raises(UserError, match="`self_training` needs a data set with a file_list"):
        ZeroShotDataset(Arrays(), ["cow"], "ignore").unlabelled_images


# The stage.

def train_under(policy, base):
    """A run with self-training, with its data beside its folder."""
    recipe = zs3net(str(base / "data"), str(base / "cache"))
    return run_all(recipe._replace(opts=(*recipe.opts, policy, ON, "do_eval=False",
                                         "use_vdl=False")), base / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_under(DROP, tmp_path_factory.mktemp("drop"))


@pytest.fixture(scope="module")
def trained_with_ignore(tmp_path_factory):
    return train_under(IGNORE, tmp_path_factory.mktemp("ignore"))


@pytest.fixture(params=["trained", "trained_with_ignore"], ids=["drop", "ignore"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run under `drop`, to be changed."""
    return trained.copy(tmp_path / "run")


def test_predictions_and_their_features_by_hand(either):
    """Each pixel by itself, in NumPy, from what enters the last layer."""
    run = either.open()
    model = run.builder.trained_segmentor(either.path("model.pdparams"))
    sample = self_training.sample_predictions(run.context, model, 10**6)
    entered = []
    layer = model.head.decoder.conv
    hook = layer.register_forward_pre_hook(
        lambda layer, inputs: entered.append(inputs[0].numpy()[0]))
    model.eval()
    rows, counts = [], np.zeros(5, int)
    weight, bias = layer.weight.numpy()[:, :, 0, 0], layer.bias.numpy()
    for index in range(len(run.builder.unlabelled_dataset)):
        with paddle.no_grad():
            model(paddle.to_tensor(run.builder.unlabelled_dataset[index]["img"][None]))
        features = entered.pop().reshape(len(weight[0]), -1).T
        for feature in features:
            logits = weight @ feature + bias
            best = int(logits.argmax())
            if best in UNSEEN:
                counts[best] += 1
                confidence = 1 / np.exp(logits - logits.max()).sum()
                rows.append([best, *feature, confidence])
    hook.remove()
    assert sample.pixel_counts.tolist() == counts.tolist() and counts.sum() > 50
    assert sample.counts.tolist() == counts.tolist()
    found = np.concatenate([np.repeat(np.arange(5), sample.counts)[:, None], sample.features], 1)
    rows = np.array(rows, np.float32)
    order = [np.lexsort(part.T[::-1].round(3)) for part in (found, rows)]
    np.testing.assert_allclose(found[order[0]], rows[order[1]], rtol=1e-3, atol=2e-3)


def test_padding_is_no_pixel_of_an_image(either):
    padded = ("val_dataset.transforms=[{'type': 'Padding', 'target_size': [128, 96]}, "
              "{'type': 'Normalize'}]")
    run = either.open(padded)
    model = run.builder.trained_segmentor(either.path("model.pdparams"))
    layer = model.head.decoder.conv
    layer.bias.set_value(np.array([0, 0, 0, 1e6, 0], np.float32))  # all is a cow
    sample = self_training.sample_predictions(run.context, model, 10**6)
    dataset, inside = run.builder.unlabelled_dataset, 0
    with paddle.no_grad():
        stride = 96 // run.builder.feature_extractor(model)(
            paddle.to_tensor(dataset[0]["img"][None])).shape[2]
    for path in dataset.paths:
        height, width = cv2.imread(path).shape[:2]
        inside += len([None for y in range(stride // 2, height, stride)
                       for x in range(stride // 2, width, stride)])
    assert sample.pixel_counts.tolist() == [0, 0, 0, inside, 0] and inside
    # Where it was labelled once, the stage is made anew.
    names = [set(one.inputs("self_training")) for one in (run, either.open())]
    assert names[0] - names[1] == {"padding"}


def test_the_sample_is_bounded(trained):
    run = trained.open()
    model = run.builder.trained_segmentor(trained.path("model.pdparams"))
    sample = self_training.sample_predictions(run.context, model, 5)
    assert sample.counts.max() == 5 and sample.pixel_counts.max() > 5


def test_without_predictions_all_is_generated_and_that_is_said(run, capsys):
    run.again("classifier.calibration=-1000.0")
    assert "no pixel is predicted as cow, car, whose features" in capsys.readouterr().out


def test_the_run_is_called_transductive(trained, finished, capsys):
    assert read_json(trained.path("metrics.json"))["transductive"] is True
    assert trained.val()["transductive"] is True
    assert "transductive" not in finished("zs3net").metrics
    capsys.readouterr()
    trained.again()
    lines = [line for line in capsys.readouterr().out.splitlines() if "transductive" in line]
    number = len(trained.builder().unlabelled_dataset)
    assert len(lines) == 3
    assert f"transductive: {number} images without their labels; pretraining: none" in lines[0]
    assert [line.strip("| ") for line in lines[1:]] == ["transductive"] * 2  # both tables


def test_the_layer_alone_is_new(trained):
    changed = differing(trained.weights("segmentor"), trained.weights())
    assert sorted(changed) == ["head.decoder.conv.bias", "head.decoder.conv.weight"]
    assert differing(trained.weights("self_training"), trained.weights("classifier"))


def test_the_stages_before_are_those_of_a_run_without(finished, tmp_path):
    run = finished("zs3net").copy(tmp_path / "run")
    changed = run.redo(ON)
    assert changed >= {"self_training", "model.pdparams"} and not changed & set(STAGES)
    *_, last = recorded(run.path("self_training"))["Evaluate/hiou"].items()
    assert last == (4, pytest.approx(read_json(run.path("metrics.json"))["hiou"], abs=1e-6))


def test_a_second_run_does_nothing(run, capsys):
    assert not run.redo() & {"model.pdparams", "self_training"}
    assert "[self_training] up to date" in capsys.readouterr().out


@pytest.mark.parametrize("opt, redone", [
    ("self_training.share=0.25", {"self_training"}),
    ("self_training.pseudo_share=1.0", {"self_training"}),
    ("self_training.seed=5", {"self_training"}),
    ("self_training.rounds=2", {"self_training"}),
    ("self_training.log_iters=2", set()),
    ("classifier.iters=3", {"classifier", "self_training"}),
])
def test_changes_run_again_what_depends_on_them(trained, run, opt, redone):
    run.again(opt)
    assert {stage for stage in ("classifier", "self_training")
            if differing(trained.weights(stage), run.weights(stage))} == redone


def test_the_final_model_follows_the_section(finished, tmp_path):
    """On, off and on again: the final model is never that of another config."""
    run = finished("zs3net").copy(tmp_path / "run")
    plain, found = run.weights(), []
    for opts in ([ON], [], [], [ON], ["self_training=null"]):
        assert run.again(*opts).get("transductive", False) is (opts == [ON])
        found.append(run.weights())
    assert [bool(differing(plain, weights)) for weights in found] == [True, False, False, True,
                                                                      False]
    assert not differing(found[0], found[3])


def test_every_image_goes_through_the_backbone_once_a_round(run, monkeypatch):
    calls, call = [], FeatureExtractor.__call__

    def counted(self, images):
        calls.append(images.shape[0])
        return call(self, images)

    monkeypatch.setattr(FeatureExtractor, "__call__", counted)
    run.again("self_training.rounds=2")
    assert calls == [1] * 2 * len(run.builder().unlabelled_dataset)


def test_a_round_labels_with_the_layer_of_the_round_before(trained, run, monkeypatch):
    layers, sample = [], self_training.sample_predictions

    def recorded(context, segmentor, bound):
        layers.append(segmentor.head.decoder.conv.weight.numpy())
        return sample(context, segmentor, bound)

    monkeypatch.setattr(self_training, "sample_predictions", recorded)
    run.again("self_training.rounds=2")
    once = trained.weights()["head.decoder.conv.weight"]
    assert len(layers) == 2 and not np.array_equal(layers[0], once)
    assert np.array_equal(layers[1], once)


# No label.

def other_labels(label, policy, rng):
    """Other labels that leave the policy's choice of images as it is."""
    unseen = np.isin(label, UNSEEN)
    if policy == IGNORE:
        return np.where(unseen, rng.choice([3, 4, 255], label.shape), label).astype(np.uint8)
    if unseen.any():
        label = rng.integers(0, 5, label.shape).astype(np.uint8)
        label[0, 0] = 4
    return label


def changed_copy(trained, folder, change):
    """The same run on a copy of its data of which every training pair went through ``change``."""
    recipe = trained.moved(folder)
    for image, label in recipe.builder().train_dataset.dataset.file_list:
        change(image, label)
    return run_all(recipe, folder / "run")


def policy_of(run):
    return f"zero_shot.policy={run.metrics['config']['zero_shot']['policy']}"


def test_labels_of_unlabelled_images_change_no_bit(either, tmp_path):
    rng, number = np.random.default_rng(3), []

    def relabel(_, path):
        label = read_label(path)
        other = other_labels(label, policy_of(either), rng)
        number.append(not np.array_equal(label, other))
        write_label(path, other)

    second = changed_copy(either, tmp_path, relabel)
    assert sum(number) > 3
    for name in ("segmentor", "generator", "classifier", "self_training", ""):
        assert not differing(either.weights(name), second.weights(name)), name


def test_label_files_of_unlabelled_images_are_not_opened(run, monkeypatch):
    """The scan, which the policy needs, is the only one to have read them."""
    dataset, opened = run.builder().train_dataset, []
    labels = {label for image, label in dataset.dataset.file_list
              if image in set(dataset.unlabelled_images)}
    original = Image.open

    def watched(path, *args, **kwargs):
        opened.append(path)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", watched)
    run.again("self_training.seed=1")
    assert labels and not labels & set(map(str, opened))


def test_pixels_of_unlabelled_images_do_matter(trained, tmp_path):
    """The control: other images under the same labels are noticed, by this stage alone."""
    def repaint(image_path, label_path):
        if np.isin(read_label(label_path), UNSEEN).any():
            with Image.open(image_path) as image:
                pixels = 255 - np.array(image)
            Image.fromarray(pixels).save(image_path, quality=95)

    second = changed_copy(trained, tmp_path, repaint)
    same = [stage for stage in ("segmentor", "generator", "classifier", "self_training")
            if not differing(trained.weights(stage), second.weights(stage))]
    assert same == ["segmentor", "generator", "classifier"]


# Mistakes.

@pytest.mark.parametrize("opt, match", [
    ("self_training.share=0", "`self_training.share: 0` must be greater than 0"),
    ("self_training.share=1.5", "self_training.share: 1.5` must"),
    ("self_training.share=many", "self_training.share: many` must"),
    ("self_training.pseudo_share=True", "self_training.pseudo_share: True` must"),
    ("self_training.rounds=0", "`self_training.rounds: 0` must be greater than or equal to 1"),
    ("self_training.samples_per_class=0", "samples_per_class: 0` must be greater than"),
    ("self_training.shares=1", "unknown key `self_training.shares`; did you mean `share`"),
    ("self_training=yes", "`self_training` must hold `key: value` pairs"),
])
def test_a_bad_section_is_refused(finished, opt, match):
    with pytest.raises(UserError, match=match):
        finished("zs3net").recipe.load(opt)


def test_the_stage_needs_its_section(finished, tmp_path):
    run = finished("zs3net")._replace(folder=str(tmp_path))
    with pytest.raises(UserError, match="--stage self_training: .*custom.yml has no `self_"):
        run.again(stage="self_training", save_interval=3)  # which does not add one
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("opt, match", [
    ("self_training={}", "`self_training` trains the layer of stage 3, which a `projection` has"),
    ("classifier.mode=legacy", "`classifier.mode: legacy` works on generated features"),
])
def test_a_projection_has_no_layer_to_train(opt, match):
    with pytest.raises(UserError, match=match):
        ZeroShotConfig(config_path("spnet/spnet_shapes"), [opt])


def test_the_stage_alone(finished, tmp_path):
    run = finished("zs3net").copy(tmp_path / "run")
    with pytest.raises(UserError, match="leave out --iters, for it trains the layer as"):
        run.again(ON, stage="self_training", iters=3)
    # A flag of the stage changes no other one.
    assert run.again(ON, stage="self_training", save_interval=1, log_iters=2)["transductive"]
    trained = run.weights("self_training")
    run.again(ON, resume_model=run.path("self_training", "iter_2"))
    assert not differing(trained, run.weights("self_training"))


def test_without_the_section_a_run_has_the_stages_and_inputs_it_had(finished):
    run = finished("zs3net").open()
    assert run.stages == STAGES
    assert sorted(run.inputs("classifier")) == [
        "bank", "classifier", "embeddings", "generator", "generator.model",
        "generator.outside_hull", "generator.unseen_prototypes", "normalize", "seed", "segmentor",
        "unseen"]
    assert finished("zs3net").open(ON).inputs("classifier") == run.inputs("classifier")
