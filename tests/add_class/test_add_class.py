"""Classes added, removed and renamed after training: what changes, what stays, what is refused."""

import os
import shutil

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddleseg.models import DeepLabV3P

from helpers import tiny_runs
from helpers.fabricated import pairs, read_label
from helpers.tiny_config import write_config
from helpers.tiny_runs import differing, files, times
from paddle_csrl import builder as builder_module
from paddle_csrl.add_class import change as vocabulary
from paddle_csrl.add_class import layer as layer_module
from paddle_csrl.add_class.change import add_classes, trained_run
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import add_class, export, predict, val
from paddle_csrl.config import ZeroShotConfig, load_yaml
from paddle_csrl.embeddings import load_class_embeddings
from paddle_csrl.errors import UserError
from paddle_csrl.models.tiny_net import CSRLTinyNet
from paddle_csrl.run import Run
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.classifier import calibrated_layer
from paddle_csrl.stages.closed_form import closed_form_layer
from paddle_csrl.stages.generator import (
    generate,
    load_generator,
    train_generator,
    trained_generator,
    unseen_prototypes,
)
from paddle_csrl.utils import read_json, write_json


def change_classes(run_dir, save_dir, add=(), remove=(), rename=(), **options):
    return add_classes(run_dir, add, save_dir, remove=remove, rename=rename, **options)



def state_of(folder):
    return tiny_runs.weights(os.path.join(folder, "model.pdparams"))


def scored(folder):
    """Metrics of the run in ``folder`` by val.py."""
    return val.main(["-c", os.path.join(folder, "config.yml"), "--device", "cpu",
                     "--model_path", os.path.join(folder, "model.pdparams")])


def last_layer(state, number):
    """Name of the weight of the classification layer, told by its shape."""
    names = [name for name, value in state.items()
             if value.shape[:1] == (number,) and value.shape[2:] == (1, 1)]
    assert len(names) == 1
    return names[0]


@pytest.fixture(scope="module")
def trained(finished):
    """The folder of a finished run on word vectors. Not to be changed."""
    return finished("custom").folder


@pytest.fixture(scope="module")
def zebra(trained, tmp_path_factory):
    """The tiny run on word vectors with two classes more."""
    folder = tmp_path_factory.mktemp("zebra") / "run"
    return change_classes(trained, str(folder), ["zebra", "pony=horse"])


def test_new_classes_follow_the_old_ones(trained, zebra):
    names = ["background", "cat", "dog", "cow", "car", "zebra", "pony"]
    assert (zebra.classes, zebra.removed, zebra.renamed) == (names, [], {})
    assert zebra.unseen == ["cow", "car", "zebra", "pony"]
    assert zebra.added == {"zebra": "zebra", "pony": "horse"}
    classes, old = (read_json(os.path.join(folder, "classes.json"))
                    for folder in (zebra.save_dir, trained))
    assert classes["class_names"] == names and classes["unseen"] == zebra.unseen
    assert classes["palette"][:5] == old["palette"]
    assert len(set(map(tuple, classes["palette"]))) == 7
    record = read_json(os.path.join(zebra.save_dir, "vocabulary.json"))
    assert record["trained_ids"] == [0, 1, 2, 3, 4, None, None]
    assert record["changes"][0]["added"] == zebra.added


def test_only_the_last_layer_changes(trained, zebra):
    old, new = state_of(trained), state_of(zebra.save_dir)
    weight = last_layer(old, 5)
    assert differing(old, new) == [weight, weight.replace("weight", "bias")]
    assert new[weight].shape == (7, *old[weight].shape[1:])
    assert np.abs(new[weight]).reshape(7, -1).max(1).min() > 0


def test_the_checkpoint_loads_into_the_stock_segmentor(zebra):
    model = DeepLabV3P(7, CSRLTinyNet(width=4), backbone_indices=[0, 1], aspp_ratios=(1, 2))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} \
        == {name: value.shape for name, value in state_of(zebra.save_dir).items()}


def test_scores_are_shares_of_the_bank(finished, trained, zebra):
    """Per class and by hand, with the weights of both checkpoints."""
    bank = FeatureBank.load(finished("custom").path("features", "bank.npz"))
    names = ["background", "cat", "dog"]
    for folder, classes, scores in ((trained, 5, zebra.before),
                                    (zebra.save_dir, 7, zebra.after)):
        state = state_of(folder)
        weight = last_layer(state, classes)
        expected, start = {}, 0
        for class_id, name in enumerate(names):
            rows = bank.features[start:start + bank.counts[class_id]]
            start += len(rows)
            hits = [np.argmax(state[weight][:, :, 0, 0] @ row
                              + state[weight.replace("weight", "bias")]) == class_id
                    for row in rows]
            expected[name] = np.mean(hits)
        assert scores == pytest.approx(expected, abs=0.02)
    assert zebra.taken.keys() == {"zebra", "pony"}
    assert "background" in zebra.table() and "mean" in zebra.table()


def test_no_data_set_is_asked_for(trained, tmp_path, monkeypatch, zebra):
    def refuse(*args, **kwargs):
        raise AssertionError("a data set was asked for")

    monkeypatch.setattr(builder_module, "ZeroShotDataset", refuse)
    monkeypatch.setattr(cv2, "imread", refuse)
    change_classes(trained, str(tmp_path / "run"), ["zebra", "pony=horse"],
                   opts=["train_dataset.dataset_root=/nowhere",
                         "val_dataset.dataset_root=/nowhere"])
    assert not differing(state_of(tmp_path / "run"), state_of(zebra.save_dir))


def test_one_after_another_is_the_same_as_together(zebra, trained, tmp_path):
    change_classes(trained, str(tmp_path / "one"), ["zebra"])
    again = change_classes(str(tmp_path / "one"), str(tmp_path / "two"), ["pony=horse"])
    assert again.classes == zebra.classes
    assert not differing(state_of(tmp_path / "two"), state_of(zebra.save_dir))
    record = read_json(os.path.join(tmp_path / "two", "vocabulary.json"))
    assert [list(change["added"]) for change in record["changes"]] == [["zebra"], ["pony"]]


def test_an_unseen_class_taken_away_and_added_again_gives_the_trained_model(finished, tmp_path):
    """The layer is what stage 3 trains: nothing else was known of the class but its word."""
    run = finished("custom")
    change_classes(run.folder, str(tmp_path / "without"), remove=["car"])
    change_classes(str(tmp_path / "without"), str(tmp_path / "again"), ["car"])
    assert not differing(state_of(tmp_path / "again"), state_of(run.folder))
    at_once = change_classes(run.folder, str(tmp_path / "at_once"), ["car"], ["car"])
    assert at_once.classes == ["background", "cat", "dog", "cow", "car"]
    assert not differing(state_of(tmp_path / "at_once"), state_of(run.folder))


# A layer in closed form.

CLOSED = "classifier.mode=closed_form"
GENERATORS = {
    "csrl": (), **{kind: (f"generator.model={{'type': '{kind}'}}", "generator.relation=prototypes")
                   for kind in ("RidgePrototypes", "ConvexPrototypes")}}


@pytest.fixture(scope="module", params=GENERATORS)
def closed(finished, tmp_path_factory, request):
    """A finished run in closed form, behind each generator. Not to be changed."""
    run = finished("custom").copy(tmp_path_factory.mktemp("closed") / "run")
    run.again(CLOSED, *GENERATORS[request.param])
    return run._replace(recipe=run.recipe._replace(
        opts=(*run.recipe.opts, CLOSED, *GENERATORS[request.param])))


@pytest.fixture
def untrained_layer(monkeypatch):
    """Nothing may be trained."""
    monkeypatch.setattr(layer_module, "train_classifier", None)
    monkeypatch.setattr(layer_module, "fit", None)


def assert_same_up_to_rounding(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_in_closed_form_the_other_classes_keep_their_rows(closed, tmp_path, untrained_layer):
    change_classes(closed.folder, str(tmp_path / "run"), ["zebra"])
    old, new = state_of(closed.folder), state_of(tmp_path / "run")
    weight = last_layer(old, 5)
    for name in (weight, weight.replace("weight", "bias")):
        assert_same_up_to_rounding(new[name][:5], old[name])
    assert np.abs(new[weight][5]).max() > 0 and differing(old, new) == [
        weight, weight.replace("weight", "bias")]


@pytest.mark.parametrize("closed", ["RidgePrototypes", "ConvexPrototypes"], indirect=True)
def test_in_closed_form_the_layer_is_that_of_the_stages_with_all_classes(closed, tmp_path,
                                                                         untrained_layer):
    """Stages 2 and 3 on the bank of six classes, of which zebra has no pixel.

    A graph generator that zebra was trained in would be another one.
    """
    opts = ["classifier.calibration=auto", "classifier.seen_cost=0.2"]
    change_classes(closed.folder, str(tmp_path / "run"), ["zebra"], opts=opts)
    run, new = closed.open(*opts), Run.open(str(tmp_path / "run"))
    bank, unseen = run.context.bank.renumbered([0, 1, 2, 3, 4, None]), np.array([3, 4, 5])
    embeddings = np.concatenate([run.context.embeddings, load_class_embeddings(["zebra"])])
    task = train_generator(run.config.section("generator"), embeddings, bank, unseen, 0)
    section = run.config.section("classifier")
    layer = closed_form_layer(section, bank, unseen_prototypes(task, 1, 0), unseen)
    wanted = Calibration(section.seen_cost, is_cost=True)
    values, calibration = calibrated_layer(wanted, layer, bank, run.context.scale, unseen, None)
    state = state_of(tmp_path / "run")
    weight = last_layer(state, 6)
    assert_same_up_to_rounding(state[weight], values["weight"])
    assert_same_up_to_rounding(state[weight.replace("weight", "bias")], values["bias"])
    assert new.calibration == pytest.approx(calibration, rel=1e-5)


@pytest.mark.parametrize("closed", ["csrl"], indirect=True)
def test_in_closed_form_the_prototype_of_a_class_is_the_mean_of_its_features(closed, tmp_path):
    """Generated for all classes in full, the new one the last of the graph."""
    change_classes(closed.folder, str(tmp_path / "run"), ["zebra"])
    run = closed.open()
    context, section = run.context, run.config.section("classifier")
    bank, unseen = context.bank.renumbered([0, 1, 2, 3, 4, None]), np.array([3, 4, 5])
    embeddings = np.concatenate([context.embeddings, load_class_embeddings(["zebra"])])
    task = load_generator(run.config.section("generator"), embeddings, bank, unseen,
                          run.output("generator"))
    features = [generate(each, section.num_generated, run.seed("classifier"), seen_too=True)
                for each in (trained_generator(context), task)]
    prototypes = [*features[0][3:].mean(1, dtype=np.float64), features[1][-1].mean(0)]
    layer = closed_form_layer(section, bank, np.array(prototypes), unseen)
    values, _ = calibrated_layer(Calibration.of(section), layer, bank, context.scale, unseen, None)
    state = state_of(tmp_path / "run")
    weight = last_layer(state, 6)
    assert_same_up_to_rounding(state[weight], values["weight"])
    assert_same_up_to_rounding(state[weight.replace("weight", "bias")], values["bias"])


def test_in_closed_form_too_a_class_taken_away_and_added_again_changes_nothing(
        closed, tmp_path, untrained_layer):
    change_classes(closed.folder, str(tmp_path / "without"), remove=["car"])
    change_classes(str(tmp_path / "without"), str(tmp_path / "again"), ["car"])
    assert not differing(state_of(tmp_path / "again"), state_of(closed.folder))


def test_what_an_open_run_has_computed_serves_again(closed, tmp_path, untrained_layer):
    trained = trained_run(closed.folder)
    first = change_classes(closed.folder, str(tmp_path / "one"), ["zebra"], trained=trained)
    bank = trained.context.bank
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureBank, "load", None)
        patch.setattr(FeatureBank, "moments", None)
        change_classes(str(tmp_path / "one"), str(tmp_path / "two"), ["pony=horse"],
                       trained=trained)
    assert trained.context.bank is bank
    change_classes(closed.folder, str(tmp_path / "alone"), ["zebra", "pony=horse"])
    assert not differing(state_of(tmp_path / "two"), state_of(tmp_path / "alone"))
    record = read_json(os.path.join(tmp_path / "two", "vocabulary.json"))
    assert [list(change["added"]) for change in record["changes"]] == [["zebra"], ["pony"]]
    assert first.before.keys() == {"background", "cat", "dog"}
    # Another word is another class, though all else is the same.
    change_classes(closed.folder, str(tmp_path / "word"), ["zebra=sofa"], trained=trained)
    assert differing(state_of(tmp_path / "word"), state_of(tmp_path / "one"))


def test_the_price_is_found_before_a_class_is_added(closed, tmp_path, monkeypatch):
    opts = ["classifier.calibration=auto", "classifier.seen_cost=auto"]
    change_classes(closed.folder, str(tmp_path / "alone"), ["zebra"], opts=opts)
    trained = trained_run(closed.folder, opts)
    layer_module.prepare(trained, 3)
    monkeypatch.setattr(layer_module, "settled", None)
    change_classes(closed.folder, str(tmp_path / "run"), ["zebra"], opts=opts, trained=trained)
    assert not differing(state_of(tmp_path / "run"), state_of(tmp_path / "alone"))
    with pytest.raises(TypeError):  # of other classes it is another one
        change_classes(closed.folder, str(tmp_path / "less"), ["zebra"], ["dog"], opts=opts,
                       trained=trained)


def test_in_closed_form_nothing_of_a_removed_seen_class_takes_part(closed, tmp_path,
                                                                   untrained_layer):
    trained = trained_run(closed.folder)
    change_classes(closed.folder, str(tmp_path / "with"), ["zebra"], trained=trained)
    change_classes(closed.folder, str(tmp_path / "run"), ["zebra"], ["dog"], trained=trained)
    run = closed.open()
    bank, scale = run.context.bank, run.context.scale
    covariance = np.mean([np.cov(bank.of(c).T.astype(np.float64)) for c in (0, 1)], axis=0)
    covariance += 0.1 * np.diag(covariance).mean() * np.eye(len(covariance))
    means = [bank.of(c).mean(0, dtype=np.float64) for c in (0, 1)]
    state = state_of(tmp_path / "run")
    weight = state[last_layer(state, 5)][:, :, 0, 0] * scale.deviation
    expected = np.linalg.solve(covariance, np.transpose(means)).T
    np.testing.assert_allclose(weight[:2], expected, atol=1e-3 * np.abs(expected).max())
    whole = state_of(tmp_path / "with")
    assert np.abs(whole[last_layer(whole, 6)][:2, :, 0, 0] * scale.deviation - expected).max() \
        > 1e-2 * np.abs(expected).max()


def test_a_rename_changes_names_alone(finished, zebra, tmp_path):
    change = change_classes(zebra.save_dir, str(tmp_path / "run"),
                            rename=["dog=hound", "zebra=okapi"])
    assert change.classes == ["background", "cat", "hound", "cow", "car", "okapi", "pony"]
    assert change.before == change.after
    assert not differing(state_of(tmp_path / "run"), state_of(zebra.save_dir))
    section = load_yaml(str(tmp_path / "run" / "config.yml"))["zero_shot"]
    assert section["label_names"] == ["background", "cat", "hound", "cow", "car"]
    assert section["embeddings"]["words"] == {"hound": "dog", "okapi": "zebra", "pony": "horse"}
    more = change_classes(str(tmp_path / "run"), str(tmp_path / "more"), ["sheep"])
    assert more.classes[-1] == "sheep"


def test_a_renamed_class_keeps_the_usual_word_that_its_name_stood_for(trained, tmp_path):
    """The word aeroplane, taken as written, has another vector than the class of that name."""
    change_classes(trained, str(tmp_path / "v2"), ["aeroplane"])
    change_classes(str(tmp_path / "v2"), str(tmp_path / "v3"), rename=["aeroplane=plane"])
    renamed, same = (change_classes(str(tmp_path / folder), str(tmp_path / f"{folder}_more"),
                                    ["sheep"]).save_dir for folder in ("v3", "v2"))
    assert not differing(state_of(renamed), state_of(same))
    words = load_yaml(str(tmp_path / "v3" / "config.yml"))["zero_shot"]["embeddings"]["words"]
    assert words == {"plane": "airplane"}


@pytest.mark.parametrize("removed, kept", [("car", [0, 1, 2, 3]), ("dog", [0, 1, 3, 4])])
def test_a_removed_class_leaves_the_logits_of_the_others(trained, tmp_path, removed, kept):
    change_classes(trained, str(tmp_path / "run"), remove=[removed])
    old, new = state_of(trained), state_of(tmp_path / "run")
    for name in (last_layer(old, 5), last_layer(old, 5).replace("weight", "bias")):
        np.testing.assert_array_equal(new[name], old[name][kept])
    assert removed not in [item["name"] for item in scored(tmp_path / "run")["classes"]]


def test_nothing_of_a_removed_seen_class_takes_part_later(finished, tmp_path, monkeypatch):
    run = finished("custom")
    fit, banks = layer_module.train_classifier, []
    monkeypatch.setattr(layer_module, "train_classifier",
                        lambda *args, **kwargs: banks.append(args[1]) or fit(*args, **kwargs))
    change = change_classes(run.folder, str(tmp_path / "run"), ["zebra"], ["dog"])
    assert change.classes == ["background", "cat", "cow", "car", "zebra"]
    assert change.before.keys() == change.after.keys() == {"background", "cat"}
    bank = FeatureBank.load(run.path("features", "bank.npz"))
    assert bank.counts[2] > 0
    assert banks[0].counts.tolist() == [*bank.counts[:2], 0, 0, 0]
    assert len(banks[0].features) == bank.counts[:2].sum()


def predicted(folder, image, out):
    """Class ids that the run in ``folder`` predicts for an image file."""
    predict.main(["--run", str(folder), "--image_path", image, "--save_dir", str(out),
                  "--device", "cpu"])
    name = os.path.splitext(os.path.basename(image))[0]
    return read_label(os.path.join(out, "label_prediction", f"{name}.png"))


def test_a_class_that_training_did_not_list_is_scored_against_its_labels(tmp_path):
    """`car` has labels in the data set, which the run neither lists nor uses."""
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    data = str(tmp_path / "data" / "custom")
    listed = ["background", "cat", "dog", "cow"]
    opts = ("zero_shot.unseen=cow", f"zero_shot.class_names={listed}", "zero_shot.policy=ignore",
            f"zero_shot.label_names={data}/classes.txt", "train_dataset.num_classes=4",
            "val_dataset.num_classes=4")
    run = tiny_runs.run_all(recipe, tmp_path / "run", *opts)
    assert [item["name"] for item in run.metrics["classes"]] == listed
    bank = FeatureBank.load(run.path("features", "bank.npz"))
    assert len(bank.counts) == 4 and bank.counts[3] == 0 and bank.counts[:3].all()

    change = change_classes(run.folder, str(tmp_path / "car"), ["car"], evaluate=True)
    assert change.iou_before.keys() == change.iou_after.keys() == {"background", "cat", "dog"}
    metrics = read_json(os.path.join(tmp_path / "car", "metrics.json"))
    assert metrics["config"]["save_dir"] == str(tmp_path / "car")
    images, labels = zip(*pairs(data, "val"))
    truth = np.concatenate([read_label(label).ravel() for label in labels])
    guess = np.concatenate([predicted(tmp_path / "car", image, tmp_path / "pictures").ravel()
                            for image in images])
    truth, guess = truth[truth != 255], guess[truth != 255]
    assert (truth == 4).any()
    expected = [((guess == c) & (truth == c)).sum() / max(1, ((guess == c) | (truth == c)).sum())
                for c in range(5)]
    assert [item["iou"] for item in metrics["classes"]] == pytest.approx(expected, abs=1e-9)
    assert [item["name"] for item in metrics["classes"] if not item["seen"]] == ["cow", "car"]
    assert scored(tmp_path / "car")["classes"] == metrics["classes"]


def test_other_tools_take_the_new_run(zebra, trained, tmp_path):
    image, _ = pairs(os.path.join(os.path.dirname(trained), "data", "custom"), "val")[0]
    assert predicted(zebra.save_dir, image, tmp_path / "pictures").max() < 7
    exported = export.main(["--run", zebra.save_dir, "--save_dir", str(tmp_path / "exported"),
                            "--image_path", image])
    assert all(parity.holds for parity in exported["parity"])
    assert [item["name"] for item in scored(zebra.save_dir)["classes"]] == zebra.classes


@pytest.mark.parametrize("name, word", [("spnet", "zebra"), ("segdevise", "red striped")])
def test_a_projection_takes_the_new_embedding(finished, tmp_path, name, word):
    """One row of the last layer more: the embedding times the projection."""
    run = finished(name)
    change = change_classes(run.folder, str(tmp_path / "run"), [f"new={word}"])
    assert change.before is None and change.taken == {}
    old, new = state_of(run.folder), state_of(tmp_path / "run")
    count = len(change.classes)
    weight = last_layer(old, count - 1)
    bias = weight.replace("weight", "bias")
    np.testing.assert_allclose(new[weight][:-1], old[weight], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new[bias][:-1], old[bias], rtol=1e-5, atol=1e-6)
    trained = paddle.load(run.path("segmentor", "model.pdparams"))
    [projection] = [value.numpy() for key, value in trained.items()
                    if key.endswith("projection.weight")]
    vector = load_class_embeddings([word])[0] if name == "spnet" \
        else run.builder().embeddings[run.builder().classes.names.index(word)]
    np.testing.assert_allclose(new[weight][-1, :, 0, 0], vector @ projection[:, :, 0, 0],
                               rtol=1e-4, atol=1e-6)
    change_classes(str(tmp_path / "run"), str(tmp_path / "less"), remove=["new"])
    assert not differing(state_of(tmp_path / "less"), {
        key: value[:-1] if key in (weight, bias) else value for key, value in new.items()})


def test_a_projection_finds_its_price_anew(finished, tmp_path):
    """As of a run of three unseen classes; another change finds bank and projection beside it."""
    run = finished("spnet").copy(tmp_path / "old")
    run.again("classifier.calibration=auto", "classifier.seen_cost=0.3")
    change = change_classes(run.folder, str(tmp_path / "run"), ["zebra"])
    bank, state = FeatureBank.load(run.path("features", "bank.npz")), state_of(change.save_dir)
    weight = last_layer(state, len(change.classes))
    is_unseen = np.isin(change.classes, change.unseen)
    logits = [bank.of(c) @ state[weight][:, :, 0, 0].T + state[weight.replace("weight", "bias")]
              for c in bank.present_ids]
    lost = [is_unseen[rows.argmax(1)].mean() for rows in logits]
    assert np.mean(lost) == pytest.approx(0.3, abs=0.02) and set(change.before) == set(
        run.builder().classes.seen_names)
    record = read_json(os.path.join(change.save_dir, "calibration.json"))
    assert record["seen_cost"] == 0.3 and Run.open(change.save_dir).calibration == \
        record["calibration"]
    renamed = change_classes(change.save_dir, str(tmp_path / "renamed"), rename=["zebra=okapi"])
    assert Run.open(renamed.save_dir).calibration == record["calibration"]
    with pytest.raises(UserError, match="^`classifier.calibration` or `seen_cost` is another than "
                                        f"that of {change.save_dir}, whose layer stays as it is"):
        change_classes(change.save_dir, str(tmp_path / "other"), remove=["zebra"],
                       opts=["classifier.seen_cost=0.2"])
    assert not os.path.exists(tmp_path / "other")
    both = change_classes(run.folder, str(tmp_path / "both"), ["zebra", "pony"])
    again = change_classes(change.save_dir, str(tmp_path / "again"), ["pony"])
    assert not differing(state_of(again.save_dir), state_of(both.save_dir))


def test_a_self_trained_run_goes_on_without_self_training(trained, tmp_path, zebra):
    """Its pseudo-labels need images; what is left is the method without them, named so."""
    change_classes(trained, str(tmp_path / "run"), ["zebra", "pony=horse"],
                   opts=["self_training={'share': 0.5}"])
    assert "self_training" not in load_yaml(str(tmp_path / "run" / "config.yml"))
    assert not differing(state_of(tmp_path / "run"), state_of(zebra.save_dir))


def untrained(folder, name, cache):
    """A run of a shipped config with random weights, as far as prediction needs one."""
    os.mkdir(folder)
    config = ZeroShotConfig(tiny_runs.config_path(f"segmentors/{name}_shapes"), [
        f"{split}_dataset.{item}" for split in ("train", "val")
        for item in ("num_train=4", "num_val=1", "image_size=48", f"dataset_root={cache}")])
    builder = ZeroShotBuilder(config)
    write_json(os.path.join(folder, "classes.json"), builder.classes.describe())
    with open(os.path.join(folder, "config.yml"), "w", encoding="utf-8") as file:
        yaml.safe_dump(config.given, file)
    rng = np.random.default_rng(0)
    for parameter in builder.model.parameters():
        if parameter.ndim == 4:  # large enough for features not to vanish on their way
            size = np.sqrt(2 / np.prod(parameter.shape[1:]))
            parameter.set_value((size * rng.standard_normal(parameter.shape)).astype(np.float32))
    paddle.save(builder.model.state_dict(), os.path.join(folder, "model.pdparams"))
    return builder


def test_auxiliary_heads_have_the_new_classes_too(tmp_path):
    old = untrained(str(tmp_path / "run"), "bisenetv2", str(tmp_path / "data"))
    change = change_classes(str(tmp_path / "run"), str(tmp_path / "new"), remove=["red checkered"])
    kept = [place for place, name in enumerate(old.classes.names) if name != "red checkered"]
    assert len(change.classes) == len(kept) == 20
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal(
        (1, 3, 64, 64)).astype(np.float32))
    old.model.eval()
    run = Run.open(str(tmp_path / "new"))
    new = run.builder.trained_segmentor(run.final_model)
    with paddle.no_grad():
        expected, logits = old.model(images)[0], new(images)[0]
    np.testing.assert_allclose(logits.numpy(), expected.numpy()[:, kept], rtol=1e-4, atol=1e-5)
    before, after = old.model.state_dict(), new.state_dict()
    resized = [name for name in after if before[name].shape != after[name].shape]
    assert len(resized) > 2
    for name in resized:
        np.testing.assert_array_equal(after[name].numpy(), before[name].numpy()[kept])


def test_a_segmentor_whose_features_know_the_classes_is_refused(tmp_path):
    untrained(str(tmp_path / "run"), "ocrnet", str(tmp_path / "data"))
    with pytest.raises(UserError, match="OCRNet cannot have other classes without training"):
        change_classes(str(tmp_path / "run"), str(tmp_path / "new"), remove=["red checkered"])
    renamed = change_classes(str(tmp_path / "run"), str(tmp_path / "new"),
                             rename=["red checkered=red chess"])
    assert "red chess" in renamed.unseen


def test_attributes_compose_a_class(finished, tmp_path):
    run = finished("segdevise")
    change = change_classes(run.folder, str(tmp_path / "run"), ["both=red dotted striped"])
    vector = Run.open(change.save_dir).builder.embeddings[-1]
    names = run.builder().val_dataset.dataset.attribute_names
    expected = np.isin(names, ["red", "dotted", "striped"]) / np.sqrt(3)
    np.testing.assert_allclose(vector, expected, rtol=1e-6)


def test_a_class_that_was_seen_in_training_does_not_come_back_as_unseen(trained, tmp_path):
    """Nor by way of another name for its label; an unseen one does, and so does its word alone."""
    change_classes(trained, str(tmp_path / "renamed"), rename=["dog=hound"])
    change_classes(str(tmp_path / "renamed"), str(tmp_path / "less"), remove=["hound", "cow"])
    with pytest.raises(UserError, match="hound was a seen class in training.*\"hound 2=hound\""):
        change_classes(str(tmp_path / "less"), str(tmp_path / "more"), ["hound=dog"])
    change = change_classes(str(tmp_path / "less"), str(tmp_path / "more"), ["cow", "dog"])
    pixels = Run.open(change.save_dir).builder.val_dataset.class_pixels().sum(0)
    assert change.unseen[-2:] == ["cow", "dog"] and pixels[-2] > 0 and pixels[-1] == 0


BAD = {
    "nothing": ({}, "nothing to do"),
    "too many": (dict(add=[f"cat {number}=cat" for number in range(251)]),
                 "256 classes are more than the 255"),
    "existing": (dict(add=["Cat"]), "Cat is already a class"),
    "two lines": (dict(add=["bird\nfish=bird"]), r"'bird\\nfish' is no name of a class"),
    "twice": (dict(add=["zebra", "zebra"]), "zebra is already named"),
    "empty name": (dict(add=["=zebra"]), "is no class to add"),
    "broken new name": (dict(rename=["cat=tom\tcat"]), "is no name of a class"),
    "empty word": (dict(add=["zebra="]), "is no class to add"),
    "unknown word": (dict(add=["qwrtzx"]), "no word for class 'qwrtzx'"),
    "unknown word given": (dict(add=["beast=qwrtzx"]), "no word for class 'beast'"),
    "seen again": (dict(add=["Dog"], remove=["dog"]), "Dog was a seen class in training"),
    "remove unknown": (dict(remove=["cta"]), "`remove` holds cta.*did you mean cat"),
    "remove twice": (dict(remove=["cat", "Cat"]), "cat is to be removed or renamed twice"),
    "remove background": (dict(remove=["background"]), "background, which every model needs"),
    "remove all unseen": (dict(remove=["cow", "car"]), "no unseen class would be left"),
    "rename unknown": (dict(rename=["cta=pet"]), "`rename` holds cta"),
    "rename without new": (dict(rename=["cat"]), "write OLD=NEW"),
    "rename to existing": (dict(rename=["cat=dog"]), "dog is already a class"),
    "rename to a label": (dict(rename=["cat=dog"], remove=["dog"]), "labels of the data set know"),
    "remove and rename": (dict(remove=["cat"], rename=["cat=pet"]), "removed or renamed twice"),
    "other vectors": (dict(add=["zebra"], opts=["zero_shot.embeddings.words={'cat': 'sofa'}"]),
                      "other vectors"),
    "normalized": (dict(add=["zebra"], opts=["zero_shot.embeddings.path=/nowhere.txt"]),
                   "no word-vector file at /nowhere.txt"),
    "weights": (dict(add=["zebra"], opts=[
        "classifier.loss.types.0.weight=[1.0, 1.0, 1.0, 1.0, 1.0]"]), "5 weights for the 6"),
    "seed": (dict(add=["zebra"], seed=-1), "classifier.seed: -1` must be greater than"),
    "large seed": (dict(add=["zebra"], seed=2 ** 32),
                   "classifier.seed: 4294967296` must be less than or equal to 4294967295"),
    "other segmentor": (dict(add=["zebra"], opts=[
        "model.backbone={'type': 'CSRLTinyNet', 'width': 8}"]), "does not fit DeepLabV3P"),
    "legacy": (dict(add=["zebra"], opts=["classifier.mode=legacy"]), "mode: legacy"),
    "other generator": (dict(add=["zebra"], opts=["generator.outside_hull=0.5"]),
                        "`generator` is another than in the training"),
    "other generator, renamed": (dict(rename=["cat=kitty"], opts=["generator.outside_hull=0.5"]),
                                 "`generator` is another than in the training"),
    "other calibration": (dict(remove=["cow"], opts=["classifier.calibration=9.0"]),
                          "`classifier.calibration` or `seen_cost` is another than that of"),
    "other scale": (dict(add=["zebra"], opts=["zero_shot.features.normalize=false"]),
                    "`zero_shot.features.normalize` is another than"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_and_leave_nothing(trained, tmp_path, case):
    request, message = BAD[case]
    before = times(trained)
    with pytest.raises(UserError, match=message) as raised:
        change_classes(trained, str(tmp_path / "new" / "run"), **request)
    assert "\n" not in str(raised.value)
    assert files(str(tmp_path)) == []
    assert times(trained) == before


def test_a_folder_that_appears_meanwhile_is_left_as_it_is(trained, tmp_path, monkeypatch):
    def interfere(*args):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("mine")

    monkeypatch.setattr(vocabulary, "_keep_trained", interfere)
    with pytest.raises(UserError, match="was made by something else meanwhile"):
        change_classes(trained, str(tmp_path / "run"), rename=["cat=kitten"])
    assert files(str(tmp_path)) == ["run/mine"]


def test_a_run_whose_parts_are_gone_is_refused(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    os.remove(run.path("features", "bank.npz"))
    with pytest.raises(UserError, match="bank.npz is missing; run"):
        change_classes(run.folder, str(tmp_path / "new"), ["zebra"])
    change = change_classes(run.folder, str(tmp_path / "less"), remove=["car"])
    assert change.before is None and change.table().count("\n") < 4
    os.remove(run.path("model.pdparams"))
    with pytest.raises(UserError, match="no model.pdparams in"):
        change_classes(run.folder, str(tmp_path / "new"), ["zebra"])
    os.remove(run.path("config.yml"))
    with pytest.raises(UserError, match="no config.yml in"):
        change_classes(run.folder, str(tmp_path / "new"), ["zebra"])
    assert not os.path.exists(tmp_path / "new")


@pytest.mark.parametrize("name, seed, stages", [
    ("custom", "seed", ["segmentor", "features", "generator"]),
    ("custom", "generator.seed", ["generator"]), ("spnet", "seed", ["segmentor"])])
def test_stages_that_ran_again_without_the_last_are_not_mixed_with_the_old_model(
        finished, tmp_path, name, seed, stages):
    """Backbone and layer would be of two trainings, and the scores of none."""
    run = finished(name).copy(tmp_path / "run")
    for stage in stages:
        run.again(f"{seed}=5", stage=stage)
    with pytest.raises(UserError, match=f"stage {stages[0]} of .* ran again after model.pdparams"):
        change_classes(run.folder, str(tmp_path / "new"), ["zebra"])
    assert change_classes(run.folder, str(tmp_path / "less"), remove=["dog"]).removed == ["dog"]
    assert not os.path.exists(tmp_path / "new")


@pytest.mark.parametrize("name, stage", [("custom", "generator"), ("spnet", "segmentor")])
def test_other_vectors_than_in_training_are_told(finished, tmp_path, capsys, name, stage):
    run = finished(name).copy(tmp_path / "run")
    change_classes(run.folder, str(tmp_path / "as_trained"), ["zebra"])
    assert "other word vectors now" not in capsys.readouterr().out
    record = read_json(run.path(stage, "stage.json"))
    record["inputs"]["embeddings"] = "0" * 64
    write_json(run.path(stage, "stage.json"), record)
    change_classes(run.folder, str(tmp_path / "new"), ["zebra"])
    out = capsys.readouterr().out
    assert f"other word vectors now than when stage {stage} was trained" in out
    assert f"{run.folder}/config.yml" in out


def test_other_vectors_are_refused_by_an_open_run_too(finished, tmp_path):
    folder, opts = finished("custom").folder, ["zero_shot.embeddings.words={'cat': 'sofa'}"]
    with pytest.raises(UserError, match="other vectors than those that"):
        change_classes(folder, str(tmp_path / "new"), ["zebra"], opts=opts,
                       trained=trained_run(folder, opts))
    assert not os.path.exists(tmp_path / "new")


@pytest.mark.parametrize("name", ["custom", "spnet"])
def test_a_file_of_vectors_that_moved_is_named_anew(finished, tmp_path, name):
    run = finished(name).copy(tmp_path / "run")
    paths = [str(tmp_path / f"{place}.npz") for place in ("old", "new", "larger", "foreign")]
    old, new, larger, foreign = paths
    content = tiny_vectors(run.builder(), ["zebra", "pony"])
    np.savez(new, **content)
    np.savez(larger, names=np.append(content["names"], "okapi"),
             vectors=np.vstack([content["vectors"], content["vectors"][:1] + 1]))
    np.savez(foreign, names=content["names"], vectors=content["vectors"][:, ::-1])
    config = load_yaml(run.path("config.yml"))
    config["zero_shot"]["embeddings"] = {"path": old}
    write_config(run.path("config.yml"), config)
    at = {path: [f"zero_shot.embeddings.path={path}"] for path in paths}
    with pytest.raises(UserError, match="no word-vector file at .*old.npz"):
        change_classes(run.folder, str(tmp_path / "v2"), ["zebra"])
    first = change_classes(run.folder, str(tmp_path / "v2"), ["zebra"], opts=at[new])
    again = change_classes(first.save_dir, str(tmp_path / "v3"), ["pony"])  # by its own config
    assert change_classes(first.save_dir, str(tmp_path / "v4"), ["okapi"],
                          opts=at[larger]).added == {"okapi": "okapi"}
    with pytest.raises(UserError, match="not give the classes the very vectors .* no word-vector"):
        change_classes(run.folder, str(tmp_path / "v5"), ["zebra"], opts=at[foreign])
    shutil.copy(new, old)
    expected = change_classes(run.folder, str(tmp_path / "both"), ["zebra", "pony"])
    assert not differing(state_of(again.save_dir), state_of(expected.save_dir))
    with pytest.raises(UserError, match="other vectors than those that .* take the same"):
        change_classes(run.folder, str(tmp_path / "v5"), ["zebra"], opts=at[foreign])


def tiny_vectors(builder, words):
    """A file's content: the vectors of a builder's classes, as they are, and of more words."""
    names = [*builder.classes.names, *words]
    return {"names": np.array(names), "vectors": load_class_embeddings(names, normalize=False)}


def test_a_run_of_several_spaces_takes_classes_in_all_of_them(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    with pytest.raises(UserError, match="other vectors"):
        change_classes(run.folder, str(tmp_path / "new"), ["zebra"],
                       opts=["zero_shot.embeddings.path=['glove100', 'glove100']"])
    change = change_classes(run.folder, str(tmp_path / "new"), ["zebra"],
                            opts=["zero_shot.embeddings.path=['glove100']"])
    assert Run.open(change.save_dir).config.settings.zero_shot.embeddings.path == ["glove100"]


def test_attributes_that_are_not_there_are_refused(finished, tmp_path):
    with pytest.raises(UserError, match="orange is none of the attributes.*red, blue.*striped"):
        change_classes(finished("segdevise").folder, str(tmp_path / "run"), ["orange striped"])


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(trained, tmp_path):
    target = tmp_path / "new"
    target.mkdir()
    change_classes(trained, str(target), rename=["cat=kitten"])
    before = times(str(target))
    for folder, message in ((str(target), "is there already and not empty"),
                            (trained, "is there already and not empty"),
                            (os.path.join(trained, "new"), "name a folder beside it")):
        with pytest.raises(UserError, match=message):
            change_classes(trained, folder, ["zebra"])
    assert times(str(target)) == before


@pytest.mark.parametrize("step", ["new_layer", "_write_record", "_keep_trained"])
def test_an_interruption_leaves_nothing(trained, tmp_path, monkeypatch, step):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary, step, interrupt)
    before = times(trained)
    with pytest.raises(KeyboardInterrupt):
        change_classes(trained, str(tmp_path / "run"), ["zebra"])
    assert os.listdir(tmp_path) == []
    assert times(trained) == before


def test_the_tool_counts_versions_up(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    first = add_class.main(["zebra", "--run", run.folder, "--device", "cpu"])
    second = add_class.main(["--run", first.save_dir, "--rename", "zebra=okapi", "--device",
                             "cpu"])
    assert first.save_dir == str(tmp_path / "run_v2") and second.save_dir.endswith("run_v3")
    assert second.classes[-1] == "okapi"


def test_the_tool_refuses_what_the_function_does(trained, tmp_path):
    with pytest.raises(UserError, match="cat is already a class of the run"):
        add_class.main(["cat", "--run", trained, "--device", "cpu", "--save_dir",
                        str(tmp_path / "run")])
    assert os.listdir(tmp_path) == []


def test_progress_is_told(trained, tmp_path):
    told = []
    change_classes(trained, str(tmp_path / "run"), ["zebra"],
                   on_progress=lambda text, share: told.append((text, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert {"generating features of zebra", "training the layer"} <= {text for text, _ in told}


def test_a_seed_of_ones_own(trained, tmp_path):
    for name, seed in (("one", 7), ("two", 8)):
        change_classes(trained, str(tmp_path / name), ["zebra"], seed=seed)
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert not np.array_equal(one[last_layer(one, 6)], two[last_layer(two, 6)])
    assert load_yaml(str(tmp_path / "one" / "config.yml"))["classifier"]["seed"] == 7


def test_a_renumbered_bank():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    bank = FeatureBank(features, np.array([1, 2, 0, 3]), np.array([10, 20, 0, 30]))
    other = bank.renumbered([3, None, 0])
    np.testing.assert_array_equal(other.features, features[[3, 4, 5, 0]])
    assert other.counts.tolist() == [3, 0, 1] and other.pixel_counts.tolist() == [30, 0, 10]


@pytest.mark.parametrize("mode, policy", [("train", "ignore"), ("train", "drop"), ("val", "drop")])
def test_labels_count_as_the_classes_of_their_names(tmp_path, mode, policy):
    """Renumbered, with one label that no class has, against the files pixel by pixel."""
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    names = ["dog", "background", "zebra", "cow"]
    opts = [f"zero_shot.class_names={names}", "zero_shot.unseen=cow,zebra",
            f"zero_shot.label_names={tmp_path}/data/custom/classes.txt",
            f"zero_shot.policy={policy}", "train_dataset.num_classes=4",
            "val_dataset.num_classes=4", "train_dataset.transforms=[{'type': 'Normalize'}]"]
    builder = recipe.builder(*opts)
    dataset = builder.train_dataset if mode == "train" else builder.val_dataset
    table = {0: 1, 1: 255, 2: 0, 3: 255 if mode == "train" else 3, 4: 255, 255: 255}
    counts = np.zeros(4, int)
    for index, (_, path) in enumerate(dataset.file_list):
        raw = read_label(path)
        assert policy == "ignore" or mode == "val" or not (raw == 3).any()
        expected = np.vectorize(table.get)(raw)
        np.testing.assert_array_equal(np.squeeze(dataset[index]["label"]), expected)
        counts += [(expected == class_id).sum() for class_id in range(4)]
    audit = dataset.audit()
    assert audit["pixels_seen"] == counts[:2].sum() > 0
    assert audit["pixels_unseen_used"] == (counts[3] if mode == "val" else 0)
    assert (builder.classes.names, builder.train_dataset.num_classes) == (names, 4)


def test_a_label_beyond_the_names_is_refused(tmp_path):
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    names = ["background", "cat", "dog", "cow"]
    opts = [f"zero_shot.class_names={names + ['car', 'zebra']}", "zero_shot.unseen=cow",
            f"zero_shot.label_names={names}", "train_dataset.num_classes=6",
            "val_dataset.num_classes=6"]
    builder = recipe.builder(*opts)
    with pytest.raises(UserError, match="holds 4, but with 4 classes"):
        for index in range(len(builder.val_dataset)):
            builder.val_dataset[index]
