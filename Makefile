# `make demo` and `make test` need Python 3.10-3.12 and nothing else; PYTHON chooses which one.
PYTHON ?= python3
VENV ?= .venv
# How many processes share the tests.
PROCESSES ?= 2
# An edit of requirements.txt (for sed), and what is installed beside it (for pip).
EDIT ?=
ALSO ?=

.PHONY: demo test lint test-paddle26 test-torch test-browser benchmarks install clean

demo: install
	$(VENV)/bin/python tools/train.py -c configs/csrl_shapes.yml

test: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(PROCESSES) --dist loadfile tests

lint: $(VENV)/linters
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The same tests on Paddle 2.6.2, the newest with a GPU build on PyPI.
test-paddle26:
	$(MAKE) test VENV=.venv-paddle26 \
		EDIT='s/^paddlepaddle==.*/paddlepaddle==2.6.2/; s/^paddle2onnx==.*/paddle2onnx==1.3.1/'

# tools/convert_zs3.py against PyTorch itself, which the other tests do without. PyPI's wheel for
# Linux brings CUDA along (gigabytes); PIP_EXTRA_INDEX_URL can name PyTorch's index of CPU builds.
test-torch:
	$(MAKE) install VENV=.venv-torch ALSO=torch==2.13.0
	.venv-torch/bin/python -m pytest -m torch

# The pages of tools/demo.py and report.html in a headless Chromium.
test-browser:
	$(MAKE) install VENV=.venv-browser ALSO='-e .[browser]'
	.venv-browser/bin/python -m pytest -m browser

benchmarks: install
	for script in benchmarks/*.py; do \
		PYTHONPATH=. OMP_NUM_THREADS=1 $(VENV)/bin/python $$script || exit 1; done

install: $(VENV)/installed

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	sed '$(EDIT)' requirements.txt > $(VENV)/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(VENV)/requirements.txt $(ALSO)
	touch $@

$(VENV)/linters: $(VENV)/installed pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-paddle26 .venv-torch .venv-browser output .cache .*_cache *.egg-info
