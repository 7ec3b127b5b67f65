"""scripts/fuzz.py finds what is wrong, and some cases of every target find nothing."""

import ctypes
import os
import subprocess
import time

import numpy as np
import pytest

import fuzz
import fuzz_edits
from fuzz_targets import TARGETS, write
from helpers.fabricated_archives import encode
from paddle_csrl.errors import UserError

LIMITS = fuzz.Limits(seconds=2, memory=2**28)


def refuse():
    raise UserError("one line")


def overflow():
    return [np.ones(2**27) for _ in range(100)]


@pytest.mark.parametrize("read, says", [
    (refuse, None), (lambda: 5, None),
    (lambda: {}["absent"], "KeyError: 'absent'"),
    (overflow, "MemoryError"), (lambda: time.sleep(60), "Timeout"),
    (lambda: ctypes.string_at(0), "Segmentation fault"), (lambda: os._exit(0), "the process died"),
    (lambda: os.system("true"), "os.system"), (lambda: subprocess.run(["true"]), "Popen"),
    (lambda: open("../outside.txt", "w"), "outside.txt"), (lambda: os.mkdir("/a"), "os.mkdir"),
])
def test_what_goes_wrong_is_found(tmp_path, read, says):
    def target(folder, rng):
        write(folder, "broken.bin", rng.randbytes(8))
        return read

    limits = LIMITS._replace(seconds=0.5) if says == "Timeout" else LIMITS  # it is waited for
    found = list(fuzz.fuzz("mine", 3, 0, 2, 60, limits, str(tmp_path), target))
    if says is None:
        assert found == [None, None] and not os.listdir(tmp_path)
        return
    assert [finding.index for finding in found] == [0, 1]
    contents = set()
    for finding in found:
        assert says in finding.words
        place = tmp_path / f"mine-3-{finding.index}"
        contents.add((place / "broken.bin").read_bytes())
        assert (place / "finding.txt").read_text() == finding.words
    assert len(contents) == 2


def test_a_case_is_made_again_by_its_number(tmp_path):
    def target(folder, rng):
        content = rng.randbytes(8)
        return lambda: {}[content]

    def words(first, last):
        return [finding.words for finding in fuzz.fuzz("mine", 0, first, last, 60, LIMITS,
                                                       str(tmp_path), target)]

    assert words(0, 3)[2] == words(2, 3)[0]


@pytest.mark.parametrize("target", TARGETS)
def test_some_cases_of_every_target(tmp_path, capfd, target):
    status = fuzz.main(["--target", target, "--cases", "25", "--out", str(tmp_path)])
    assert status == 0, capfd.readouterr().out


def test_checksums_of_an_edited_picture_fit_again():
    picture = encode(np.zeros((4, 4), np.uint8), "PNG")
    assert fuzz_edits.with_right_checksums(picture) == picture
    at = picture.index(b"PLTE") + 4
    changed = picture[:at] + b"\x07" + picture[at + 1:]
    mended = fuzz_edits.with_right_checksums(changed)
    assert mended != changed and mended[:at + 1] == changed[:at + 1]
