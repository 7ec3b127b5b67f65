"""What the documents say is there is there, and the other way round."""

import glob
import importlib
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
    for path in ["README.md", "README_cn.md", "CONTRIBUTING.md", "CHANGELOG.md",
                 *glob.glob(os.path.join(tiny_runs.ROOT, "docs", "*.md"))]:
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


@pytest.mark.parametrize("readme", ["README.md", "README_cn.md"])
def test_commands_of_the_readme_parse(readme):
    text = read(readme).replace("\\\n", " ")
    commands = re.findall(r"python tools/(\w+)\.py +([^`\n]+)", text)
    tools = {name[:-3] for name in os.listdir(os.path.join(tiny_runs.ROOT, "tools"))
             if name.endswith(".py")}
    assert {tool for tool, _ in commands} == tools
    for tool, arguments in commands:
        args = importlib.import_module(f"paddle_csrl.cli.{tool}").parse_args(arguments.split())
        assert tool not in ("train", "val") or args.config.startswith("configs/")


def test_messages_of_the_troubleshooting_are_in_the_code():
    """Quotes in the first column, apart from commands and settings; capitals are placeholders."""
    paths = glob.glob(os.path.join(tiny_runs.ROOT, "paddle_csrl", "**", "*.py"), recursive=True)
    code = re.sub(r'"\s*\n\s*f?"', "", "".join(map(read, paths)))  # strings over several lines
    symptoms = re.findall(r"^\| (.+?) \| ", read("docs", "troubleshooting.md"), re.MULTILINE)
    quotes = [double or single for symptom in symptoms
              for double, single in re.findall(r"``(.+?)``|`([^`]+)`", symptom)]
    messages = [quote for quote in quotes
                if " " in quote and not re.match(r"tools/|[\w.]+: \w+$", quote)]
    missing = [message for message in messages
               if not all(part.strip() in code for part in re.split(r"\b[A-Z]+\b", message))]
    assert len(messages) > 15
    assert missing == []
