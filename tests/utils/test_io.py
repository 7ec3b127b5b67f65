"""Folders that are to be written."""

import os

import pytest

from paddle_csrl.add_class.change import add_classes
from paddle_csrl.datasets.fingerprint import cache_folder
from paddle_csrl.errors import UserError
from paddle_csrl.utils import make_folder, make_folder_of


@pytest.mark.parametrize("path", ["~/out", "~", "$PLACE/out", "${PLACE}/out"])
@pytest.mark.parametrize("make", [
    lambda path: make_folder(path, "save_dir"), lambda path: make_folder_of(path, "--out"),
    lambda path: add_classes("run", ["zebra"], path), cache_folder])
def test_paths_that_a_shell_would_fill_in_are_refused(tmp_path, monkeypatch, make, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "/home/me")
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(UserError, match="fills in /home/me(/out)?; write that$"):
        make(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["out~", "a/~/b", "$NOWHERE", "5$"])
def test_other_names_are_taken_as_they_are(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOWHERE", raising=False)
    make_folder(path, "save_dir")
    assert (tmp_path / path).is_dir()
