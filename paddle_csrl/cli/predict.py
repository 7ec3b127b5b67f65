r"""Predict images with a trained segmentor; no data set and no labels are needed.

writes, for every image NAME, below --save_dir:
  added_prediction/NAME.png         the class colours laid over the image
  pseudo_color_prediction/NAME.png  the class colours with a legend, unseen classes starred
  label_prediction/NAME.png         the class ids, one channel
  confidence/NAME.png               with --confidence: softmax of the class, 255 for 1

A broken image is passed over and named at the end; the exit status is then 1.

examples:
  python tools/predict.py --run output/demo --image_path photos --save_dir output/photos
  python tools/predict.py -c configs/csrl_shapes.yml --model_path output/demo/model.pdparams \
      --image_path photo.jpg --confidence
  python tools/predict.py --run output/demo --image_path list.txt \
      --aug_pred --scales 0.75 1.0 1.25 --flip_horizontal
  python tools/predict.py --run output/demo --image_path large.png \
      --is_slide --crop_size 512 512 --stride 384 384
"""

import argparse
from typing import Any

from paddle_csrl import parallel
from paddle_csrl.cli import make_parser, options
from paddle_csrl.core.predict import predict


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_model(parser)
    options.add_computing(parser)
    options.add_images(parser)
    options.add_test(parser, augment="--aug_pred")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return ``predicted`` (number of images), ``failed`` (path to reason) and ``save_dir``."""
    args = parse_args(argv)
    options.fill_in_run(args)
    parallel.start(args.device)
    return predict(args.config, args.model_path, args.image_path, args.save_dir, opts=args.opts,
                   overrides=options.overrides(args), confidence=args.confidence,
                   custom_color=args.custom_color)
