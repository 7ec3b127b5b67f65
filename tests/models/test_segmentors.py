"""All stages around segmentors other than DeepLabV3+, and what becomes of their checkpoints."""

import os

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import SegBuilder, manager

from helpers import tiny_runs
from helpers.tiny_runs import Recipe
from paddle_csrl.cli import train
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError

#: Config, dotted name of the layer that predicts, and what makes the network small.
SEGMENTORS = {
    "DeepLabV3P": ("csrl_shapes", "head.decoder.conv",
                   ("model.backbone.width=4", "model.backbone_indices=[0, 1]")),
    "OCRNet": ("segmentors/ocrnet_shapes", "head.cls_head",
               ("model.ocr_mid_channels=16", "model.ocr_key_channels=8")),
    "PPLiteSeg": ("segmentors/pp_liteseg_shapes", "seg_heads.0.conv_out",
                  ("model.arm_out_chs=[8]", "model.seg_head_inter_chs=[8]", "model.cm_out_ch=8")),
    "SegFormer": ("segmentors/segformer_shapes", "linear_pred", ("model.embedding_dim=16",)),
    "BiSeNetV2": ("segmentors/bisenetv2_shapes", "head.conv_1x1", ()),
}


def recipe(segmentor, root):
    name, _, small = SEGMENTORS[segmentor]
    data = [f"{split}_dataset.{item}" for split in ("train", "val") for item in
            ("num_train=40", "num_val=2", "image_size=48", f"dataset_root={root / 'data'}")]
    keep = [opt for opt in tiny_runs.SHRUNK if not opt.startswith(("model.", "classifier.calib"))]
    return Recipe(tiny_runs.config_path(name), (
        *keep, *data, *small, f"zero_shot.cache_dir={root / 'cache'}", "iters=2",
        "generator.iters=2", "classifier.iters=2", "classifier.calibration=0.5"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("segmentors")


@pytest.mark.parametrize("segmentor", SEGMENTORS)
def test_every_stage_runs_and_ends_in_a_stock_checkpoint(segmentor, root):
    made = recipe(segmentor, root)
    run = tiny_runs.run_all(made, root / segmentor)
    builder = run.builder()
    first, final = (paddle.load(run.path(*names)) for names in (
        ("segmentor", "model.pdparams"), ("model.pdparams",)))
    path = SEGMENTORS[segmentor][1]
    changed = {key for key in final if not np.array_equal(first[key].numpy(),
                                                          final[key].numpy())}
    assert set(first) == set(final)
    assert changed == {f"{path}.weight", f"{path}.bias"} & set(final)

    # The stock class, made by stock PaddleSeg, takes every weight and predicts what was scored.
    config = ZeroShotConfig(made.config, made.opts)
    stock = manager.MODELS[segmentor]
    model = SegBuilder(config).build_component(dict(config.model_cfg))
    assert type(model) is stock and set(model.state_dict()) == set(final)
    missing, unexpected = model.set_state_dict(final)
    assert missing == unexpected == []
    assert builder.classification_layer(model)[0] == path

    # Its logits are the trained layer on the standardized features, calibrated.
    model.eval()
    image = builder.val_dataset[0]["img"][None]
    logits = model(paddle.to_tensor(image))[0].numpy()
    assert logits.shape == (1, 21, 48, 48) and np.isfinite(logits).all()
    confusion = np.zeros(21)
    for index in range(2):
        data = builder.val_dataset[index]
        prediction = model(paddle.to_tensor(data["img"][None]))[0].numpy().argmax(1)[0]
        confusion += np.bincount(data["label"][data["label"] == prediction], minlength=21)
    total = sum((builder.val_dataset[i]["label"] != 255).sum() for i in range(2))
    assert confusion.sum() / total == pytest.approx(run.metrics["pixel_accuracy"])


def test_a_wrong_layer_is_reported_before_anything_is_trained(root):
    made = recipe("BiSeNetV2", root)
    with pytest.raises(UserError, match="`zero_shot.classifier_layer: head` is no 1×1 convolution "
                                        "with 21 outputs of BiSeNetV2; there are: "
                                        "aux_head1.conv_1x1, .*, head.conv_1x1"):
        train.main(made.argv("zero_shot.classifier_layer=head", save_dir=str(root / "none")))
    assert not os.path.exists(root / "none")
