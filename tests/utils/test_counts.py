"""Counts of bytes against NumPy's."""

import numpy as np
import pytest

from paddle_csrl.utils.counts import count_bytes


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (5, 7), (2, 3, 4), (300, 500)])
def test_one_channel(shape):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    counts = count_bytes(values)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, np.bincount(values.ravel(), minlength=256))
    np.testing.assert_array_equal(count_bytes(values, most=21), counts[:21])


@pytest.mark.parametrize("most", [1, 21, 256])
def test_pairs(most):
    rows, columns = np.random.default_rng(1).integers(0, 256, (2, 90, 70)).astype(np.uint8)
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (rows, columns), 1)
    np.testing.assert_array_equal(count_bytes(rows, columns, most=most), expected[:most, :most])


def test_memory_may_be_in_any_order_and_read_only():
    values = np.random.default_rng(2).integers(0, 256, (2, 40, 60)).astype(np.uint8)
    values.flags.writeable = False
    expected = count_bytes(*values.copy())
    for first, second in ((values[0].T, values[1].T), (np.asfortranarray(values[0]), values[1])):
        np.testing.assert_array_equal(count_bytes(first, second), expected)
    every_second = values[0, ::2, ::3]
    np.testing.assert_array_equal(count_bytes(every_second), count_bytes(every_second.copy()))


def test_more_of_one_value_than_float32_tells_apart():
    size = 2**24 + 1
    counts = count_bytes(np.full(size, 7, np.uint8))
    assert counts[7] == counts.sum() == size
