"""Predict images with an exported model, by Paddle Inference or onnxruntime."""

import argparse
import os
from typing import Any

import paddle
from paddleseg.utils import utils

from paddle_csrl import parallel
from paddle_csrl.cli import options
from paddle_csrl.deploy.exported import DeployInfo, ExportedPredictor, load_backend
from paddle_csrl.deploy.images import ImageReader
from paddle_csrl.deploy.predict import ResultFiles, predict_images
from paddle_csrl.errors import UserError

_EPILOG = """
writes the pictures that tools/predict.py writes. A broken image is passed over and named at the
end; the exit status is then 1.

examples:
  python tools/infer.py --config output/demo_paddle/deploy.yaml --image_path photos
  python tools/infer.py --config output/demo_onnx/deploy.yaml --image_path photo.jpg \\
      --save_dir output/photos --device cpu --cpu_threads 4
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="infer.py", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, metavar="FILE",
                        help="the deploy.yaml that tools/export.py wrote")
    options.add_images(parser)
    parser.add_argument("--device", default="gpu", choices=["cpu", "gpu"],
                        help="where to compute; falls back to cpu where there is none "
                             "(default: gpu)")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N",
                        help="threads that read and transform images (default: 0)")
    parser.add_argument("--cpu_threads", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="threads of the model on a CPU (default: one for each core)")
    parser.add_argument("--enable_mkldnn", action="store_true",
                        help="use oneDNN on a CPU; off by default, for Paddle 3.3 has no "
                             "bilinear upsampling with it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command line ``argv``.

    Returns:
        dict: ``predicted`` (number of images), ``failed`` (path to reason), ``save_dir``.

    Raises:
        UserError: a mistake in the exported model, the paths or the flags.
    """
    args = parse_args(argv)
    if args.cpu_threads < 1:
        raise UserError(f"--cpu_threads {args.cpu_threads}: give at least 1")
    info = DeployInfo.read(args.config)
    utils.set_device(args.device)
    parallel.start()
    backend = load_backend(info, paddle.get_device(), args.cpu_threads, args.enable_mkldnn)
    predictor = ExportedPredictor(info, backend, args.confidence)
    results = ResultFiles(args.save_dir, info.classes.recolored(args.custom_color),
                          args.confidence)
    return predict_images(args.image_path, results, ImageReader(info.compose), predictor,
                          args.num_workers)
