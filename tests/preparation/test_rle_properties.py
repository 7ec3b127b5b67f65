"""Run-length masks against a loop and COCO's own library, on whatever Hypothesis thinks of."""

import numpy as np
import pycocotools.mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from paddle_csrl.errors import UserError
from paddle_csrl.preparation.rle import decode_mask

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))
#: What JSON can hold in the place of a number or a text.
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3), max_leaves=6)


def runs_of(mask):
    """Lengths of the runs of zeros and ones in turn, column after column."""
    lengths, value = [0], False
    for pixel in (mask[row, column] for column in range(mask.shape[1])
                  for row in range(mask.shape[0])):
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def decoded(mask, counts):
    return decode_mask({"size": list(mask.shape), "counts": counts}, mask.shape, "here")


@given(masks)
def test_masks_come_back(mask):
    by_coco = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    for counts in (runs_of(mask), by_coco["counts"].decode()):
        np.testing.assert_array_equal(decoded(mask, counts), mask)


@given(masks, st.data())
def test_what_cocos_library_reads_of_other_runs_is_the_same(mask, data):
    """Empty runs in between, which encoders do not write."""
    runs = runs_of(mask)
    at = data.draw(st.integers(0, len(runs)))
    runs[at:at] = [0, 0]
    rle = pycocotools.mask.frPyObjects({"size": list(mask.shape), "counts": runs}, *mask.shape)
    np.testing.assert_array_equal(pycocotools.mask.decode(rle), mask)
    np.testing.assert_array_equal(decoded(mask, runs), mask)
    np.testing.assert_array_equal(decoded(mask, rle["counts"].decode()), mask)


@given(masks, st.integers(-3, 3).filter(bool), st.data())
def test_runs_that_do_not_fill_the_mask_are_refused(mask, change, data):
    runs = runs_of(mask)
    runs[data.draw(st.integers(0, len(runs) - 1))] += change
    try:
        decoded(mask, runs)
    except UserError as error:
        assert str(error).startswith("here")
    else:
        raise AssertionError(runs)


@given(st.one_of(st.text(max_size=30), st.text(st.characters(min_codepoint=48, max_codepoint=111),
                                               max_size=30), junk), junk)
def test_anything_else_is_read_whole_or_refused_in_one_line(counts, size):
    for given_size in ([3, 4], size):
        try:
            mask = decode_mask({"size": given_size, "counts": counts}, (3, 4), "here")
        except UserError as error:
            assert str(error).startswith("here") and "\n" not in str(error)
        else:
            assert mask.shape == (3, 4) and mask.dtype == bool
