# VENV: the virtual environment to create or use. PYTHON: the Python to create it with, 3.10 to 3.13.
# pip takes its options from the environment. Without a GPU, PyTorch's CPU wheels save gigabytes: add
#   PIP_EXTRA_INDEX_URL=<the address that pytorch.org gives for "CPU">
# to the make command line.
VENV ?= .venv
PYTHON ?= python3

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES = pyproject.toml setup.py constraints.txt CMakeLists.txt $(wildcard csrc/*/*.[ch]pp csrc/*/*.inc) \
  $(wildcard kernels/*/*.[ch]pp kernels/*/*.cu kernels/*/*.cuh)
CMAKE_TESTS = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
  -DEDAD_FAST_BINDINGS=OFF -DEDAD_FAST_TESTS=ON $(CMAKE_ARGS)
UNOPTIMISED = -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O1

.PHONY: demo test bench sanitize fuzz lint format clean

demo: $(VENV)/installed # generated text, on the CPU, a few minutes
	$(BIN)/python -m edad_fast.train

test: $(VENV)/installed-dev
	$(CMAKE_TESTS) -B $(VENV)/ctest
	$(BIN)/cmake --build $(VENV)/ctest
	$(BIN)/ctest --test-dir $(VENV)/ctest --output-on-failure --no-tests=error
	$(BIN)/python -m pytest -q

bench: $(VENV)/installed-bench # against other libraries, a few minutes; the table goes to benchmarks/out
	$(BIN)/python -m pytest benchmarks $(BENCH_ARGS)

# The C++ tests under AddressSanitizer with UndefinedBehaviorSanitizer; those with threads under ThreadSanitizer.
sanitize: $(VENV)/installed-dev
	set -e; for kind in address,undefined thread; do \
	  if [ $$kind = thread ]; then tests='^(count|encode|fill|threads)$$'; else tests=.; fi; \
	  $(CMAKE_TESTS) -B $(VENV)/sanitize-$$kind -DEDAD_FAST_SANITIZE=$$kind $(UNOPTIMISED); \
	  $(BIN)/cmake --build $(VENV)/sanitize-$$kind; \
	  $(BIN)/ctest --test-dir $(VENV)/sanitize-$$kind -R "$$tests" --output-on-failure --no-tests=error; \
	done

# Inputs that reach new branches are kept in build/fuzz_inputs, for the next run to start from.
FUZZ_SECONDS ?= 3600
fuzz: $(VENV)/installed-dev
	$(CMAKE_TESTS) -B $(VENV)/fuzz -DEDAD_FAST_FUZZ=ON -DEDAD_FAST_SANITIZE=address,undefined $(UNOPTIMISED)
	$(BIN)/cmake --build $(VENV)/fuzz --target fuzz_encode
	mkdir -p build/fuzz_inputs
	$(VENV)/fuzz/fuzz_encode --seconds $(FUZZ_SECONDS) build/fuzz_inputs

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	ln -sfn ../kernels edad_fast/kernels
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter %.cpp %.hpp %.cu %.cuh,$(SOURCES))

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter %.cpp %.hpp %.cu %.cuh,$(SOURCES))

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

$(VENV)/installed-bench: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) -e '.[bench]'
	touch $@ $(VENV)/installed
