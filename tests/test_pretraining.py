"""Which classes ImageNet's labels name, against what a person says of them; and what configs do."""

import os

import paddle
import pytest

from helpers import tiny_runs
from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import CLASS_NAMES
from paddle_csrl.errors import UserError
from paddle_csrl.models import named_weights
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, write_labels
from paddle_csrl.pretraining import named_by, pretraining_of, recorded, summary

ALL = [LabelSet(IMAGENET)]
#: Looked up by hand in the list of the 1,000 labels.
VOC = {"aeroplane": "airliner", "bicycle": "bicycle-built-for-two and 1 more",
       "bird": "cock and 58 more", "boat": "canoe and 5 more", "bottle": "beer bottle and 6 more",
       "bus": "minibus and 2 more", "car": "ambulance and 11 more", "cat": "tabby and 12 more",
       "chair": "barber chair and 3 more", "cow": "ox", "diningtable": "dining table",
       "dog": "Chihuahua and 117 more", "horse": "sorrel", "motorbike": "moped",
       "person": "ballplayer and 2 more", "pottedplant": "pot", "sheep": "ram",
       "sofa": "studio couch", "train": "bullet train", "tvmonitor": "television"}
MSRC = {"building", "cow", "sheep", "aeroplane", "car", "bicycle", "flower", "sign", "bird",
        "chair", "cat", "dog", "boat"}
CAMVID = {"building", "pole", "sign", "fence", "car"}


def named(names, labels=ALL):
    return {name for name in names if named_by(name, labels)}


def test_all_twenty_classes_of_voc_were_named():
    assert {name: named_by(name, ALL) for name in CLASS_NAMES["voc"][1:]} == VOC
    assert named_by("background", ALL) == ""


def test_of_msrc_and_camvid_things_were_named_and_hardly_any_stuff():
    assert named([*MSRC, "grass", "tree", "sky", "water", "face", "book", "road", "body"]) == MSRC
    assert named([*CAMVID, "sky", "road", "pavement", "tree", "pedestrian", "bicyclist"]) == CAMVID


@pytest.mark.parametrize("name, labels", [
    ("dining table", "dining table"), ("Dining-Table", "dining table"), ("cows", "ox"),
    ("tv", "television"), ("airplane", "airliner"), ("couch", "studio couch"),
    ("wall-other", ""), ("desk-stuff", "desk"), ("skis", "ski"), ("clothes", "jean"),
    ("screen;silver screen", "screen and 7 more"), ("sedan", ""), ("ox", "ox"),
    ("airliners", "airliner"), ("traffic sign", "street sign"), ("wall-stone", "stone wall"),
    ("sports ball", "baseball"), ("tennis racket", "racket"), ("toilet", "toilet seat"),
    ("sink", "washbasin"), ("Fridges", "refrigerator"), ("wall-wood", ""),
    ("potted plants", "pot"), ("table tennis", ""), ("cow boy", ""), ("wine glass", "")])
def test_names_as_data_sets_write_them(name, labels):
    assert named_by(name, ALL).split(" and ")[0] == labels.split(" and ")[0]


def test_words_stand_for_a_class_unless_they_are_very_general():
    assert named_by("moo", ALL) == "" and named_by("moo", ALL, "cattle") == "ox"
    assert named_by("moo", ALL, "beef, cow") == "ox"
    assert named_by("mutt", ALL, "dog") == "Chihuahua and 117 more"
    assert named_by("moo", ALL, "animal") == "" and named_by("moo", ALL, "object") == ""
    assert named_by("animal", ALL).endswith(" and 397 more")


def test_classes_left_out_were_not_named():
    without_voc = [LabelSet(IMAGENET, ("voc",))]
    assert named(CLASS_NAMES["voc"], without_voc) == set()
    assert named(["airplane", "television", "couch", "Dining Table"], without_voc) == set()
    assert named(["flower", "building", "fence"], without_voc) == {"flower", "building", "fence"}
    whole = [*without_voc, LabelSet("voc", ("cow", "motorbike"))]
    assert named(["cow", "motorbike", "motorcycle", "flower"], whole) == {"flower"}
    assert named_by("pottedplant", whole) == "pottedplant"  # learned as a segment
    assert named_by("television", whole) == "tvmonitor"


@pytest.fixture
def config(tmp_path):
    """``config(**sections)``: the tiny config, unseen cow and car, with more keys."""
    content = tiny_content(str(tmp_path))
    content["zero_shot"]["unseen"] = ["cow", "car"]

    def make(backbone=None, **opts):
        content["model"]["backbone"] = {"type": "EfficientNetLite0", "pretrained": backbone}
        return ZeroShotConfig(write_config(f"{tmp_path}/c.yml", content), opts)

    return make


@pytest.fixture
def weights(tmp_path):
    def make(*labels, name="w"):
        path = str(tmp_path / f"{name}.pdparams")
        paddle.save({"a": paddle.zeros([2])}, path)
        if labels:
            write_labels(path, labels)
        return path

    return make


def described(config):
    return pretraining_of(config, ["cow", "car"]).describe()


def test_from_scratch_nothing_was_named(config):
    found = pretraining_of(config(), ["cow", "car"])
    assert found.describe() == {"labels": [], "named": {}} and found.warnings() == []
    assert summary(found.describe()) == "none" and found.remark == ""
    found.require_allowed(config(**{"zero_shot.pretraining": "forbid"}))


@pytest.mark.parametrize("backbone", [
    "efficientnet_lite0", "https://bj.bcebos.com/paddleseg/dygraph/resnet50_vd_ssld_v2.tar.gz"])
def test_known_weights_tell_the_classes_and_their_labels(config, backbone):
    found = pretraining_of(config(backbone), ["cow", "car"])
    assert found.describe() == {"labels": ["ImageNet-1k"],
                                "named": {"cow": "ox", "car": "ambulance and 11 more"}}
    assert summary(found.describe()) == ("ImageNet-1k, which named cow (ox), car (ambulance and "
                                         "11 more)")
    [(text, hint)] = found.warnings()
    assert "cow (ox)" in text and "forbid" in hint
    with pytest.raises(UserError, match="^`zero_shot.pretraining: forbid`: the weights of "
                       f"`model.backbone.pretrained: {backbone}` were trained with labels of "
                       r"unseen classes: cow \(ox\), car \(ambulance and 11 more\); name others"):
        found.require_allowed(config(backbone, **{"zero_shot.pretraining": "forbid"}))
    found.require_allowed(config(backbone))


def test_weights_of_which_nothing_tells_are_unknown(config, weights):
    path = weights()
    found = pretraining_of(config(path), ["cow", "car"])
    assert found.describe() == {"labels": ["unknown"], "named": {}}
    assert path in found.warnings()[0][0] and found.remark == "pretraining unknown"
    with pytest.raises(UserError, match="pretrained: .*w.pdparams` were trained with unknown"):
        found.require_allowed(config(path, **{"zero_shot.pretraining": "forbid"}))


def test_weights_pass_for_the_classes_that_they_leave_out(config, weights):
    path = weights(LabelSet(IMAGENET, ("voc",)))
    forbidding = config(path, **{"zero_shot.pretraining": "forbid"})
    pretraining_of(forbidding, ["cow", "car"]).require_allowed(forbidding)
    with pytest.raises(UserError, match=r"unseen classes: fence \(chainlink fence and 3 more\);"):
        pretraining_of(forbidding, ["cow", "fence"]).require_allowed(forbidding)


def test_all_weights_of_a_model_count_and_those_of_the_whole_stage_stand_for_all(config, weights):
    model, whole = weights(name="model"), weights(LabelSet("voc", ("cow",)), name="whole")
    both = config("efficientnet_lite0", **{"model.pretrained": model})
    assert described(both) == {"labels": ["ImageNet-1k", "unknown"],
                               "named": {"cow": "ox", "car": "ambulance and 11 more"}}
    adopted = config("efficientnet_lite0", segmentor_weights=whole)
    assert described(adopted) == {"labels": ["voc without cow"], "named": {"car": "car"}}


def test_known_weights_that_named_no_unseen_class_say_so(config, weights):
    found = pretraining_of(config("efficientnet_lite0"), ["sky", "road"])
    assert found.warnings() == [] and found.remark == ""
    assert summary(found.describe()) == "ImageNet-1k, which named no unseen class"
    assert summary(pretraining_of(config(weights()), ["sky"]).describe()) == "unknown"


def test_words_of_the_config_stand_for_a_class(config):
    words = {"zero_shot.embeddings.words": {"cow": "cattle", "cat": 7}}
    found = pretraining_of(config("efficientnet_lite0", **words), ["cow", "cat"])
    assert found.named == {"cow": "ox", "cat": "tabby and 12 more"}


def test_weights_that_are_scored_speak_for_themselves(config, weights):
    known, other = weights(LabelSet("voc", ("cow",)), name="known"), weights(name="other")
    named = config("efficientnet_lite0")
    assert pretraining_of(named, ["cow"], known).describe() == {"labels": ["voc without cow"],
                                                                "named": {}}
    assert pretraining_of(named, ["cow"], other).named == {"cow": "ox"}


def test_a_conversion_is_known_by_its_path_too(config, monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    path = named_weights.weights_file("efficientnet_lite0")
    assert os.path.dirname(path) == str(tmp_path / "cache")
    assert described(config(path))["labels"] == ["ImageNet-1k"]


@pytest.mark.parametrize("content", [None, {}, {"pretraining": None}, {"pretraining": []},
                                     {"pretraining": {"labels": [], "named": []}},
                                     {"pretraining": {"named": {}}}])
def test_records_without_it_tell_nothing(content):
    assert recorded(content) is None


def test_the_shipped_configs_name_no_unknown_weights():
    for parent, _, names in os.walk(os.path.join(tiny_runs.ROOT, "configs")):
        for name in names:
            if parent.endswith("_base_") or name.startswith(("compare", "tune")):
                continue
            config = ZeroShotConfig(os.path.join(parent, name))
            assert "unknown" not in pretraining_of(config, ["cow"]).labels, name
