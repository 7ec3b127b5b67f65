# `make demo` and `make test` need Python 3.10-3.12 and nothing else; PYTHON chooses which one.
PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements.txt

.PHONY: demo test test-paddle26 test-torch test-browser benchmarks install clean

demo: install
	$(VENV)/bin/python tools/train.py -c configs/csrl_shapes.yml

test: install
	$(VENV)/bin/python -m pytest tests

# The same tests on Paddle 2.6.2, the newest with a GPU build on PyPI.
test-paddle26:
	$(MAKE) test VENV=.venv-paddle26 REQUIREMENTS=requirements-paddle26.txt

# tools/convert_zs3.py against PyTorch itself, which the other tests do without; see
# requirements-torch.txt for its CPU build.
test-torch:
	$(MAKE) install VENV=.venv-torch REQUIREMENTS=requirements-torch.txt
	.venv-torch/bin/python -m pytest -m torch

# The pages of tools/demo.py and report.html in a headless Chromium; see requirements-browser.txt.
test-browser:
	$(MAKE) install VENV=.venv-browser REQUIREMENTS=requirements-browser.txt
	.venv-browser/bin/python -m pytest -m browser

benchmarks: install
	for script in benchmarks/*.py; do \
		PYTHONPATH=. OMP_NUM_THREADS=1 $(VENV)/bin/python $$script || exit 1; done

install: $(VENV)/installed

$(VENV)/installed: $(REQUIREMENTS) requirements-common.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	touch $@

clean:
	rm -rf .venv .venv-paddle26 .venv-torch .venv-browser output .cache .pytest_cache
