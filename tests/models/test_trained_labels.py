"""What is known of weights: by their address, or by a record that holds for their bytes alone."""

import json
import os
import shutil

import paddle
import pytest

from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, labels_of, write_labels

WITHOUT = [LabelSet(IMAGENET, ("voc",)), LabelSet("voc", ("cow", "motorbike"))]


@pytest.fixture
def weights(tmp_path):
    path = str(tmp_path / "w.pdparams")
    paddle.save({"a": paddle.zeros([2])}, path)
    return path


@pytest.mark.parametrize("address", [
    "https://bj.bcebos.com/paddleseg/dygraph/resnet50_vd_ssld_v2.tar.gz",
    "https://paddleseg.bj.bcebos.com/dygraph/resnet50_vd_ssld_v2.tar.gz",
    "https://bj.bcebos.com/paddleseg/dygraph/hrnet_w18_ssld.tar.gz",
    "https://bj.bcebos.com/paddleseg/dygraph/PP_STDCNet1.tar.gz",
    "https://bj.bcebos.com/paddleseg/dygraph/backbone/mix_vision_transformer_b2.tar.gz",
    "https://paddleseg.bj.bcebos.com/dygraph/backbone/mscan_t_imagenet_pretrained.zip"])
def test_paddlesegs_weights_of_imagenet_are_known_by_address(address):
    assert labels_of(address) == (LabelSet("imagenet1k"),)


@pytest.mark.parametrize("address", [
    # ImageNet-21k, images without labels, street scenes; another server, another folder.
    "https://bj.bcebos.com/paddleseg/dygraph/vit_large_patch16_384.tar.gz",
    "https://paddleseg.bj.bcebos.com/dygraph/backbone/ssl/densecl_imgnet_epoch200.zip",
    "https://bj.bcebos.com/paddleseg/dygraph/cityscapes/fastscnn_cityscapes_1024x1024_160k/"
    "model.pdparams",
    "https://example.org/paddleseg/dygraph/resnet50_vd_ssld_v2.tar.gz",
    "https://bj.bcebos.com/other/dygraph/resnet50_vd_ssld_v2.tar.gz",
    "https://bj.bcebos.com/paddleseg/dygraph/", "dygraph/resnet50_vd_ssld_v2.tar.gz"])
def test_other_addresses_are_unknown(address):
    assert labels_of(address) is None


def test_a_record_goes_with_its_file_and_holds_for_its_bytes(weights, tmp_path):
    assert labels_of(weights) is None
    assert write_labels(weights, WITHOUT) == str(tmp_path / "w.labels.json")
    assert labels_of(weights) == tuple(WITHOUT)
    os.mkdir(tmp_path / "moved")
    for name in ("w.pdparams", "w.labels.json"):
        shutil.copy(tmp_path / name, tmp_path / "moved" / name)
    assert labels_of(str(tmp_path / "moved" / "w.pdparams")) == tuple(WITHOUT)
    paddle.save({"a": paddle.ones([2])}, weights)
    assert labels_of(weights) is None
    assert labels_of(str(tmp_path / "gone.pdparams")) is None


@pytest.mark.parametrize("change", [
    {"labels": []}, {"labels": None}, {"labels": ["imagenet1k"]}, {"labels": "imagenet1k"},
    {"labels": [{"name": "imagenet22k", "without": []}]}, {"labels": [{"name": "voc"}]},
    {"labels": [{"name": ["voc"], "without": []}]},
    {"labels": [{"name": "voc", "without": [1]}]}, {"labels": [{"name": "voc", "without": "cow"}]},
    {"sha256": None}, {"sha256": "0" * 64}])
def test_a_record_that_is_not_as_it_was_written_tells_nothing(weights, tmp_path, change):
    record = tmp_path / "w.labels.json"
    write_labels(weights, WITHOUT)
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    assert labels_of(weights) is None
    record.write_text("{torn")
    assert labels_of(weights) is None
    record.write_text("[]")
    assert labels_of(weights) is None


def test_what_is_left_out_is_told_by_lists_and_names():
    assert str(LabelSet(IMAGENET)) == "ImageNet-1k" and LabelSet(IMAGENET).left_out == []
    assert str(WITHOUT[0]) == "ImageNet-1k without voc" and str(WITHOUT[1]) == \
        "voc without cow, motorbike"
    assert {"cow", "tvmonitor", "background"} < set(WITHOUT[0].left_out)
    assert WITHOUT[1].left_out == ["cow", "motorbike"]
