"""tools/predict.py: PaddleSeg's predictions as pictures, from a run's folder alone."""

import json
import os
import shutil
import signal
import sys
import threading

import cv2
import numpy as np
import paddle
import paddleseg.core
import pytest
from paddleseg.transforms import Compose, Padding, Resize
from PIL import Image, ImageOps

from helpers import hostile_images, tiny_runs
from paddle_csrl import cli, stopping, visualize
from paddle_csrl.classes import ClassTable
from paddle_csrl.cli import predict
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import file_format
from paddle_csrl.datasets.transforms import ResizeShortSide
from paddle_csrl.deploy.images import ImageReader, find_images, read_ahead
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.deploy.predict import Prediction, ResultFiles, predict_images, write_behind
from paddle_csrl.errors import UserError, user_message

FOLDERS = ["added_prediction", "label_prediction", "pseudo_color_prediction"]


def read(path):
    """A picture as it is in the file; colours as RGB."""
    return np.array(Image.open(path))


def run(deployed, image_path, save_dir, *flags):
    return predict.main(["--run", deployed, "--image_path", str(image_path), "--save_dir",
                         str(save_dir), "--device", "cpu", *flags])


def builder_of(deployed):
    return DeployBuilder(ZeroShotConfig(f"{deployed}/config.yml"), f"{deployed}/model.pdparams")


@pytest.mark.parametrize("flags, options", [
    ([], {}),
    (["--is_slide", "--crop_size", "32", "32", "--stride", "16", "24"],
     {"is_slide": True, "crop_size": [32, 32], "stride": [16, 24]}),
    (["--aug_pred", "--scales", "0.75", "1.25", "--flip_horizontal"],
     {"aug_pred": True, "scales": [0.75, 1.25], "flip_horizontal": True}),
    (["--aug_pred", "--scales", "1.5", "--flip_vertical", "--is_slide", "--crop_size", "40", "40",
      "--stride", "40", "40"],
     {"aug_pred": True, "scales": [1.5], "flip_horizontal": False, "flip_vertical": True,
      "is_slide": True, "crop_size": [40, 40], "stride": [40, 40]}),
    (["--scales", "0.5", "--flip_horizontal"], {}),  # without --aug_pred they mean nothing
], ids=["plain", "slide", "augmented", "both", "scales alone"])
def test_labels_are_those_of_paddleseg(deployed, photos, tmp_path, flags, options):
    result = run(deployed, photos, tmp_path / "ours", *flags)
    assert result == {"predicted": 3, "failed": {}, "save_dir": str(tmp_path / "ours")}
    builder = builder_of(deployed)
    listed = [f"{photos}/{name}" for name in ("a.jpg", "b.PNG", "sub/c.bmp")]
    paddleseg.core.predict(
        builder.new_segmentor(pretrained=False), f"{deployed}/model.pdparams", builder.transforms,
        listed, photos, str(tmp_path / "theirs"), **options)
    values = set()
    for name in ("a.png", "b.png", "sub/c.png"):
        ours = read(tmp_path / "ours" / "label_prediction" / name)
        theirs = read(tmp_path / "theirs" / "pseudo_color_prediction" / name)  # ids and a palette
        assert np.array_equal(ours, theirs) and ours.dtype == np.uint8 and ours.ndim == 2
        values |= set(np.unique(ours))
    assert len(values) > 1


def test_pictures_show_the_label(deployed, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(deployed, photos, "out", "--confidence")
    assert os.listdir(tmp_path) == ["out"]  # no data set was drawn, no cache made
    tmp_path /= "out"
    assert sorted(os.listdir(tmp_path)) == sorted([*FOLDERS, "confidence"])
    classes = ClassTable.parse(json.load(open(f"{deployed}/classes.json", encoding="utf-8")), "")
    label = read(tmp_path / "label_prediction" / "b.png")
    image = read(f"{photos}/b.PNG")
    mixed = np.rint(0.4 * image + 0.6 * classes.palette[label])
    assert np.array_equal(read(tmp_path / "added_prediction" / "b.png"), mixed)
    mask = read(tmp_path / "pseudo_color_prediction" / "b.png")
    assert np.array_equal(mask[:288:6, :288:6], classes.palette[label])  # 48 pixels, six times
    assert mask.shape[0] > 288 + 25


def test_confidence_is_the_softmax_of_the_class(deployed, photos, tmp_path):
    run(deployed, f"{photos}/a.jpg", tmp_path, "--confidence")
    builder = builder_of(deployed)
    pixels = builder.transforms({"img": f"{photos}/a.jpg"})["img"][None]
    with paddle.no_grad():
        logits = np.float64(builder.trained_model(paddle.to_tensor(pixels))[0].numpy()[0])
    scores = np.exp(logits - logits.max(0))
    scores /= scores.sum(0)
    written = read(tmp_path / "confidence" / "a.png")
    assert written.dtype == np.uint8 and written.ndim == 2
    assert np.abs(written - 255 * scores.max(0)).max() <= 0.51
    assert np.array_equal(read(tmp_path / "label_prediction" / "a.png"), scores.argmax(0))


@pytest.mark.parametrize("name", ["shapes", "custom"])
def test_every_run_leaves_its_classes(finished, name):
    run = finished(name)
    content = json.load(open(run.path("classes.json"), encoding="utf-8"))
    builder = run.builder()
    assert content == {"class_names": builder.classes.names,
                       "unseen": [builder.classes.names[i] for i in builder.classes.unseen_ids],
                       "palette": builder.classes.palette.tolist()}
    metrics = [(item["name"], item["seen"]) for item in run.metrics["classes"]]
    assert metrics == [(item, item not in content["unseen"]) for item in content["class_names"]]


def test_the_written_config_finds_the_stages_finished(finished, tmp_path):
    """PaddleSeg's builder adds keys to a config as it builds; config.yml must not hold them."""
    run = finished("shapes").copy(tmp_path / "run")
    before = tiny_runs.times(run.path("segmentor"))
    run._replace(recipe=tiny_runs.Recipe(run.path("config.yml"), ())).again()
    assert tiny_runs.times(run.path("segmentor")) == before


def test_classes_come_from_the_config_where_the_file_is_missing(finished, photos, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    os.remove(run.path("classes.json"))
    classes = builder_of(run.folder).classes
    assert tuple(classes.names) == tiny_runs.CLASSES
    assert classes.unseen_ids.tolist() == [3, 4]
    assert np.array_equal(classes.palette, visualize.palette(5))


@pytest.mark.parametrize("content, match", [
    (None, "no classes.json beside .*tools/train.py writes the file"),
    ("{", "does not hold `class_names`"),
    ("[]", "does not hold `class_names`"),
    ('{"class_names": ["a"], "unseen": ["a"]}', "does not hold"),
    ('{"class_names": ["a", "a"], "unseen": ["a"], "palette": []}', "a twice"),
    ('{"class_names": ["a", "b"], "unseen": ["c"], "palette": []}', "holds c, which is no class"),
    ('{"class_names": ["a", "b"], "unseen": ["b"], "palette": [[0, 0, 0]]}', "three whole"),
    ('{"class_names": ["a", "b"], "unseen": ["b"], "palette": [[0, 0, 0], [0, 1]]}',
     "three whole"),
    ('{"class_names": ["a", "b"], "unseen": ["b"], "palette": [[0, 0, 0], [0, 1, 256]]}',
     "three whole"),
    ('{"class_names": ["a", "b"], "unseen": ["b"], "palette": [[0, 0, 0], [0, 1, 2]]}',
     "names 2 classes, but `model.num_classes: 21`"),
])
def test_missing_and_broken_classes_are_told(deployed, photos, tmp_path, content, match):
    copy = shutil.copytree(deployed, tmp_path / "run")
    os.remove(copy / "classes.json")
    if content:
        (copy / "classes.json").write_text(content)
    with pytest.raises(UserError, match=match):
        run(str(copy), photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_own_colors(deployed, photos, tmp_path):
    run(deployed, photos, tmp_path, "--custom_color", "1", "2", "3")
    label = read(tmp_path / "label_prediction" / "a.png")
    table = ClassTable.parse(json.load(open(f"{deployed}/classes.json", encoding="utf-8")), "")
    palette = table.palette.copy()
    palette[0] = 1, 2, 3
    mixed = np.rint(0.4 * read(f"{photos}/a.jpg") + 0.6 * palette[label])
    assert np.abs(read(tmp_path / "added_prediction" / "a.png") - mixed).max() <= 1
    assert table.recolored(None) is table
    for wrong in ([1, 2], [1, 2, 256], [-1, 2, 3], [0] * 66):
        with pytest.raises(UserError, match="--custom_color"):
            table.recolored(wrong)


def test_a_list_of_images_with_labels_and_blanks(deployed, photos, tmp_path):
    """As PaddleSeg's lists: relative to the file, what follows the image is left alone."""
    root = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(root / "a.jpg", root / "a b.jpg")
    (root / "val.txt").write_text("a.jpg labels/a.png\n\nsub/c.bmp\na b.jpg\na.jpg\nno.jpg\n")
    result = run(deployed, root / "val.txt", tmp_path / "out")
    assert result["predicted"] == 3
    assert list(result["failed"]) == [str(root / "no.jpg")]
    assert tiny_runs.files(str(tmp_path / "out" / "label_prediction")) == [
        "a b.png", "a.png", "sub/c.png"]


@pytest.mark.parametrize("separator", ["\t", ",", ", ", ";"])
def test_a_list_with_another_separator(tmp_path, separator):
    """As names with blanks need it."""
    names = ["a b.jpg", "c.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "val.txt").write_text("".join(f"{name}{separator}labels/{name}\n"
                                              for name in names))
    assert [path for path, _ in find_images(str(tmp_path / "val.txt"))] == [
        str(tmp_path / name) for name in names]


def test_results_keep_apart_what_differs_in_folder_or_ending(tmp_path):
    for name in ("x/a.jpg", "x/a.png", "y/a.jpg", "z.jpeg", ".hidden.jpg", ".cache/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [name for _, name in find_images(str(tmp_path))] == ["z", "x/a.jpg", "x/a.png", "y/a"]
    [image] = find_images(str(tmp_path / "z.jpeg"))
    assert image == (str(tmp_path / "z.jpeg"), "z")
    (tmp_path / "x" / "list.txt").write_text("a.jpg\n../y/a.jpg\n")
    assert [name for _, name in find_images(str(tmp_path / "x" / "list.txt"))] == ["x/a", "y/a"]


def test_broken_images_are_passed_over_and_named(deployed, photos, tmp_path, capfd):
    root = shutil.copytree(photos, tmp_path / "photos")
    (root / "cut.jpg").write_bytes((root / "a.jpg").read_bytes()[:300])
    (root / "empty.png").write_bytes(b"")
    (root / "text.jpg").write_text("no picture")
    argv = ["--run", deployed, "--image_path", str(root), "--save_dir", str(tmp_path / "out"),
            "--device", "cpu", "--num_workers", "2"]
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: predict.main(argv), many=True)
    told = "".join(capfd.readouterr())
    assert ended.value.code == 1 and "Traceback" not in told
    assert "predicted 3 of 6 images" in told
    for name in ("cut.jpg", "empty.png", "text.jpg"):
        assert f"not predicted: {root / name}" in told
    assert tiny_runs.files(str(tmp_path / "out")) == sorted(
        f"{folder}/{name}" for folder in FOLDERS for name in ("a.png", "b.png", "sub/c.png"))


def test_an_image_the_model_cannot_take_stops_nothing_else(deployed, photos, tmp_path,
                                                           monkeypatch):
    forward = paddleseg.core.infer.inference

    def inference(model, im, **kwargs):
        if tuple(im.shape[2:]) == (48, 48):
            raise ValueError("too\nlarge")
        return forward(model, im, **kwargs)

    monkeypatch.setattr(paddleseg.core.infer, "inference", inference)
    result = run(deployed, photos, tmp_path)
    assert result["predicted"] == 2 and result["failed"] == {f"{photos}/b.PNG": "too large"}


def test_images_are_never_replaced(deployed, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "out" / "added_prediction")
    shutil.copy(root / "a.jpg", root / "d.png")  # its overlay would have the same name
    before = {name: tiny_runs.digest(str(root / name)) for name in tiny_runs.files(str(root))}
    with pytest.raises(UserError, match="d.png is one of the images to predict"):
        run(deployed, root, tmp_path / "out")
    assert before == {name: tiny_runs.digest(str(root / name))
                      for name in tiny_runs.files(str(root))}
    assert os.listdir(tmp_path / "out") == ["added_prediction"]


def test_what_stands_in_the_way_of_a_result_is_told(deployed, photos, tmp_path):
    (tmp_path / "one" / "label_prediction" / "a.png").mkdir(parents=True)
    with pytest.raises(UserError, match="a.png is a folder where the result of"):
        run(deployed, photos, tmp_path / "one")
    assert tiny_runs.files(str(tmp_path)) == []
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "added_prediction").write_text("a file")
    with pytest.raises(UserError, match="`--save_dir: .*added_prediction` is no folder"):
        run(deployed, photos, tmp_path / "two")
    assert tiny_runs.files(str(tmp_path)) == ["two/added_prediction"]
    with pytest.raises(UserError, match="--save_dir"):
        run(deployed, photos, tmp_path / "two" / "added_prediction")


def test_a_result_that_cannot_be_written_leaves_none_of_its_image(deployed, photos, tmp_path,
                                                                  monkeypatch):
    write = visualize.write_png

    def write_png(path, picture):
        if picture.shape == (48, 48):  # the label of b.PNG, after two of its pictures
            raise RuntimeError("no room for letters")
        write(path, picture)

    monkeypatch.setattr(visualize, "write_png", write_png)
    result = run(deployed, photos, tmp_path)
    assert result["predicted"] == 2
    assert result["failed"] == {f"{photos}/b.PNG": "no room for letters"}
    assert tiny_runs.files(str(tmp_path)) == sorted(
        f"{folder}/{name}" for folder in FOLDERS for name in ("a.png", "sub/c.png"))


def test_a_full_disk_ends_the_tool_at_the_first_image(deployed, photos, tmp_path, monkeypatch):
    tried = []

    def write_png(path, picture):
        tried.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(visualize, "write_png", write_png)
    with pytest.raises(OSError) as error:
        run(deployed, photos, tmp_path)
    assert len(tried) == 1 and not tiny_runs.files(str(tmp_path))
    assert user_message(error.value) == (
        f"cannot write {tmp_path}/added_prediction/a.png: No space left on device; free some space "
        f"and run the same command again, it goes on")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_ascii_and_not_even_text(deployed, photos, tmp_path, capsys):
    names = ["\u72d7.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    for name in names:
        shutil.copy(f"{photos}/a.jpg", tmp_path / name)
        (tmp_path / f"broken {name}").write_bytes(b"no picture")
    result = run(deployed, tmp_path, tmp_path / "out")
    assert result["predicted"] == 2 and len(result["failed"]) == 2
    said = capsys.readouterr().out
    assert f"not predicted: {tmp_path}/broken \u72d7.jpg" in said
    assert f"not predicted: {tmp_path}/broken \\udcff\\udcfe.jpg" in said
    run(deployed, f"{photos}/a.jpg", tmp_path / "plain")
    expected = read(tmp_path / "plain" / "label_prediction" / "a.png")
    for name in names:
        written = read(tmp_path / "out" / "label_prediction" / name.replace(".jpg", ".png"))
        assert np.array_equal(written, expected)


def test_results_inside_the_folder_and_of_one_name(deployed, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    for flags in (["--confidence"], []):  # results are not predicted again
        assert run(deployed, root, root, *flags)["predicted"] == 3
    shutil.copy(root / "a.jpg", root / "a.png")
    shutil.copy(root / "a.jpg", root / "a.jpg.png")
    with pytest.raises(UserError, match="would both be predicted into"):
        run(deployed, root, tmp_path / "out")


@pytest.mark.parametrize("content, match", [
    (None, "no such file or folder"),
    (b"", "lists no image"),
    (b"\xff\xfe\x00", "neither an image"),
    (b"a.jpg\0", "neither an image"),
])
def test_a_wrong_image_path_is_told(tmp_path, content, match):
    with pytest.raises(UserError, match="no file in this folder ends in .jpg"):
        find_images(str(tmp_path))
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        find_images(str(path))


@pytest.mark.parametrize("flags, match", [
    (["--is_slide"], "--is_slide needs `test_config.crop_size`"),
    (["--is_slide", "--crop_size", "32", "32", "--stride", "33", "8"], "must not be larger"),
    (["--aug_pred", "--scales", "0"], "must be numbers from 0.1 to 10"),
    (["--aug_pred", "--scales", "1", "nan"], "must be numbers from 0.1 to 10"),
    (["--aug_pred", "--scales", "inf"], "must be numbers from 0.1 to 10"),
    (["--opts", "model.num_classes=7"], "names 21 classes, but `model.num_classes: 7`"),
    (["--opts", "val_dataset.transforms=[{'type': 'RandomCenterCrop'}]"],
     "`val_dataset.transforms` must not crop"),
    (["--opts", "model.backbone.width=8"], "does not fit DeepLabV3P"),
])
def test_wrong_flags_are_told(deployed, photos, tmp_path, flags, match):
    with pytest.raises(UserError, match=match):
        run(deployed, photos, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags, match", [
    ("", "no --config; give --config FILE"),
    ("-c a.yml", "no --model_path"),
    ("--run nowhere", "--run nowhere: no config.yml"),
])
def test_the_model_must_be_named(photos, flags, match):
    with pytest.raises(UserError, match=match):
        predict.main([*flags.split(), "--image_path", photos, "--device", "cpu"])


@pytest.mark.parametrize("threads", [1, 3])
def test_few_images_are_read_ahead_in_order(threads):
    """Memory stays flat: what has been read but not yet taken is bounded."""
    begun = []

    def items():
        for item in range(50):
            begun.append(item)
            yield item

    for taken, value in enumerate(read_ahead(lambda item: item * item, items(), threads)):
        assert value == taken ** 2
        assert len(begun) <= taken + 1 + threads
    assert taken == 49


def test_writing_goes_on_beside_and_one_at_a_time():
    """An item is made while the one before is written, and is written only once that is out."""
    events, made_next = [], threading.Event()

    def items():
        for item in range(5):
            events.append(f"make {item}")
            if item == 1:
                made_next.set()
            yield item

    def write(item):
        assert made_next.wait(10)  # nothing else would go on if writing were no thread
        events.append(f"write {item}")
        return item * item

    for taken, value in enumerate(write_behind(write, items())):
        assert value == taken ** 2
        assert f"write {taken + 1}" not in events
    assert taken == 4 and [event for event in events if event.startswith("write")] == [
        f"write {item}" for item in range(5)]
    assert not list(write_behind(write, []))


@pytest.mark.parametrize("threads", [0, 2])
def test_few_images_are_held_and_errors_keep_their_order(tmp_path, threads):
    """Whatever step fails, the names come in the order of the images, and memory stays flat."""
    begun, done, held = [], [], []  # an append is safe in any thread
    faults = {3: "read", 4: "predict", 5: "write", 9: "write", 10: "read"}
    for index in range(30):
        Image.new("RGB", (8, 6), (index, 0, 0)).save(tmp_path / f"{index:02d}.png")

    class Reader(ImageReader):
        def __call__(self, path):
            index = int(os.path.basename(path)[:2])
            if faults.get(index) == "read":
                raise ValueError(f"read {index}")
            begun.append(index)
            held.append(len(begun) - len(done))
            return super().__call__(path)

    class Results(ResultFiles):
        def write(self, name, image, prediction):
            done.append(name)
            if faults.get(int(name)) == "write":
                raise ValueError(f"write {int(name)}")
            super().write(name, image, prediction)

    def predictor(sample):
        index = sample.image[0, 0, 0]
        if faults.get(index) == "predict":
            done.append(index)
            raise ValueError(f"predict {index}")
        return Prediction(np.full((6, 8), index % 3, np.int32), None)

    classes = ClassTable(["a", "b", "c"], np.array([2]), visualize.palette(3))
    result = predict_images(str(tmp_path), Results(str(tmp_path / "out"), classes),
                            Reader(Compose([])), predictor, threads)
    assert list(result["failed"].items()) == [
        (f"{tmp_path}/{index:02d}.png", f"{step} {index}") for index, step in faults.items()]
    assert len(done) == len(begun) == 28
    assert max(held) <= max(threads, 1) + 3  # read ahead, predicted, written
    for index in set(range(30)) - set(faults):
        assert (read(tmp_path / "out" / "label_prediction" / f"{index:02d}.png")
                == index % 3).all()


def test_a_stop_leaves_the_image_before_whole_and_nothing_half_written(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
    predicted, told, write_png = [], threading.Event(), visualize.write_png

    def write(path, picture):
        told.wait(10)
        write_png(path, picture)

    def predictor(sample):
        predicted.append(sample)
        if len(predicted) == 2:
            told.set()
            raise stopping.Stopped(signal.SIGTERM)
        return Prediction(np.zeros((6, 8), np.int32), None)

    monkeypatch.setattr(visualize, "write_png", write)
    results = ResultFiles(str(tmp_path / "out"),
                          ClassTable(["a"], np.array([], int), visualize.palette(1)))
    with pytest.raises(stopping.Stopped):
        predict_images(str(tmp_path), results, ImageReader(Compose([])), predictor)
    assert tiny_runs.files(str(tmp_path / "out")) == [f"{folder}/a.png" for folder in FOLDERS]


def test_reading_spreads_grey_over_three_channels(tmp_path):
    picture = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
    Image.fromarray(picture).save(tmp_path / "grey.png")
    grey = ImageReader(Compose([]))(str(tmp_path / "grey.png"))
    assert np.array_equal(grey.image, picture[..., None].repeat(3, axis=2))
    assert np.array_equal(grey.pixels[0], picture[None].repeat(3, axis=0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", pytest.param(
    "WEBP", marks=pytest.mark.skipif(file_format._WEBP_IS_UNSAFE, reason="refused"))])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_results_fit_what_viewers_show(tmp_path, kind, orientation):
    """A corner that is bright in what Pillow shows is bright in the mask, of the same size."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / f"photo.{kind.lower()}")
    Image.fromarray(stored).save(path, kind, exif=exif)
    with Image.open(path) as file:
        shown = np.array(ImageOps.exif_transpose(file))[..., 0] > 127
    assert shown.shape == ((48, 64) if orientation < 5 else (64, 48))
    results = ResultFiles(str(tmp_path / "out"), ClassTable(["dark", "bright"], np.array([1]),
                                                            np.array([[0, 0, 0], [9, 9, 9]])))
    predict_images(path, results, ImageReader(Compose([])),
                   lambda sample: Prediction((sample.pixels[0, 0] > 127).astype(np.int32), None))
    assert np.array_equal(read(tmp_path / "out/label_prediction/photo.png"), shown)


def test_linked_folders_deep_images_and_other_files_are_told(deployed, photos, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked").symlink_to(photos)
    shutil.copy(f"{photos}/a.jpg", folder / "a.jfif")
    cv2.imwrite(str(folder / "deep.png"), np.full((40, 50, 3), 2047, np.uint16))
    cv2.imwrite(str(folder / "deep.tif"), np.full((40, 50, 3), 0.5, np.float32))
    (folder / "a.heic").write_bytes(b"photo")
    assert run(deployed, folder, tmp_path / "out")["predicted"] == 3
    printed = capsys.readouterr().out
    assert f"the linked folder {folder / 'linked'} is not searched" in printed
    assert f"1 of 4 files are passed over, such as {folder / 'a.heic'}; images end in" in printed
    assert f"2 images are not of 8 bits, such as {folder / 'deep.png'}" in printed


@pytest.mark.parametrize("transforms, size", [
    ([Resize([24, 36])], (36, 24)),
    ([Padding([64, 72])], (72, 64)),
    ([Resize([24, 36]), Padding([64, 72])], (72, 64)),
    ([ResizeShortSide(20)], (20, 28)),  # notes nothing in trans_info
    ([ResizeShortSide(20), Padding([64, 72])], (72, 64)),
    ([Padding([112, 80]), ResizeShortSide(40)], (40, 56)),
])
def test_predictions_have_the_size_of_the_image(photos, transforms, size):
    sample = ImageReader(Compose(transforms))(f"{photos}/a.jpg")
    assert sample.image.shape == (40, 56, 3) and sample.pixels.shape == (1, 3, *size)
    _, logits = paddleseg.core.infer.inference(
        lambda pixels: [pixels], paddle.to_tensor(sample.pixels), trans_info=sample.trans_info)
    assert logits.shape == [1, 3, 40, 56]
    # Everything is where it was, but for the blur of scaling.
    back = cv2.blur(logits[0].numpy().transpose(1, 2, 0), (5, 5))
    assert np.abs(back - cv2.blur(np.float32(sample.image), (5, 5))).mean() < 12


def test_a_mask_is_enlarged_and_stars_unseen_classes():
    label = np.array([[0, 1, 2], [2, 2, 255]])
    palette = np.array([[9, 9, 9], [200, 0, 0], [0, 0, 200]], np.uint8)
    mask = visualize.labelled_mask(label, ["ground", "a", "b"], [2], palette)
    assert mask.shape[1] == 288
    shown = mask[48:192:96, 48::96]  # the middle of each pixel, enlarged 96 times
    assert np.array_equal(shown[0], palette[[0, 1, 2]])
    assert np.array_equal(shown[1, :2], palette[[2, 2]])
    assert len(np.unique(mask[96:192, 192:].reshape(-1, 3), axis=0)) == 2  # hatched
    unmarked = visualize.labelled_mask(label, ["ground", "a", "b"], [], palette)
    assert np.array_equal(mask[:192], unmarked[:192]) and mask.shape != unmarked.shape
    narrow = visualize.labelled_mask(np.ones((400, 4), int), ["ground", "a"])
    assert narrow.shape[1] == 288 and (narrow[:400, 4:] == 255).all()
    large = np.ones((700, 1300), int)
    assert visualize.labelled_mask(large, ["ground", "a"]).shape[1] == 1300
    with pytest.raises(UserError, match="has the id 3"):
        visualize.labelled_mask(np.full((2, 2), 3), ["ground", "a", "b"])


def test_the_legend_names_what_occurs_and_is_as_new_each_time():
    palette = visualize.palette(6)
    names = ["sky", "a long name of a class", "cow", "tree", "grass", "car"]
    first = visualize.labelled_mask(np.array([[0, 2], [2, 5]]), names, [2], palette)
    expected = first.copy()
    first[:] = 7  # what is kept of a legend is no part of a picture that was given out
    other = visualize.labelled_mask(np.array([[1, 2], [3, 4]]), names, [2], palette)
    assert np.array_equal(
        visualize.labelled_mask(np.array([[0, 2], [2, 5]]), names, [2], palette), expected)
    for mask, present in ((expected, {0, 2, 5}), (other, {1, 2, 3, 4})):
        legend = mask[288:].reshape(-1, 3)  # two pixels, enlarged
        shown = {index for index, color in enumerate(palette)
                 if (legend == color).all(axis=1).sum() > 100}
        assert shown == present
    unlike = visualize.labelled_mask(np.array([[0, 2], [2, 5]]), names, [2], palette[::-1].copy())
    assert not np.array_equal(unlike[288:], expected[288:])


@pytest.mark.parametrize("name, content, says", [
    ("giga.png", hostile_images.png(15000, 10000), "has 15000 x 10000 pixels"),
    ("giga.jpg", hostile_images.jpeg(65000, 65000), "has more than 268435456 pixels"),
    ("late.webp", b"RIFF\x10\0\0\0WEBPVP8L\0\0\0\0", "is a WebP, by which a file can take over")])
def test_images_that_must_not_be_decoded_fail_alone(deployed, photos, tmp_path, monkeypatch, name,
                                                    content, says):
    monkeypatch.setattr(file_format, "_WEBP_IS_UNSAFE", True)
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(f"{photos}/a.jpg", folder)
    path = hostile_images.write(folder / name, content)
    result = run(deployed, folder, tmp_path / "out")
    assert result["predicted"] == 1 and list(result["failed"]) == [path]
    assert says in result["failed"][path]


def test_a_reader_with_a_limit_makes_images_smaller(tmp_path):
    path = str(tmp_path / "x.png")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    cv2.imwrite(path, picture)
    sample = ImageReader(Compose([]), 150 * 100)(path)
    assert sample.image.shape == (100, 150, 3) and sample.pixels.shape == (1, 3, 100, 150)
    means = picture.reshape(100, 2, 150, 2, 3).mean((1, 3))[..., ::-1]
    assert np.abs(sample.image - means).max() <= 1
    assert ImageReader(Compose([]), 200 * 300)(path).image.shape == (200, 300, 3)
