# Two commands set everything up on a fresh machine:  make demo   and   make test
# `make bench` measures our backends beside what people deploy with otherwise, and says how long that
# will take (a quarter of an hour on 2 cores).
# `make lock` refreshes the exact versions that both install; `make wheel` makes what pip installs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Of `make bench`: any run with a checkpoint, and options of benchmarks/table.py, for example
# BENCH_FLAGS=--update-page.
RUN ?= runs/bench
BENCH_FLAGS ?=
# A worker that dies ends the run: started anew it would leave its tests undone and never end.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder \
	--max-worker-restart 0

.PHONY: install demo bench gpu-checks test test-all architectures lint lock wheel smoke clean

install: $(VENV)/.installed

# --no-deps: the lock file names everything, pyproject.toml only the lower bounds.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# The main job on the built-in scenes, each step as a user would type it.
demo: install
	@rm -rf $(DEMO)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh $(DEMO)

# Without a run of that name, the built-in scenes are learned for a minute first.
bench: install
	test -f $(RUN)/model.safetensors || \
		$(BIN)/fcn-deploy train --epochs 9 --crop-size 128x192 --batch-size 4 --out $(RUN)
	test -f $(RUN)/model.onnx || $(BIN)/fcn-deploy export $(RUN)
	test -f $(RUN)/model.fp16.onnx || $(BIN)/fcn-deploy export $(RUN) --fp16
	$(BIN)/python benchmarks/table.py $(RUN) $(BENCH_FLAGS)

# The pages that show what was measured on a GPU, from the files in benchmarks/results.
gpu-checks: install
	$(BIN)/python benchmarks/gpu_checks.py

test: install lint
	$(PYTEST) -m "not slow"

# What takes long as well: killed trainings, more architectures, engines of real builders.
test-all: install lint
	$(PYTEST) --ignore tests/test_wheel.py
	$(MAKE) smoke

# Every network that can be trained, through export, parity and the TensorRT for RTX builder.
architectures: install
	FCN_DEPLOY_ALL_ARCHITECTURES=1 $(BIN)/python -m pytest -n auto tests/networks/test_architectures.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd benchmarks && MYPYPATH=..:. ../$(BIN)/mypy --config-file ../pyproject.toml *.py peers/*.py gpu/*.py gpu_page/*.py networks/*.py
	$(BIN)/lint-imports

# Exact versions for every supported Python and platform; then those of a machine that computes on
# its CPU alone: the runtime with onnxruntime in place of onnxruntime-gpu, at the same versions.
UV := $(VENV)-lock/bin/uv pip compile --universal --python-version 3.10 --no-emit-index-url --no-header --no-annotate
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(UV) pyproject.toml --extra dev --extra rtx --extra train --upgrade --output-file requirements.lock
	echo 'onnxruntime-gpu; python_version < "3"' > $(VENV)-lock/left-out.txt
	echo 'onnxruntime>=1.20' > $(VENV)-lock/added.txt
	$(UV) pyproject.toml $(VENV)-lock/added.txt --override $(VENV)-lock/left-out.txt \
		--constraint requirements.lock --upgrade --no-annotate --output-file requirements-cpu.txt
	rm -rf $(VENV)-lock

# What `pip install` and `uvx --from` take: dist/fcn_deploy-*.whl
wheel: install
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir dist .

# The wheel in an empty environment without PyTorch: sizes, and every command of a device.
smoke: install
	$(BIN)/python -m pytest -s tests/test_wheel.py

clean:
	rm -rf $(VENV) build dist *.egg-info runs/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
