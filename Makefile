# VENV: the virtual environment to create or use. PYTHON: the Python to create it with, 3.10 to 3.13.
# pip takes its options from the environment. Without a GPU, PyTorch's CPU wheels save gigabytes: add
#   PIP_EXTRA_INDEX_URL=<the address that pytorch.org gives for "CPU">
# to the make command line.
VENV ?= .venv
PYTHON ?= python3

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES = pyproject.toml setup.py constraints.txt CMakeLists.txt csrc/bindings.cpp $(wildcard csrc/*/*.[ch]pp)

.PHONY: demo test lint format clean

demo: $(VENV)/installed # generated text, on the CPU, a few minutes
	$(BIN)/python -m edad_fast.train

test: $(VENV)/installed-dev
	$(BIN)/cmake -S . -B $(VENV)/ctest -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DEDAD_FAST_BINDINGS=OFF -DEDAD_FAST_TESTS=ON $(CMAKE_ARGS)
	$(BIN)/cmake --build $(VENV)/ctest
	$(BIN)/ctest --test-dir $(VENV)/ctest --output-on-failure --no-tests=error
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	ln -sfn ../kernels edad_fast/kernels
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter csrc/%,$(SOURCES))

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter csrc/%,$(SOURCES))

clean:
	rm -rf $(VENV) build edad_fast.egg-info edad_fast/kernels edad_fast/*.so .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) -e '.[test,lint]'
	touch $@ $(VENV)/installed
