# Environments, locked to exact versions in requirements/:
#   .venv          the reference: TensorFlow 2.17.1 with tensorflow-io 0.37.1 (native audio decoding)
#   .venv-latest   TensorFlow 2.21, NumPy 2, Keras on JAX
#   .venv-bench    the latest with PyTorch, Lhotse, Grain, LitData, DALI and Hugging Face datasets, for the benchmarks beside them
#   .venv-gpu      the latest with JAX and PyTorch for a GPU (5 GB)
# Each target makes what it needs. A fresh machine needs python3 (3.11 or 3.12), pip and make.

PYTHON ?= python3
DATA ?=
WORKERS ?= 2
ATTACKS ?= 20000

# What models compute is tested as users run it, with oneDNN; everything else without. Its pass over each new graph (it looks through all
# kernels of TensorFlow for each node) takes two thirds of the time of a tiny epoch, and half of that of all tests.
MODELS = tests/layers tests/evaluation tests/docs tests/test_readme.py tests/test_callbacks.py tests/test_demo.py
OTHERS = tests $(addprefix --ignore=,$(MODELS))
PLAIN = TF_ENABLE_ONEDNN_OPTS=0
# Each worker begins with a part of the files, whose fixtures the other then does not make, and takes from the other's part at the end.
SHARED = -n $(WORKERS) --dist worksteal

.PHONY: demo docs pictures test attacks coverage test-latest lint bench bench-full bench-gpu format lock clean

demo: .venv/ready
	.venv/bin/python -m vlpipe.cli demo $(if $(DATA),--data "$(DATA)") $(if $(ON_THE_FLY),--on-the-fly)

test: .venv/ready
	$(PLAIN) .venv/bin/python -m pytest $(SHARED) $(OTHERS)
	.venv/bin/python -m pytest $(SHARED) $(MODELS)

# The same tests with the coverage of vlpipe; code that runs in TensorFlow's threads (the mapped engine) or in other processes is not counted.
coverage: .venv/ready
	$(PLAIN) .venv/bin/python -m pytest $(SHARED) --cov=vlpipe --cov-report= $(OTHERS)
	.venv/bin/python -m pytest $(SHARED) --cov=vlpipe --cov-append --cov-report=term $(MODELS)

# Datasets and third-party files that were changed on purpose (tests/attacks); 20,000 take three minutes. ENGINE=mapped, graph or
# stream delivers them in batches, also where they change after they were opened: 25 cases a second (mapped), 2 (graph), 1 (stream).
attacks: .venv/ready
	.venv/bin/python -m tests.attacks --count $(ATTACKS) $(if $(ENGINE),--engine $(ENGINE))

test-latest: .venv-latest/ready
	$(PLAIN) .venv-latest/bin/python -m pytest $(SHARED) $(OTHERS)
	.venv-latest/bin/python -m pytest $(SHARED) $(MODELS)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy vlpipe

# The pages of docs/ as HTML, into docs-output/; a warning is an error.
docs: .venv/ready
	.venv/bin/python -m sphinx -q -W --keep-going -b html docs docs-output

# The pictures of docs/, which are committed.
pictures: .venv/ready
	.venv/bin/python -m docs.pictures

# Ten minutes on two cores that do nothing else: what this machine does, into bench-output/.
bench: .venv/ready
	.venv/bin/python -m benchmarks.throughput --rounds 3 --json bench-output/throughput.json
	.venv/bin/python -m benchmarks.training --epochs 3 --workloads events --records 8000 --width 64 --json bench-output/training-tensorflow-cpu.json
	.venv/bin/python -m benchmarks.scaling --most 1000000 --json bench-output/scaling.json
	.venv/bin/python -m benchmarks.memory --epochs 20 --json bench-output/memory.json

# The figures that benchmarks/results holds, but for those on a GPU, and the report, which says by how much each moved. Takes 70 to 90
# minutes and 24 GB of memory, on a machine that does nothing else.
bench-full: .venv-bench/ready
	.venv-bench/bin/python -m benchmarks.throughput --rounds 7 --json benchmarks/results/throughput.json
	.venv-bench/bin/python -m benchmarks.training --workloads events --records 16000 --width 64 --epochs 3 \
	  --json benchmarks/results/training-tensorflow-cpu.json
	for backend in jax torch; do .venv-bench/bin/python -m benchmarks.training --backend $$backend --device cpu --workloads events \
	  --records 16000 --width 64 --epochs 3 --ways "hand-written buckets" "vlpipe, static shapes" "vlpipe batches, static shapes" \
	  --json benchmarks/results/training-$$backend-cpu.json || exit 1; done
	.venv-bench/bin/python -m benchmarks.scaling --json benchmarks/results/scaling.json
	.venv-bench/bin/python -m benchmarks.memory --json benchmarks/results/memory.json
	.venv-bench/bin/python -m benchmarks.foreign --json benchmarks/results/foreign.json
	.venv-bench/bin/python -m benchmarks.audio $(if $(DATA),--data "$(DATA)") --json benchmarks/results/audio.json
	.venv-bench/bin/python -m benchmarks.layers --json benchmarks/results/layers.json
	! command -v perf || .venv-bench/bin/python -m benchmarks.anatomy --json benchmarks/results/anatomy.json
	.venv-bench/bin/python -m benchmarks.report

# Training on a GPU, into benchmarks/results: 10 minutes, on a machine with an NVIDIA GPU of 16 GB and its driver.
bench-gpu: .venv-gpu/ready
	.venv-gpu/bin/python -m benchmarks.gpu
	.venv-gpu/bin/python -m benchmarks.report

format: .venv/ready
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Refreshes the locks from pyproject.toml; needs uv (python -m pip install uv). PyTorch pins its CUDA packages by itself, and its build for a
# CPU needs none.
lock:
	uv pip compile pyproject.toml --group reference --universal --python-version 3.11 --no-header --upgrade -o requirements/reference.txt
	uv pip compile pyproject.toml --group latest --universal --python-version 3.11 --no-header --upgrade -o requirements/latest.txt
	uv pip compile pyproject.toml --group bench --extra peers --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/bench.txt
	sed -i '/^\(cuda\|triton\|nvidia\)/{/dali/!d}' requirements/bench.txt

clean:
	rm -rf .venv .venv-latest .venv-bench .venv-gpu demo-output docs-output bench-output

.venv/ready: requirements/reference.txt pyproject.toml
.venv-latest/ready: requirements/latest.txt pyproject.toml
.venv-bench/ready: requirements/bench.txt pyproject.toml
.venv-gpu/ready: requirements/gpu.txt requirements/latest.txt pyproject.toml
.venv/ready: LOCK = requirements/reference.txt
.venv-latest/ready: LOCK = requirements/latest.txt
.venv-bench/ready: LOCK = requirements/bench.txt
.venv-gpu/ready: LOCK = requirements/gpu.txt
.venv/ready .venv-latest/ready .venv-bench/ready .venv-gpu/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --progress-bar off -q -r $(LOCK)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@
