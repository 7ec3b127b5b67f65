"""Latency of an exported model against PaddleSeg's own export of a stock DeepLabV3P.

    python benchmarks/export_latency.py

Both programs run in one process, turn by turn, so that other load falls on both alike. Prints
the median times and their ratio, and whether the two have the same operators in the same order.
"""

import argparse
import os
import statistics
import tempfile
import time

import _path  # noqa: F401

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import numpy as np
import paddle
from paddleseg.deploy.export import WrappedModel

from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.export import export
from paddle_csrl.deploy.exported import Backend, DeployInfo, paddle_backend
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.utils.weights import save_state


def seconds(backend: Backend, pixels: np.ndarray) -> float:
    start = time.perf_counter()
    backend(pixels)
    return time.perf_counter() - start


def stock_export(model: paddle.nn.Layer, folder: str) -> str:
    """As PaddleSeg's tools/export.py does it; returns the path of the program."""
    network = WrappedModel(model, "argmax")
    network.eval()
    static = paddle.jit.to_static(network, full_graph=True, input_spec=[
        paddle.static.InputSpec([-1, 3, -1, -1], "float32", "x")])
    paddle.jit.save(static, os.path.join(folder, "model"))
    return next(os.path.join(folder, name) for name in ("model.json", "model.pdmodel")
                if os.path.isfile(os.path.join(folder, name)))


def operators(program: str) -> list[str]:
    paddle.enable_static()
    try:
        loaded, _, _ = paddle.static.load_inference_model(
            os.path.splitext(program)[0], paddle.static.Executor(paddle.CPUPlace()))
    finally:
        paddle.disable_static()
    return [op.name() if hasattr(op, "results") else op.type for op in loaded.global_block().ops]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/csrl_context_unseen4.yml",
                        help="config whose model is measured, with random weights")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    paddle.device.set_device("cpu")
    config = ZeroShotConfig(args.config)
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "model.pdparams")
        save_state(DeployBuilder(config, weights).new_segmentor().state_dict(), weights)
        builder = DeployBuilder(config, weights)
        exported = export(args.config, weights, os.path.join(folder, "ours"))
        ours = DeployInfo.read(exported["config"]).model
        theirs = stock_export(builder.trained_model, os.path.join(folder, "stock"))
        names = operators(ours)
        backends = [paddle_backend(path, f"{os.path.splitext(path)[0]}.pdiparams",
                                   threads=args.threads) for path in (theirs, ours)]
        pixels = np.random.default_rng(0).standard_normal(
            (1, builder.img_channels, args.size, args.size)).astype(np.float32)
        times: list[list[float]] = [[], []]
        for turn in range(args.repeats + 2):
            for which in (0, 1) if turn % 2 else (1, 0):  # neither always follows the other
                elapsed = seconds(backends[which], pixels)
                if turn >= 2:  # the first runs warm up
                    times[which].append(elapsed)
        stock, exported = map(statistics.median, times)
        print(f"paddle {paddle.__version__}, {args.config}, {args.size} x {args.size}, median of "
              f"{args.repeats}: stock DeepLabV3P {1e3 * stock:.1f} ms, tools/export.py "
              f"{1e3 * exported:.1f} ms, ratio {exported / stock:.3f} (of the fastest runs "
              f"{min(times[1]) / min(times[0]):.3f}); {len(names)} operators, "
              f"{'the same' if names == operators(theirs) else 'NOT the same'}")


if __name__ == "__main__":
    main()
