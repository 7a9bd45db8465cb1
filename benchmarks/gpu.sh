#!/usr/bin/env bash
# The proofs on a GPU, a stage at a time, each in less than nine minutes:
#
#   bash benchmarks/gpu.sh pack [SHARED]     where the data are: packs what the stages read into gpu_data/
#   bash benchmarks/gpu.sh STAGE [--dry_run] where the GPU is: build-test, losses, device-hours, train, suite, profile
#
# Logs and JSON files go to $OUT (benchmarks/out where it is unset). --dry_run: toy sizes, on the CPU. PYTHON: the
# interpreter. EDAD_FAST_COMMIT: the commit, where the copy has no repository. STAGE_SECONDS: the time of a stage.
set -euo pipefail
cd "$(dirname "$0")/.."

stage=${1:?usage: bash benchmarks/gpu.sh pack|build-test|losses|device-hours|train|suite|profile [--dry_run]}
dry=${2:-}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/out}
DATA=gpu_data
deadline=$(($(date +%s) + ${STAGE_SECONDS:-530}))
failed=()
mkdir -p "$OUT" "$DATA"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# step NAME COMMAND...: run it within what is left of the stage's time; a failure is told at the end.
step() {
  local name=$1 left=$((deadline - $(date +%s))) begin=$SECONDS status=0
  shift
  if ((left < 5)); then
    status=124
  else
    timeout -k 10 "$left" "$@" >"$OUT/$name.log" 2>&1 || status=$?
  fi
  echo "$stage $name: exit $status, $((SECONDS - begin)) s" | tee -a "$OUT/summary.txt"
  if ((status)); then
    failed+=("$name")
    tail -n 40 "$OUT/$name.log" 2>/dev/null || true
  fi
}

pack() { # what travels to a machine without the shared data; 64 MiB with the checkout
  local shared=${1:-../shared}
  mkdir -p "$DATA/wheels"
  tar -C "$shared" -cf - data/models data/vocab data/ner data/corpus/bio-0{0,1,2,3}.txt.xz data/corpus/valid.txt.xz |
    xz -6 >"$DATA/data.tar.xz"
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$DATA/wheels" seqeval liger-kernel
  du -h "$DATA/data.tar.xz" "$DATA/wheels"
}

unpack() {
  if [ -f "$DATA/data.tar.xz" ] && [ ! -d "$DATA/data" ]; then tar -C "$DATA" -xJf "$DATA/data.tar.xz"; fi
  if [ ! -d "$DATA/data" ] && [ -d ../shared/data ]; then ln -sfn ../../shared/data "$DATA/data"; fi
  for wheel in "$DATA"/wheels/*.whl; do
    # No wheel there: the package must be installed already.
    if [ -f "$wheel" ]; then "$PYTHON" -m pip install --quiet --no-deps --no-index "$wheel"; fi
  done
}

build() {
  local tools
  tools=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  export PATH=$PATH:$tools:/usr/local/cuda/bin
  cmake -S . -B build/gpu -G Ninja -DPython_EXECUTABLE="$(command -v "$PYTHON")" \
    -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)"
  cmake --build build/gpu
  cmake --install build/gpu --prefix edad_fast
  ln -sfn ../kernels edad_fast/kernels
  if [ -z "$dry" ] && [ ! -f edad_fast/_losses_cuda.so ]; then
    echo "the CUDA losses were not built: nvcc was not found" >&2
    return 1
  fi
}

prepare() { # as a step of its own, so that its failure is told
  unpack
  build
}

MINILM=(--teacher "$DATA/data/models/minilm-l6-h384-uncased")

case $stage in
pack)
  pack "${@:2:1}"
  exit
  ;;
prepare-only) # inside a step
  prepare
  exit
  ;;
esac

step prepare env STAGE_SECONDS=400 bash "$0" prepare-only "$dry"
[ -d "$DATA/data" ] || echo "no data: run 'bash benchmarks/gpu.sh pack' first" | tee -a "$OUT/summary.txt"

case $stage in
build-test)
  if [ -n "$dry" ]; then
    step tests "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_results.py
  else
    parallel=$("$PYTHON" -c 'import xdist; print("-n 6")' 2>/dev/null || true)
    # shellcheck disable=SC2086
    step tests "$PYTHON" -m pytest -q -m gpu $parallel -p no:cacheprovider --deselect \
      tests/test_kernels_cuda_build.py::test_compute_sanitizer_finds_nothing tests
    step sanitizer "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider \
      tests/test_kernels_cuda_build.py::test_compute_sanitizer_finds_nothing
  fi
  ;;
losses)
  if [ -n "$dry" ]; then
    step losses "$PYTHON" benchmarks/gpu_losses.py --dry_run --output "$OUT/losses.json"
  else
    step losses "$PYTHON" benchmarks/gpu_losses.py --output "$OUT/losses.json"
  fi
  ;;
device-hours)
  hours() { # NAME OPTIONS...
    step "$1" "$PYTHON" benchmarks/device_hours.py --shared "$DATA/data" --work build/gpu-hours --json "$OUT/$1.json" "${@:2}"
  }
  if [ -n "$dry" ]; then
    hours device-hours-tiny --shape tiny --device cpu --repeats 1 --skip_memory
  else
    hours device-hours-paper --shape paper --device cuda
    hours device-hours-paper-512 --shape paper --device cuda --seq_len 512 --skip_memory
    hours device-hours-paper-exbert --shape paper --device cuda --teacher_arch exbert --skip_memory \
      --option student_arch=exbert
  fi
  ;;
train)
  run=build/gpu-train
  rm -rf "$run"
  if [ -n "$dry" ]; then
    options=(--corpus "$DATA/data/corpus/valid.txt.xz" --vocab_size 31000 --max_steps 6 --batch_tokens 2048
      --device cpu --checkpoint_every 2 --log_every 1)
    wait_for=4
  else
    options=(--corpus "$DATA/data/corpus/bio-0*.txt.xz" --vocab_size auto --epochs 1 --batch_tokens 32768
      --device cuda --checkpoint_every 50)
    wait_for=100
  fi
  train=("$PYTHON" -m edad_fast.train "${MINILM[@]}" "${options[@]}" --output_dir "$run" --evaluation_tokens 65536)
  # Killed with -9 once its metrics speak of step $wait_for, then resumed.
  step train-killed bash -c '
    "${@:3}" & pid=$!
    until grep -qs "\"step\": $2[0-9]*[,}]" "$1/metrics.jsonl"; do
      kill -0 $pid 2>/dev/null || { wait $pid; exit; }
      sleep 0.2
    done
    kill -9 $pid; wait $pid || true; ls "$1"/checkpoints/*/state.json' train "$run" "$wait_for" "${train[@]}"
  step train "${train[@]}" --resume
  for file in report.json report.md metrics.jsonl; do
    if [ -f "$run/$file" ]; then cp "$run/$file" "$OUT/train-$file"; fi
  done
  ;;
suite)
  if [ -n "$dry" ]; then
    step suite "$PYTHON" -m edad_fast.compare --config benchmarks/suites/paper.yaml --dry_run
  else
    step suite "$PYTHON" -m edad_fast.compare --config benchmarks/suites/paper.yaml --max_minutes 8
  fi
  ;;
profile)
  if [ -n "$dry" ]; then
    step profile "$PYTHON" -m edad_fast.train "${MINILM[@]}" --corpus "$DATA/data/corpus/valid.txt.xz" --max_steps 10 \
      --batch_tokens 1024 --device cpu --profile --output_dir build/gpu-profile --overwrite
  else
    step profile "$PYTHON" -m edad_fast.train "${MINILM[@]}" --corpus "$DATA/data/corpus/bio-00.txt.xz" \
      --vocab_size 48180 --max_steps 40 --batch_tokens 32768 --device cuda --profile \
      --output_dir build/gpu-profile --overwrite
    step ncu ncu --clock-control none --set basic --launch-skip 200 --launch-count 40 \
      --kernel-name regex:"attention|hidden|cross|relation|logit|linear" \
      "$PYTHON" benchmarks/gpu_losses.py --quick --rounds 2 --output "$OUT/losses-under-ncu.json"
  fi
  cp build/gpu-profile/profile-*.md "$OUT" 2>/dev/null || true
  ;;
*)
  echo "no stage $stage: build-test, losses, device-hours, train, suite or profile" >&2
  exit 2
  ;;
esac

if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]} (logs in $OUT)" | tee -a "$OUT/summary.txt"
  exit 1
fi
echo "$stage: done; results in $OUT"
