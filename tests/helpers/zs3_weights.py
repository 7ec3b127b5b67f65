"""Random weights under ZS3Net's names, the same wherever they are made."""

import os

import numpy as np

#: Made by ``helpers/zs3_network.py``: names, shapes and sums of the weights of ``random_state``
#: and what PyTorch makes of ``image()`` with them, every fourth pixel.
FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "zs3_deeplab.npz")

#: Of the image: odd, and no multiple of the stride.
SIZE = (65, 97)


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 weights and batch-norm statistics that keep the activations of moderate size.

    The last batch norm of every residual block is weak, for 33 of them add up.
    """
    rng, state = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 4:
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith(("weight", "running_var")):
            values = (1 + 0.3 * np.tanh(values)) * (0.1 if ".bn3.weight" in name else 1.0)
        else:
            values *= np.float32(0.3)
        state[name] = np.asarray(values, np.float32)
    return state


def image(seed: int = 1) -> np.ndarray:
    """float32 [1, 3, H, W]."""
    return np.random.default_rng(seed).standard_normal((1, 3, *SIZE), np.float32)


def fixture() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def fixture_shapes() -> dict[str, tuple[int, ...]]:
    stored = fixture()
    return {str(name): tuple(map(int, str(shape).split("x")))
            for name, shape in zip(stored["names"], stored["shapes"])}
