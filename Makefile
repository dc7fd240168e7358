# Two environments, both locked to exact versions in requirements/:
#   .venv          the reference: TensorFlow 2.17.1 with tensorflow-io 0.37.1 (native audio decoding)
#   .venv-latest   TensorFlow 2.21, NumPy 2, Keras on JAX
# Each target makes what it needs. A fresh machine needs python3 (3.11 or 3.12), pip and make.

PYTHON ?= python3
DATA ?=
WORKERS ?= 2

.PHONY: demo test test-latest lint bench format lock clean

demo: .venv/ready
	.venv/bin/python -m benchmarks.demo $(if $(DATA),--data "$(DATA)")

test: .venv/ready
	.venv/bin/python -m pytest -n $(WORKERS) tests

test-latest: .venv-latest/ready
	.venv-latest/bin/python -m pytest -n $(WORKERS) tests

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy vlpipe

# The figures that benchmarks/results holds were made so; takes some five minutes, on a machine that does nothing else.
bench: .venv/ready
	.venv/bin/python -m benchmarks.throughput --json benchmarks/results/throughput.json

format: .venv/ready
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Refreshes both locks from pyproject.toml; needs uv (python -m pip install uv).
lock:
	uv pip compile pyproject.toml --group reference --universal --python-version 3.11 --no-header --upgrade -o requirements/reference.txt
	uv pip compile pyproject.toml --group latest --universal --python-version 3.11 --no-header --upgrade -o requirements/latest.txt

clean:
	rm -rf .venv .venv-latest demo-output

.venv/ready: requirements/reference.txt pyproject.toml
.venv-latest/ready: requirements/latest.txt pyproject.toml
.venv/ready: LOCK = requirements/reference.txt
.venv-latest/ready: LOCK = requirements/latest.txt
.venv/ready .venv-latest/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --progress-bar off -q -r $(LOCK)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@
