"""JSON that a run's folder may hold after somebody else wrote it."""

import pytest

from paddle_csrl.classes import read_classes_beside
from paddle_csrl.errors import UserError
from paddle_csrl.run_folder import RunFolder
from paddle_csrl.utils import read_json, write_json


@pytest.mark.parametrize("content", [
    "[" * 10**6, '{"a":' * 10**6, "9" * 5000, '{"a": ' + "9" * 5000 + "}", "", "\0", "1e5x",
    "[" + "[]," * (1 << 23)], ids=["deep", "deep pairs", "digits", "digits within", "empty", "nul",
                                   "word", "large"])
def test_json_that_cannot_be_taken_counts_as_none(tmp_path, content):
    (tmp_path / "segmentor").mkdir()
    for name in ("classes.json", "segmentor/stage.json"):
        (tmp_path / name).write_text(content)
    assert read_json(str(tmp_path / "classes.json")) is None
    assert RunFolder(str(tmp_path), {}).record("segmentor") == {}
    with pytest.raises(UserError, match="classes.json does not hold `class_names`"):
        read_classes_beside(str(tmp_path / "model.pdparams"))


def test_names_that_are_no_text_come_back(tmp_path):
    content = {"save_dir": "out\udcff", "names": ["\u732b", "\\udcff"]}
    write_json(str(tmp_path / "x.json"), content)
    (tmp_path / "x.json").read_bytes().decode("utf-8")
    assert read_json(str(tmp_path / "x.json")) == content
