"""Layers of convolutional networks in NumPy, for one image."""

import numpy as np


def convolve(x, weight, stride=1, dilation=1):
    """Cross-correlation of x (C, H, W) with (O, C, k, k), or depthwise with (C, 1, k, k).

    Padded with dilation · (k // 2) zeros on every side.
    """
    size, is_depthwise = weight.shape[-1], weight.shape[1] == 1
    pad = dilation * (size // 2)
    height, width = x.shape[1:]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    total = 0
    for i, j in np.ndindex(size, size):
        tap = x[:, i * dilation:i * dilation + height:stride,
                j * dilation:j * dilation + width:stride]
        total = total + (weight[:, 0, i, j][:, None, None] * tap if is_depthwise
                         else np.tensordot(weight[:, :, i, j], tap, 1))
    return total


def normalise(x, state, name, epsilon):
    """Batch norm by the statistics that ``state`` has for the layer ``name``."""
    weight, bias, mean, variance = (state[f"{name}.{key}"][:, None, None]
                                    for key in ("weight", "bias", "_mean", "_variance"))
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias
