r"""Make ZS3Net's released PyTorch weights loadable here: .pth.tar to .pdparams.

ZS3Net (https://github.com/valeoai/ZS3) publishes a ResNet-101 pre-trained on ImageNet without the
classes of VOC or Context, and a DeepLabV3+ trained on the seen classes of every split. Reading
them needs PyTorch: pip install "torch>=2.6". Nothing in the file is run.

examples:
  python tools/convert_zs3.py --model_path resnet_backbone.pth.tar --out resnet101.pdparams \
      --without voc     # as the name of ZS3Net's file says: wo_pascalvoc
  python tools/train.py -c configs/zs3_protocol/csrl_voc_unseen2.yml \
      --opts model.backbone.pretrained=resnet101.pdparams

  python tools/convert_zs3.py --model_path deeplab_voc_02_unseen.pth.tar --out deeplab.pdparams \
      --without cow motorbike
  python tools/train.py -c configs/zs3_protocol/csrl_voc_unseen2.yml \
      --opts segmentor_weights=deeplab.pdparams     # in place of stage 1
"""

import argparse
from typing import Any

import paddle
from paddleseg.utils import logger

from paddle_csrl.cli import make_parser
from paddle_csrl.errors import UserError
from paddle_csrl.models.trained_labels import write_labels
from paddle_csrl.preparation.convert_zs3 import KINDS, convert, read_torch, trained_labels
from paddle_csrl.pretraining import UNKNOWN
from paddle_csrl.utils import make_folder_of
from paddle_csrl.utils.weights import save_state

_USE = {"backbone": "model.backbone.pretrained={out}",
        "deeplab": "segmentor_weights={out} (in place of stage 1) or model.pretrained={out} (where "
                   "it starts), with `model.type: DeepLabV3PPlain`"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the PyTorch checkpoint, such as deeplab_voc_02_unseen.pth.tar")
    parser.add_argument("--out", required=True, metavar="FILE",
                        help="where to write the weights; ends in .pdparams")
    parser.add_argument("--kind", choices=KINDS, default="auto",
                        help="backbone: ResNet-101 alone, also out of a whole DeepLabV3+; deeplab: "
                             "all of it (default: %(default)s, told by the names)")
    parser.add_argument("--without", nargs="+", metavar="NAME",
                        help="the classes that ZS3Net left out, recorded beside --out: voc or "
                             "context for a backbone, the names of the unseen ones for a whole "
                             "network (default: unknown)")
    parser.add_argument("--num_classes", type=int, metavar="N",
                        help="insist on so many classes: 21 for VOC, 60 for Context (default: as "
                             "the file says)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Convert; nothing is written where that fails.

    Returns:
        ``kind``, ``num_tensors``, ``num_values``, ``num_classes`` (None for a backbone),
        ``left_out`` (names), ``labels`` that it was trained with, and ``out``.
    """
    args = parse_args(argv)
    if not args.out.endswith(".pdparams"):
        raise UserError(f"--out {args.out} must end in .pdparams")
    make_folder_of(args.out, "--out")
    paddle.set_device("cpu")
    converted = convert(read_torch(args.model_path), args.kind, args.num_classes)
    labels = trained_labels(converted, args.without) if args.without else []
    save_state({name: paddle.to_tensor(value) for name, value in converted.state.items()},
               args.out)
    if labels:
        write_labels(args.out, labels)
    result = {"kind": converted.kind, "num_tensors": len(converted.state),
              "num_values": sum(value.size for value in converted.state.values()),
              "num_classes": converted.num_classes, "left_out": converted.left_out,
              "labels": list(map(str, labels)) or [UNKNOWN], "out": args.out}
    logger.info(_summary(result))
    return result


def _summary(result: dict[str, Any]) -> str:
    classes = f", {result['num_classes']} classes" if result["num_classes"] else ""
    left_out = result["left_out"]
    counters = sum(name.endswith("num_batches_tracked") for name in left_out)
    others = sorted({name.split(".")[0] for name in left_out
                     if not name.endswith("num_batches_tracked")})
    return (f"{result['out']}: {result['kind']}, {result['num_tensors']} tensors, "
            f"{result['num_values']:,} values{classes}; left out: {counters} counters of batches"
            + "".join(f", {name}" for name in others)
            + f"; labels: {', '.join(result['labels'])}"
            + ("" if result["labels"] != [UNKNOWN] else " (say which by --without)")
            + f"\nuse it with --opts {_USE[result['kind']].format(out=result['out'])}")
