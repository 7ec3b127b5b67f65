r"""Export a trained segmentor for Paddle Inference or ONNX and compare it with the trained one.

writes into --save_dir:
  paddle:      model.json (model.pdmodel on Paddle 2.6), model.pdiparams, deploy.yaml
  onnx:        model.onnx, deploy.yaml; needs pip install '.[onnx]'
  safetensors: model.safetensors, classes.json, config.yml

The exported model predicts a random image and a real one; where it differs from the trained
model, nothing is written. tools/infer.py runs the first two kinds. The third is weights alone, to
be passed on to people who run no file of yours: tools/predict.py --run DIR takes the folder, and
whatever takes a .pdparams file takes model.safetensors.

examples:
  python tools/export.py --run output/demo --save_dir output/demo_paddle
  python tools/export.py --run output/demo --format onnx --save_dir output/demo_onnx
  python tools/export.py --run output/demo --format safetensors --save_dir output/demo_weights
  python tools/export.py -c configs/csrl_voc_unseen4.yml --model_path model.pdparams \
      --input_shape 1 3 512 512 --output_op softmax --image_path photo.jpg
"""

import argparse
from typing import Any

from paddleseg.utils import logger, utils

from paddle_csrl.cli import make_parser, options
from paddle_csrl.deploy.export import OPSET, export
from paddle_csrl.deploy.exported import OUTPUT_DTYPES


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_model(parser)
    parser.add_argument("--save_dir", default="output/inference_model", metavar="DIR",
                        help="where the model goes (default: %(default)s)")
    parser.add_argument("--format", default="paddle", choices=["paddle", "onnx", "safetensors"],
                        help="what to export for, or the weights alone (default: %(default)s); the "
                             "flags below say nothing of safetensors")
    parser.add_argument("--input_shape", nargs="+", type=int, metavar="N",
                        help="batch, channels, height and width, -1 where free "
                             "(default: -1 3 -1 -1)")
    parser.add_argument("--output_op", default="argmax", choices=list(OUTPUT_DTYPES),
                        help="what the model gives: class ids, probabilities or logits "
                             "(default: %(default)s)")
    parser.add_argument("--image_path", metavar="FILE",
                        help="the real image of the comparison (default: the first validation "
                             "image, where the data are there)")
    parser.add_argument("--opset", type=int, default=OPSET, metavar="N",
                        help="version of the ONNX operators (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return what ``paddle_csrl.deploy.export.export`` returns."""
    args = parse_args(argv)
    options.fill_in_run(args)
    utils.set_device("cpu")
    exported = export(args.config, args.model_path, args.save_dir, opts=args.opts,
                      target=args.format, input_shape=args.input_shape, output_op=args.output_op,
                      image_path=args.image_path, opset=args.opset)
    logger.info(f"exported: {exported['config']}")
    return exported
