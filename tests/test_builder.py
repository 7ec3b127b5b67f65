"""Building data sets, names and embeddings from a config."""

import copy
import os

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_config import CLASS_NAMES, tiny_content, write_config
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError

COW = 3


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return tiny_content(str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def build(tmp_path, content):
    def build(**overrides):
        path = write_config(tmp_path / "tiny.yml", content)
        return ZeroShotBuilder(ZeroShotConfig(path, overrides={
            key.replace("__", "."): value for key, value in overrides.items()}))

    return build


def classes_in(dataset):
    return set(np.concatenate([np.unique(dataset[i]["label"]) for i in range(len(dataset))]))


def test_ids_names_and_model_follow_the_config(build):
    builder = build()
    assert builder.classes.names == list(CLASS_NAMES)
    unseen, seen = builder.classes.unseen_ids, builder.classes.seen_ids
    assert unseen.tolist() == [COW] and seen.tolist() == [0, 1, 2, 4]
    assert unseen.dtype == seen.dtype == np.int64
    assert builder.new_segmentor().head.decoder.conv.weight.shape[0] == 5


def test_the_order_of_unseen_names_does_not_matter(build):
    builders = [build(zero_shot__unseen=names) for names in (["car", "cat"], "cat,car")]
    assert [builder.classes.unseen_ids.tolist() for builder in builders] == [[1, 4]] * 2


def test_the_pairs_of_ade20k_have_one_order_however_the_folder_lists_them(
        build, content, tmp_path, monkeypatch):
    names = [f"ADE_train_{number:08d}" for number in (3, 1, 2)]
    for folder, end in (("images", "jpg"), ("annotations", "png")):
        for split in ("training", "validation"):
            os.makedirs(tmp_path / folder / split)
            for name in names:
                Image.fromarray(np.full((8, 8), 2, np.uint8)).save(
                    tmp_path / folder / split / f"{name}.{end}")
    content = copy.deepcopy(content)
    for split in ("train", "val"):
        content[f"{split}_dataset"] = {"type": "ADE20K", "dataset_root": str(tmp_path),
                                       "mode": split, "transforms": []}
    content["model"]["num_classes"] = 150
    content["zero_shot"].update(class_names="ade20k", unseen=["car"])
    path = write_config(tmp_path / "ade.yml", content)
    monkeypatch.setattr(os, "listdir", lambda folder: [f"{name}.jpg" for name in names])
    pairs = ZeroShotBuilder(ZeroShotConfig(path)).train_dataset.file_list
    assert [[os.path.basename(path) for path in pair] for pair in pairs] == [
        [f"{name}.jpg", f"{name}.png"] for name in sorted(names)]


@pytest.mark.parametrize("policy", ["ignore", "drop"])
def test_unseen_labels_are_in_validation_only(build, policy):
    builder = build(zero_shot__policy=policy)
    for hidden in (builder.train_dataset, builder.selection_dataset, builder.feature_dataset):
        assert COW not in classes_in(hidden) and {0, 1} <= classes_in(hidden)
    assert COW in classes_in(builder.val_dataset)


def test_drop_leaves_out_images_and_ignore_keeps_them(build):
    kept, dropped = build(), build(zero_shot__policy="drop")
    assert len(kept.train_dataset) == 6 > len(dropped.train_dataset) > 0
    assert len(kept.val_dataset) == len(dropped.val_dataset) == 4


def test_features_are_taken_of_the_training_images_under_the_validation_transforms(build):
    crop = [{"type": "RandomPaddingCrop", "crop_size": [16, 16]}, {"type": "Normalize"}]
    builder = build(train_dataset__transforms=crop)
    assert builder.train_dataset[0]["img"].shape == (3, 16, 16)
    first, again = builder.feature_dataset[0], builder.feature_dataset[0]
    assert first["img"].shape[1:] == first["label"].shape > (32, 32)
    assert np.array_equal(first["img"], again["img"])
    assert builder.feature_dataset.file_list == builder.train_dataset.file_list


def test_features_may_have_transforms_of_their_own(build):
    resize = [{"type": "Resize", "target_size": [24, 32]}, {"type": "Normalize"}]
    builder = build(zero_shot__features__transforms=resize)
    assert builder.feature_dataset[0]["img"].shape[1:] in ((24, 32), (32, 24))


def test_a_config_is_not_changed_by_its_data_sets(build):
    builder = build()
    before = repr(builder.config.dic)
    builder.train_dataset, builder.val_dataset, builder.feature_dataset
    assert repr(builder.config.dic) == before


def test_embeddings_are_one_unit_row_for_every_class(build):
    embeddings = build().embeddings
    assert embeddings.shape[0] == 5 and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
    assert len(np.unique(embeddings, axis=0)) == 5


def test_embeddings_come_from_the_file_of_the_config(build, tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    (tmp_path / "vectors.txt").write_text("\n".join(
        " ".join([name, *(f"{value:.6f}" for value in row)])
        for name, row in zip(CLASS_NAMES, rows)) + "\n")
    builder = build(zero_shot__embeddings__path=str(tmp_path / "vectors.txt"),
                    zero_shot__embeddings__normalize=False)
    np.testing.assert_allclose(builder.embeddings, rows, atol=1e-5)


def test_embeddings_of_several_files_by_a_list_on_the_command_line(tmp_path, content):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for name, columns in (("a.npz", rows[:, :3]), ("b.npz", rows[:, 3:])):
        np.savez(tmp_path / name, names=np.array(CLASS_NAMES), vectors=columns)
    path = write_config(tmp_path / "tiny.yml", content)
    builder = ZeroShotBuilder(ZeroShotConfig(path, opts=[
        f"zero_shot.embeddings.path=['{tmp_path}/a.npz', 'glove100', '{tmp_path}/b.npz']"]))
    assert builder.embeddings.shape == (5, 107)
    np.testing.assert_allclose(np.linalg.norm(builder.embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        builder.embeddings[:, :3] * np.sqrt(3),
        rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True), rtol=1e-5)


def test_colours_are_one_for_every_class(build):
    palette = build().classes.palette
    assert palette.shape == (5, 3) and palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == 5


def test_the_fingerprint_follows_the_training_files(build, content):
    assert build().fingerprint() == build(iters=9).fingerprint()
    dropped = build(zero_shot__policy="drop")
    assert build().fingerprint() == dropped.fingerprint("all") != dropped.fingerprint()


@pytest.mark.parametrize("key, value, match", [
    ("model__backbone__width", "wide", "could not make CSRLTinyNet: "),
    ("model__aspp_ratios", 5, "could not make DeepLabV3P: "),
    ("val_dataset__transforms", [{"type": "Resize", "target_size": 3}], "could not make Resize: "),
])
def test_a_component_that_cannot_be_made_is_named_in_one_line(build, key, value, match):
    with pytest.raises(UserError, match=match) as caught:
        builder = build(**{key: value})
        builder.new_segmentor(), builder.val_dataset
    assert "\n" not in str(caught.value)


def test_a_users_mistake_inside_a_component_comes_through_as_it_was_said(build):
    builder = build()
    with pytest.raises(UserError, match="^StructuralGenerator: dropout must be in"):
        builder.build_component({"type": "StructuralGenerator", "dropout": 7, "embed_dim": 3,
                                 "feature_dim": 4})
