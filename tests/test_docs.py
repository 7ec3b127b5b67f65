"""What the documents say is there is there, and the other way round."""

import importlib
import inspect
import os
import re
import shlex
from pathlib import Path

import pytest
from paddleseg.cvlibs import manager

import config_tables
from helpers import tiny_runs
from paddle_csrl.config import ZeroShotConfig

DOCUMENTS = ["README.md", "README_cn.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    f"docs/{path.name}" for path in Path(tiny_runs.ROOT, "docs").glob("*.md"))]


def read(*names: str) -> str:
    return Path(tiny_runs.ROOT, *names).read_text("utf-8")


def table(heading, first="key"):
    """The table of docs/configs.md under a heading whose first column is ``first``."""
    text = read("docs", "configs.md")
    part = text[text.index(heading):]
    return re.search(rf"^\| {first} \|.*?\n(?=\n)", part, re.MULTILINE | re.DOTALL)[0].strip()


@pytest.mark.parametrize("document", config_tables.TABLES)
def test_the_tables_of_the_keys_are_those_of_the_schema(document):
    text = read("docs", document)
    assert config_tables.rewritten(text, config_tables.TABLES[document]) == text


def test_arguments_of_components_have_the_defaults_of_the_code():
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", table("## `generator`", "component"), re.MULTILINE)
    assert len(rows) == 10
    for name, text in rows:
        found = {**manager.LOSSES.components_dict, **manager.MODELS.components_dict}
        parameters = inspect.signature(found[name.strip("`")].__init__).parameters.values()
        expected = {f"{item.name}={item.default!r}" for item in parameters
                    if item.default is not item.empty
                    and item.name not in ("ignore_index", "num_classes", "in_channels")}
        assert set(re.findall(r"`(\w+=[^`]+)`", text)) == expected, name


def test_files_that_the_documents_name_exist():
    for path in DOCUMENTS:
        text = read(path)
        folder = os.path.dirname(os.path.join(tiny_runs.ROOT, path))
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert os.path.exists(os.path.join(folder, link)), (path, link)
        for name in re.findall(
                r"\b(?:configs|tools|scripts|benchmarks|tests|paddle_csrl)/[\w/]+\.\w+", text):
            assert os.path.exists(os.path.join(tiny_runs.ROOT, name)), (path, name)


def commands(path):
    """Of every command line in a document, in blocks and in sentences: folder, tool, arguments."""
    text = read(path).replace("\\\n", " ")
    lines = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    for line in [*lines, *re.findall(r"`(python [^`]+)`", text)]:
        found = re.search(r"^[^#]*?\b(tools|scripts)/(\w+)\.py\b(.*)", line)
        if found and "--help" not in line:
            yield found[1], found[2], shlex.split(found[3], comments=True)


def parser_of(folder, name):
    """The ``parse_args`` of a tool or a script."""
    if folder == "tools":
        return importlib.import_module(f"paddle_csrl.cli.{name}").parse_args
    return importlib.import_module(name).parse_args  # pytest's `pythonpath` holds scripts/


@pytest.mark.parametrize("path", DOCUMENTS)
def test_commands_parse_and_name_keys_that_there_are(path, monkeypatch):
    monkeypatch.chdir(tiny_runs.ROOT)
    for folder, name, arguments in commands(path):
        args = parser_of(folder, name)(arguments)
        config = getattr(args, "config", None)
        if config and config.startswith("configs/") and name != "compare":
            ZeroShotConfig(config, opts=args.opts)


@pytest.mark.parametrize("readme", ["README.md", "README_cn.md"])
def test_a_readme_shows_every_tool(readme):
    shown = {name for folder, name, _ in commands(readme) if folder == "tools"}
    assert shown == {name[:-3] for name in os.listdir(os.path.join(tiny_runs.ROOT, "tools"))
                     if name.endswith(".py")}


def test_the_two_readmes_have_the_same_commands_links_and_configs():
    texts = [read(name) for name in ("README.md", "README_cn.md")]
    for pattern in (r"`(python tools/[^`]+)`", r"(?<!!)\[[^\]]*\]\(((?!README)[^)]+)\)",
                    r"!\[[^\]]*\]\(([^)]+)\)", r"`(configs/[^`]+)`", r"`(make [\w-]+)`",
                    r"^    (zero_shot\..*|train_dataset\..*|val_dataset\..*)$"):
        one, other = (set(re.findall(pattern, text, re.MULTILINE)) for text in texts)
        assert one == other and one


def test_messages_of_the_troubleshooting_are_in_the_code():
    """Quotes in the first column, apart from commands and settings; capitals are placeholders."""
    paths = Path(tiny_runs.ROOT, "paddle_csrl").rglob("*.py")
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


def test_docstrings_begin_with_a_noun_or_a_verb():
    assert [(path, found) for path in Path(tiny_runs.ROOT, "paddle_csrl").rglob("*.py")
            for found in re.findall(r'"""(?:What|Whether|How|Which) .*', read(path))] == []
