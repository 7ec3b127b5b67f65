r"""Predict images with an exported model, by Paddle Inference or onnxruntime.

writes the pictures that tools/predict.py writes. A broken image is passed over and named at the
end; the exit status is then 1.

examples:
  python tools/infer.py --config output/demo_paddle/deploy.yaml --image_path photos
  python tools/infer.py --config output/demo_onnx/deploy.yaml --image_path photo.jpg \
      --save_dir output/photos --device cpu --cpu_threads 4
"""

import argparse
from typing import Any

import paddle

from paddle_csrl import parallel
from paddle_csrl.cli import make_parser, options
from paddle_csrl.deploy.exported import DeployInfo, ExportedPredictor, load_backend
from paddle_csrl.deploy.images import ImageReader
from paddle_csrl.deploy.predict import ResultFiles, predict_images
from paddle_csrl.errors import UserError
from paddle_csrl.utils.cores import usable_cores


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("-c", "--config", required=True, metavar="FILE",
                        help="the deploy.yaml that tools/export.py wrote")
    options.add_images(parser)
    options.add_device(parser, ["cpu", "gpu"])
    parser.add_argument("--num_workers", type=int, default=1, metavar="N",
                        help="threads that read and transform images (default: %(default)s)")
    parser.add_argument("--cpu_threads", type=int, default=usable_cores(), metavar="N",
                        help="threads of the model on a CPU (default: one a core it may use)")
    parser.add_argument("--enable_mkldnn", action="store_true",
                        help="use oneDNN on a CPU; off by default, for Paddle 3.3 has no "
                             "bilinear upsampling with it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return ``predicted`` (number of images), ``failed`` (path to reason) and ``save_dir``."""
    args = parse_args(argv)
    if not 1 <= args.cpu_threads <= 1024:
        raise UserError(f"--cpu_threads {args.cpu_threads}: give 1 to 1024")
    info = DeployInfo.read(args.config)
    parallel.start(args.device)
    backend = load_backend(info, paddle.get_device(), args.cpu_threads, args.enable_mkldnn)
    predictor = ExportedPredictor(info, backend, args.confidence)
    results = ResultFiles(args.save_dir, info.classes.recolored(args.custom_color),
                          args.confidence)
    return predict_images(args.image_path, results, ImageReader(info.compose), predictor,
                          args.num_workers)
