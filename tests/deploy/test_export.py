"""tools/export.py and tools/infer.py: exported models predict what the trained one predicts."""

import os
import shutil
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import onnxruntime
import paddle
import pytest
import yaml
from paddleseg.deploy.export import WrappedModel
from paddleseg.deploy.infer import DeployConfig
from paddleseg.transforms import Compose
from PIL import Image

from helpers import tiny_runs
from paddle_csrl.cli import export, infer, predict
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy import export as module
from paddle_csrl.deploy.exported import DeployInfo, fit_to_shape, load_backend, paddle_backend
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError

#: Paddle 3 writes its programs as JSON.
PROGRAM = "model.pdmodel" if paddle.__version__ < "3" else "model.json"
FILES = {"paddle": ["deploy.yaml", PROGRAM, "model.pdiparams"], "onnx": ["deploy.yaml",
                                                                         "model.onnx"]}


@pytest.fixture(scope="module")
def run(finished):
    return finished("custom")


@pytest.fixture(scope="module")
def exported(exports):
    """``exported(target, output_op)``: the folder of the run exported like that."""
    return lambda target, output_op="argmax": exports("--format", target, "--output_op",
                                                      output_op)[0]


@pytest.fixture(scope="module")
def exports(run, photos, tmp_path_factory):
    """``exports(*flags)``: folder and result of the run exported with ``flags``, made once."""
    done = {}
    # On its way to a file, paddle2onnx would let Polygraphy install packages. This one tells.
    decoy = tmp_path_factory.mktemp("decoy")
    (decoy / "polygraphy.py").write_text(f"open({str(decoy / 'imported')!r}, 'w')")

    def get(*flags):
        if flags not in done:
            folder = str(tmp_path_factory.mktemp("exported"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", str(decoy), prepend=os.pathsep)
                done[flags] = folder, run_export(run, folder, *flags)
            assert os.listdir(decoy) == ["polygraphy.py"]
        return done[flags]

    return get


def run_export(run, folder, *flags):
    return export.main(["--run", run.folder, "--save_dir", str(folder), *flags])


def test_weights_that_a_full_disk_has_cut_are_not_written(run, tmp_path, monkeypatch):
    save = paddle.jit.save

    def cut(network, path):
        save(network, path)
        os.remove(f"{path}.pdiparams")
        os.symlink("/dev/full", f"{path}.pdiparams")  # has no byte, nor room for any

    monkeypatch.setattr(paddle.jit, "save", cut)
    with pytest.raises(UserError, match=f"only 0 bytes of the weights could be written to "
                                        f"{tmp_path} .No space left on device.; free some space"):
        run_export(run, tmp_path)
    assert os.listdir(tmp_path) == []


class HeadInTraining(paddle.nn.Layer):
    """With weights that only training uses, as the auxiliary heads of BiSeNetV2 and others."""

    def __init__(self):
        super().__init__()
        self.main, self.auxiliary = paddle.nn.Conv2D(3, 2, 1), paddle.nn.Conv2D(3, 1000, 1)

    def forward(self, images):
        return [self.main(images), *([self.auxiliary(images)] if self.training else [])]


def test_weights_that_only_training_uses_need_not_be_there(tmp_path):
    model = HeadInTraining()
    files = module._save_paddle(model, [-1, 3, -1, -1], "none", str(tmp_path))
    assert os.path.getsize(files[1]) < 1000 < 4 * model.auxiliary.weight.size
    images = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    weight, bias = model.main.weight.numpy()[:, :, 0, 0], model.main.bias.numpy()
    expected = np.einsum("kc,nchw->nkhw", weight, images) + bias[:, None, None]
    np.testing.assert_allclose(paddle_backend(*files)(images), expected, atol=1e-5)


def test_a_network_of_which_no_graph_can_be_made_is_told(tmp_path):
    class AsksForSize(HeadInTraining):  # as SwinTransformer does
        def forward(self, images):
            return [self.main(images)[:, :, :int(np.ceil(images.shape[2] / 2))]]

    module._save_paddle(AsksForSize(), [-1, 3, 8, 8], "none", str(tmp_path))
    with pytest.raises(UserError, match="^AsksForSize cannot be exported with --input_shape "
                                        "-1 3 -1 -1 .*; try a fixed one, such as 1 3 512 512, or"):
        module._save_paddle(AsksForSize(), [-1, 3, -1, -1], "none", str(tmp_path))


class OfEvenSides(paddle.nn.Layer):
    """Adds what strides of 2 make of an image to it, which needs sides that 8 divides."""

    def forward(self, images):
        small = images[:, :, ::8, ::8]
        return [images + paddle.nn.functional.interpolate(small, scale_factor=8)]


def test_a_network_that_needs_multiples_of_its_stride_is_compared_on_some():
    builder = SimpleNamespace(trained_model=OfEvenSides(), transforms=Compose([]))
    (name, pixels), = module._images(builder, [-1, 3, -1, -1], None).items()
    assert name == "a random image, 128 x 256" and pixels.shape == (1, 3, 128, 256)
    (name, pixels), = module._images(builder, [2, 3, 32, -1], None).items()
    assert name == "a random image, 32 x 256" and pixels.shape == (2, 3, 32, 256)
    builder.trained_model = HeadInTraining()
    assert list(module._images(builder, [-1, 3, -1, -1], None)) == ["a random image, 97 x 130"]


def test_a_network_that_does_not_run_on_an_image_is_told():
    pixels = np.zeros((1, 3, 16, 17), np.float32)
    with pytest.raises(UserError, match="^OfEvenSides does not run on an image of 16 x 17 pixels "
                                        ".*; give sides that its stride divides, such as"):
        module._compare(OfEvenSides(), None, "odd", pixels)


def test_what_is_lost_of_a_test_config_is_told(run, saved, tmp_path, capsys):
    saved("argmax")
    told = "`test_config.aug_eval` is no part of the exported model"
    run_export(run, tmp_path / "plain")
    assert told not in capsys.readouterr().out
    run_export(run, tmp_path / "augmented", "--opts", "test_config.aug_eval=true")
    assert told in capsys.readouterr().out


def run_infer(folder, photos, save_dir, *flags):
    return infer.main(["--config", os.path.join(str(folder), "deploy.yaml"), "--image_path",
                       str(photos), "--save_dir", str(save_dir), "--device", "cpu",
                       "--cpu_threads", "1", *flags])


def run_predict(run, photos, save_dir, *flags):
    return predict.main(["--run", run.folder, "--image_path", photos, "--save_dir",
                         str(save_dir), "--device", "cpu", *flags])


def builder_of(run):
    return DeployBuilder(ZeroShotConfig(run.path("config.yml")), run.path("model.pdparams"))


def content_of(folder):
    with open(os.path.join(folder, "deploy.yaml"), encoding="utf-8") as file:
        return yaml.safe_load(file)["Deploy"]


def altered(folder, copy, change):
    """A copy of ``folder`` whose deploy.yaml ``change`` has altered."""
    shutil.copytree(folder, copy)
    change(content := content_of(copy))
    (copy / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": content}))
    return copy


@pytest.fixture
def saved(exported, monkeypatch):
    """``saved(output_op)``: let the next export save what an earlier one saved, for speed."""
    def set_up(output_op):
        folder = exported("paddle", output_op)
        monkeypatch.setattr(module, "_save_paddle", lambda model, shape, op, aside: [
            shutil.copy(f"{folder}/{name}", aside) for name in (PROGRAM, "model.pdiparams")])

    return set_up


def same_pictures(first, second):
    names = tiny_runs.files(str(first))
    assert names == tiny_runs.files(str(second)) and names
    return all(tiny_runs.digest(os.path.join(first, name))
               == tiny_runs.digest(os.path.join(second, name)) for name in names)


@pytest.mark.parametrize("target", FILES)
def test_exported_pictures_are_those_of_the_trained_model(run, exported, photos, tmp_path, target):
    folder = exported(target)
    assert sorted(os.listdir(folder)) == sorted(FILES[target])
    assert run_infer(folder, photos, tmp_path / "exported")["predicted"] == 3
    run_predict(run, photos, tmp_path / "trained")
    assert same_pictures(tmp_path / "trained", tmp_path / "exported")
    labels = [np.unique(np.array(Image.open(tmp_path / "exported" / "label_prediction" / name)))
              for name in ("a.png", "b.png", "sub/c.png")]
    assert len(np.unique(np.concatenate(labels))) > 1


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize("output_op", ["softmax", "none"])
def test_scores_are_those_of_the_trained_model(run, exported, photos, tmp_path, target, output_op):
    """The files are run here by hand, without the project's back ends."""
    folder = exported(target, output_op)
    builder = builder_of(run)
    rng = np.random.default_rng(2)
    for size in ((1, 3, 41, 70), (2, 3, 64, 33)):
        pixels = rng.standard_normal(size).astype(np.float32)
        with paddle.no_grad():
            expected = builder.trained_model(paddle.to_tensor(pixels))[0].numpy()
        if output_op == "softmax":
            expected = np.exp(expected - expected.max(1, keepdims=True))
            expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(by_hand(folder, pixels), expected, rtol=1e-4,
                                   atol=5e-4)


def by_hand(folder, pixels):
    if "model.onnx" in os.listdir(folder):
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx",
                                               providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return paddle_backend(f"{folder}/{PROGRAM}", f"{folder}/model.pdiparams")(pixels)


@pytest.mark.parametrize("output_op", ["softmax", "none"])
def test_confidence_of_an_exported_model(run, exported, photos, tmp_path, output_op):
    folder = exported("onnx", output_op)
    run_infer(folder, photos, tmp_path / "exported", "--confidence")
    run_predict(run, photos, tmp_path / "trained", "--confidence")
    for name in ("a.png", "b.png"):
        ours, trained = (np.int64(Image.open(tmp_path / kind / "confidence" / name))
                         for kind in ("exported", "trained"))
        assert np.abs(ours - trained).max() <= 1


@pytest.mark.parametrize("output_op", ["softmax", "none"])
def test_scores_of_a_resized_image_are_brought_back_as_in_training(run, exported, photos, tmp_path,
                                                                   output_op):
    transforms = [{"type": "Resize", "target_size": [32, 24]}, {"type": "Normalize"}]
    folder = altered(exported("paddle", output_op), tmp_path / "resizing",
                     lambda content: content.update(transforms=transforms))
    run_infer(folder, photos, tmp_path / "exported", "--confidence")
    run_predict(run, photos, tmp_path / "trained", "--confidence", "--opts",
                f"val_dataset.transforms={transforms}")
    for name in ("a.png", "b.png", "sub/c.png"):
        for kind, most in (("label_prediction", 0), ("confidence", 1)):
            ours, trained = (np.int64(Image.open(tmp_path / made / kind / name))
                             for made in ("exported", "trained"))
            assert np.abs(ours - trained).max() <= most


@pytest.mark.parametrize("target", FILES)
def test_a_fixed_size_takes_images_of_any_size(run, exports, photos, tmp_path, target):
    folder, result = exports("--format", target, "--input_shape", "1", "3", "48", "64",
                             "--output_op", "none", "--image_path", f"{photos}/b.PNG")
    assert [parity.image for parity in result["parity"]] == ["a random image, 48 x 64",
                                                             f"{photos}/b.PNG"]
    assert content_of(folder)["input_shape"] == [1, 3, 48, 64]
    run_infer(folder, photos, tmp_path)
    builder = builder_of(run)
    image = cv2.imread(f"{photos}/a.jpg")  # 40 x 56
    pixels = builder.transforms({"img": image.astype(np.float32)})["img"]
    scaled = np.stack([cv2.resize(channel, (64, 48)) for channel in pixels])
    with paddle.no_grad():
        logits = builder.trained_model(paddle.to_tensor(scaled[None]))[0]
        logits = paddle.nn.functional.interpolate(logits, [40, 56], mode="bilinear")[0].numpy()
    label = np.array(Image.open(tmp_path / "label_prediction" / "a.png"))
    best = np.sort(logits, axis=0)
    decided = best[-1] - best[-2] > 1e-4
    assert decided.mean() > 0.9
    assert np.array_equal(label[decided], logits.argmax(0)[decided])


def test_fitting_to_a_shape():
    pixels = np.random.default_rng(0).random((1, 3, 10, 20)).astype(np.float32)
    assert fit_to_shape(pixels, [-1, 3, -1, -1]) == (pixels, [])
    scaled, back = fit_to_shape(pixels, [1, 3, 5, -1])
    assert scaled.shape == (1, 3, 5, 20) and back == [("resize", (10, 20))]
    np.testing.assert_allclose(scaled[0, 1, 0], pixels[0, 1, :2].mean(0), rtol=1e-6)
    grey, _ = fit_to_shape(pixels[:, :1], [1, 1, 20, 20])
    assert grey.shape == (1, 1, 20, 20)


@pytest.mark.parametrize("target", FILES)
def test_deploy_yaml_is_one_of_paddleseg(run, exported, target):
    folder = exported(target)
    content, builder = content_of(folder), builder_of(run)
    assert content == {
        "model": "model.onnx" if target == "onnx" else PROGRAM,
        "params": None if target == "onnx" else "model.pdiparams",
        "transforms": builder.config.val_dataset_cfg["transforms"],
        "input_shape": [-1, 3, -1, -1], "output_op": "argmax", "output_dtype": "int32",
        "class_names": list(tiny_runs.CLASSES), "unseen": ["cow", "car"],
        "palette": builder.classes.palette.tolist()}
    if target == "paddle":
        theirs = DeployConfig(f"{folder}/deploy.yaml")
        assert os.path.isfile(theirs.model) and os.path.isfile(theirs.params)
        image = np.float32(cv2.imread(run.builder().val_dataset.dataset.file_list[0][0]))
        ours = DeployInfo.read(f"{folder}/deploy.yaml").compose
        assert np.array_equal(theirs.transforms({"img": image})["img"],
                              ours({"img": image})["img"])


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize("output_op", ["argmax", "softmax", "none"])
def test_parity_is_checked_on_a_random_and_a_real_image(run, exports, target, output_op):
    folder, result = exports("--format", target, "--output_op", output_op)
    assert result["config"] == f"{folder}/deploy.yaml"
    first = run.builder().val_dataset.dataset.file_list[0][0]
    assert [parity.image for parity in result["parity"]] == ["a random image, 97 x 130", first]
    for parity in result["parity"]:
        assert parity.holds and parity.equal > 0.999
        assert parity.max_difference < 2e-5 * parity.largest
        assert "equal argmax" in str(parity)


@pytest.mark.parametrize("output_op, fault", [
    ("argmax", lambda output: np.roll(output, 1, axis=-1)),
    ("softmax", lambda output: output * np.float32(np.nan)),
    ("none", lambda output: output + np.float32(2e-4 * np.abs(output).max())),
], ids=["shifted", "not a number", "a little off"])
def test_a_model_that_differs_is_not_written(run, saved, tmp_path, monkeypatch, output_op, fault):
    saved(output_op)
    (tmp_path / "deploy.yaml").write_text("of before")
    monkeypatch.setattr(module, "load_backend",
                        lambda info: lambda pixels: fault(load_backend(info)(pixels)))
    with pytest.raises(UserError, match="is not the trained one .*nothing was written"):
        run_export(run, tmp_path, "--output_op", output_op)
    assert os.listdir(tmp_path) == ["deploy.yaml"]
    assert (tmp_path / "deploy.yaml").read_text() == "of before"


def test_parity_judges_by_the_largest_score():
    def parity(difference, largest):
        return module.Parity("", difference, largest, 1.0)

    assert parity(0.9e-4, 0.5).holds and not parity(1.1e-4, 0.5).holds
    assert parity(0.9e-3, 10.0).holds and not parity(1.1e-3, 10.0).holds
    assert not parity(float("nan"), 1.0).holds


def test_the_graph_is_that_of_a_stock_export(run, exported, tmp_path):
    """The same operators in the same order as PaddleSeg's own export: the same latency."""
    folder = exported("paddle")
    stock = WrappedModel(builder_of(run).trained_model, "argmax")
    stock.eval()
    static = paddle.jit.to_static(
        stock, input_spec=[paddle.static.InputSpec([-1, 3, -1, -1], "float32", "x")],
        full_graph=True)
    paddle.jit.save(static, str(tmp_path / "model"))
    ours, theirs = operators(f"{folder}/model"), operators(str(tmp_path / "model"))
    assert ours == theirs and sum("conv2d" in name for name in ours) > 5


def operators(path):
    """Names of the operators of a saved program, in order."""
    paddle.enable_static()
    try:
        executor = paddle.static.Executor(paddle.CPUPlace())
        program, _, _ = paddle.static.load_inference_model(path, executor)
    finally:
        paddle.disable_static()
    return [op.type if paddle.__version__ < "3" else op.name()
            for op in program.global_block().ops]


def test_export_needs_no_data(deployed, tmp_path):
    [parity] = export.main(["--run", deployed, "--save_dir", str(tmp_path)])["parity"]
    assert parity.image == "a random image, 97 x 130"


@pytest.mark.parametrize("flags, match", [
    *((f"--input_shape {shape}", f"--input_shape {shape}: give batch")
      for shape in ("1 3 32", "1 3 0 32", "0 3 32 32", "1 4 32 32", "1 3 -2 32")),
    ("--input_shape 1 3 99999 99999", "--input_shape 1 3 99999 99999 has more than"),
    # Each of these would end the process.
    *((f"--format onnx --opset {opset}", f"--opset {opset}: paddle2onnx writes 11 to 19")
      for opset in (10, 20, 99)),
    ("--image_path no.png", "no file at no.png"),
    ("--model_path no.pdparams", "no weights at no.pdparams"),
    ("--opts val_dataset.transforms=[{'type':'RandomCenterCrop'}]",
     "`val_dataset.transforms` must not crop"),
])
def test_wrong_flags_are_told(run, tmp_path, flags, match):
    with pytest.raises(UserError, match=match):
        run_export(run, tmp_path / "out", *flags.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["paddle2onnx", "onnxruntime"])
def test_a_missing_package_is_told(run, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"needs the package {name}: pip install"):
        run_export(run, tmp_path / "out", "--format", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("export_code, match", [
    ("raise RuntimeError('no\\nsuch operator')", "such operator"),
    ("print('[ERROR] no such operator'); print('more'); import os; os.abort()",
     "no such operator"),
    ("return b'no model'", "[Pp]rotobuf"),
], ids=["raises", "ends its process", "does not run"])
def test_a_failing_conversion_is_told(run, saved, tmp_path, monkeypatch, export_code, match):
    """With another package in its place; the true one ends its process at PP-LiteSeg."""
    saved("argmax")
    (tmp_path / "paddle2onnx.py").write_text(f"def export(*args, **kwargs):\n    {export_code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=f"could not convert .* 16 .*{match}.*; try another"):
        run_export(run, tmp_path / "out", "--format", "onnx")
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_in_the_place_of_a_file_is_told(run, saved, tmp_path):
    saved("argmax")
    (tmp_path / "deploy.yaml").mkdir()
    with pytest.raises(UserError, match="deploy.yaml is a folder"):
        run_export(run, tmp_path)
    assert os.listdir(tmp_path) == ["deploy.yaml"]


@pytest.mark.parametrize("target, flags, match", [
    ("paddle", ["--confidence"], "export it with softmax"),
    ("onnx", ["--enable_mkldnn"], "is for Paddle Inference"),
    ("onnx", ["--cpu_threads", "0"], "--cpu_threads 0: give 1 to 1024"),
    ("onnx", ["--cpu_threads", "4000000000"], "--cpu_threads 4000000000: give 1 to 1024"),
])
def test_what_an_exported_model_cannot_do_is_told(exported, photos, tmp_path, target, flags, match):
    with pytest.raises(UserError, match=match):
        run_infer(exported(target), photos, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_onednn_works_or_is_refused_in_one_line(exported, photos, tmp_path):
    """Paddle 3.3 lacks bilinear upsampling with it; 2.6 has it."""
    folder = exported("paddle")
    if paddle.__version__.startswith("3.3"):
        with pytest.raises(UserError, match="cannot run .* with oneDNN .*; leave it out"):
            run_infer(folder, photos, tmp_path, "--enable_mkldnn")
    else:
        assert run_infer(folder, photos, tmp_path, "--enable_mkldnn")["failed"] == {}


@pytest.mark.parametrize("change, match", [
    (lambda content: content.pop("model"), "`Deploy.model` is missing"),
    (lambda content: content.pop("output_op"), "`Deploy.output_op` is missing"),
    (lambda content: content.update(output_op="max"), "must be one of argmax, softmax, none"),
    (lambda content: content.update(input_shape=[3, 4]), "must be four whole numbers"),
    (lambda content: content.update(input_shape=[2, 3, -1, -1]), "takes 2 images at once"),
    (lambda content: content.update(model="other.onnx"), "other.onnx` is not beside it"),
    (lambda content: content.update(model="deploy.yaml"), "must end in .onnx or .json"),
    (lambda content: content.update(transforms="Normalize"), "must be a list"),
    (lambda content: content.update(transforms=["Normalize"]), "must be a list of transforms"),
    (lambda content: content.update(transforms=[{"type": "Nothing"}]), "could not make Nothing"),
    (lambda content: content["transforms"].append({"type": "RandomPaddingCrop"}),
     r"`Deploy.transforms` must not crop.*\(RandomPaddingCrop\)"),
    (lambda content: content.update(unseen=["horse"]), "holds horse, which is no class"),
    (lambda content: content.pop("palette"), "does not hold `class_names`"),
])
def test_a_wrong_deploy_yaml_is_told(exported, photos, tmp_path, change, match):
    copy = altered(exported("onnx"), tmp_path / "x", change)
    with pytest.raises(UserError, match=match):
        run_infer(copy, photos, tmp_path / "out")


@pytest.mark.parametrize("params", [None, "deploy.yaml", PROGRAM])
def test_weights_that_paddle_would_crash_at_are_told(exported, photos, tmp_path, params):
    copy = altered(exported("paddle"), tmp_path / "x",
                   lambda content: content.update(params=params))
    with pytest.raises(UserError, match=f"`Deploy.params: {params}` must end in .pdiparams"):
        run_infer(copy, photos, tmp_path / "out")


@pytest.mark.parametrize("device, expected", [("cpu", None), ("gpu", 0), ("gpu:3", 3)])
@pytest.mark.parametrize("target", FILES)
def test_each_process_has_a_gpu_of_its_own(exported, monkeypatch, target, device, expected):
    """What is asked for, as there is no GPU here."""
    asked = []
    if target == "onnx":
        def session(model, options, providers):
            asked.extend(item[1]["device_id"] for item in providers if isinstance(item, tuple))
            assert providers[-1] == "CPUExecutionProvider"
            raise RuntimeError

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [
            "CUDAExecutionProvider", "CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    else:
        def config(*files):
            return SimpleNamespace(
                disable_glog_info=lambda: None, disable_gpu=lambda: None,
                set_cpu_math_library_num_threads=lambda number: None,
                enable_use_gpu=lambda memory, number: asked.append(number))

        monkeypatch.setattr(paddle.inference, "Config", config)
    info = DeployInfo.read(os.path.join(exported(target), "deploy.yaml"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backend(info, device)
    assert asked == [] if expected is None else [expected]


@pytest.mark.parametrize("text, match", [
    (None, "no such file"), ("a: [", "not well-formed"), ("a: 1", "no section `Deploy`"),
    ("Deploy: 1", "no section"), ("!!python/object/apply:os.getcwd []", "not well-formed"),
])
def test_a_file_that_is_no_deploy_yaml_is_told(photos, tmp_path, text, match):
    if text is not None:
        (tmp_path / "deploy.yaml").write_text(text)
    with pytest.raises(UserError, match=match):
        run_infer(tmp_path, photos, tmp_path / "out")


@pytest.mark.parametrize("target", FILES)
def test_a_torn_model_is_told(exported, photos, tmp_path, target):
    copy = shutil.copytree(exported(target), tmp_path / "x")
    path = copy / ("model.onnx" if target == "onnx" else PROGRAM)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded by"):
        run_infer(copy, photos, tmp_path / "out")
