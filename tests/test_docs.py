"""What the documents say is there is there, and the other way round."""

import glob
import os
import re

import pytest
import tiny_runs

from paddle_csrl.cli import export, infer, predict, train, val
from paddle_csrl.config import KNOWN_KEYS


def read(*names: str) -> str:
    with open(os.path.join(tiny_runs.ROOT, *names), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("section", ["", "zero_shot", "projection", "generator", "classifier",
                                     "self_training"])
def test_every_config_key_is_documented(section):
    text = read("docs", "configs.md")
    missing = [key for key in KNOWN_KEYS[section] if not re.search(rf"`[\w.]*\b{key}\b", text)]
    assert missing == []


def test_files_that_the_documents_name_exist():
    for path in ["README.md", *glob.glob(os.path.join(tiny_runs.ROOT, "docs", "*.md"))]:
        text = read(path)
        folder = os.path.dirname(os.path.join(tiny_runs.ROOT, path))
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert os.path.exists(os.path.join(folder, link)), (path, link)
        for name in re.findall(r"\b(?:configs|tools|scripts|benchmarks)/[\w/]+\.\w+", text):
            assert os.path.exists(os.path.join(tiny_runs.ROOT, name)), (path, name)


@pytest.mark.parametrize("tool", [predict, export, infer])
def test_commands_of_deployment_parse(tool):
    name = tool.__name__.rsplit(".", 1)[-1]
    text = read("docs", "deploy.md").replace("\\\n", " ")
    commands = re.findall(rf"^python tools/{name}\.py\s+(.*)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert tool.parse_args(command.split()).save_dir


@pytest.mark.parametrize("tool", [train, val])
def test_commands_of_the_readme_parse(tool):
    name = tool.__name__.rsplit(".", 1)[-1]
    text = read("README.md").replace("\\\n", " ")
    commands = re.findall(rf"^(?:.*\s)?python tools/{name}\.py\s+(-c .*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        assert tool.parse_args(command.rstrip("`.").split()).config.startswith("configs/")
