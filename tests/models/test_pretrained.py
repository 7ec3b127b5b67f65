"""Weights that a network starts from: none that fits is a mistake, some are told of."""

import paddle
import pytest
from paddleseg.utils import logger

from paddle_csrl.errors import UserError


@pytest.fixture
def build(finished):
    return lambda path: finished("custom").builder(f"model.pretrained={path}").new_segmentor()


def saved(state, path):
    paddle.save(state, str(path))
    return path


@pytest.mark.parametrize("spoil", [lambda state: {f"module.{key}": value for key, value
                                                  in state.items()},
                                   lambda state: {key: value.unsqueeze(0) for key, value
                                                  in state.items()},
                                   lambda state: {}], ids=["prefix", "shapes", "empty"])
def test_weights_of_which_nothing_fits_are_refused(build, finished, tmp_path, spoil):
    state = paddle.load(finished("custom").path("model.pdparams"))
    with pytest.raises(UserError, match=r"pretrained: .*w.pdparams` has none of the \d+ tensors of "
                                        r"DeepLabV3P, first \S+, so that all would stay random"):
        build(saved(spoil(state), tmp_path / "w.pdparams"))


def test_weights_that_fit_in_part_are_loaded_and_told_of(build, finished, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(logger, "warning", lines.append)
    state = paddle.load(finished("custom").path("model.pdparams"))
    build(saved(state, tmp_path / "all.pdparams"))
    assert not any("lacks" in line for line in lines)
    gone = [key for key in state if key.startswith("head.decoder.conv.")]
    part = {key: value for key, value in state.items() if key not in gone}
    model = build(saved(part, tmp_path / "part.pdparams"))
    assert f"lacks 2 of the {len(state)} tensors of DeepLabV3P, first {gone[0]}" in \
        next(line for line in lines if "lacks" in line)
    own = model.state_dict()
    assert all((own[key].numpy() == part[key].numpy()).all() for key in part)


def test_a_file_that_is_not_there_is_named(build):
    with pytest.raises(UserError, match="no weights at gone.pdparams"):
        build("gone.pdparams")
