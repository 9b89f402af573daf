#!/usr/bin/env bash
# Measure what only an accelerator can show, most useful first, in at most 9 minutes.
#
#   bash scripts/accelerator.sh              write JSON, the runs' files and a log to $OUT (runs/accelerator)
#   bash scripts/accelerator.sh --tiny       the same for a moment, on any machine: does everything run?
#   bash scripts/accelerator.sh --pack DIR   gather what an offline machine needs, at most 60 MiB;
#                                            there: PACK=DIR bash scripts/accelerator.sh
#
# A part that fails or takes too long is reported, and the next one begins; files written stay. The machine needs jax,
# flax, optax, orbax and torch. --pack takes Fashion-MNIST's four files from $FASHION (/usr/share/datasets/fashion-mnist),
# CIFAR-10 as an archive of image folders (train/CLASS/, test/CLASS/) from $CIFAR, and packages for Python $PYTHON (3.12):
# $PACKAGES, by default all that are needed beside those five. The machine's own come first. Without $PACK the sets are
# fetched. The runs' files go into docs/results.md: unpack runs.tar.gz, and
# python scripts/pages.py --runs=...
set -euo pipefail
pack=${PACK:+$(realpath "$PACK")} images=${CIFAR:+$(realpath "$CIFAR")}
gray=$(realpath -m "${FASHION:-/usr/share/datasets/fashion-mnist}")
[ "${1:-}" != --pack ] || target=$(realpath -m "${2:?--pack needs a folder}")
cd "$(dirname "$0")/.."

if [ "${1:-}" = --pack ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$target" "$work/fashion-mnist"
  python -m pip install -q --no-deps --no-compile --only-binary=:all: --implementation cp \
    --python-version "${PYTHON:-3.12}" --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --target "$work/site" \
    ${PACKAGES:-absl-py ml-collections PyYAML tensorboardX protobuf packaging tqdm Pillow psutil safetensors matplotlib \
    contourpy cycler kiwisolver fonttools pyparsing python-dateutil six}
  rm -rf "$work"/site/*/tests
  find "$work/site" -path "*/fontTools/*.so" -delete  # it has the same modules in Python
  for file in "$gray"/*.gz; do
    gzip -dc "$file" > "$work/fashion-mnist/$(basename "$file" .gz)"
  done
  tar -cJf "$target/site.tar.xz" -C "$work" site
  tar -cJf "$target/fashion-mnist.tar.xz" -C "$work" fashion-mnist
  cp "${images:?CIFAR must be an archive of the images of CIFAR-10}" "$target/cifar10.tar.xz"
  git describe --always --dirty --abbrev=12 > "$target/commit"
  size=$(du -sm "$target" | cut -f1)
  echo "$target has $size MiB"
  [ "$size" -le 60 ]
  exit
fi

out=${OUT:-runs/accelerator} work=$(mktemp -d) failed=0 last=540 tiny=()
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
: > "$out/log.txt"
export XLA_PYTHON_CLIENT_PREALLOCATE=false MODERN_CNN_CACHE=$work/cache  # PyTorch needs memory too; caches are empty
fashion=fashion_mnist cifar=cifar10
if [ -n "$pack" ]; then
  mkdir "$work/cifar"
  for file in site fashion-mnist; do tar -xJf "$pack/$file.tar.xz" -C "$work"; done
  tar -xJf "$pack/cifar10.tar.xz" -C "$work/cifar"
  mkdir "$work/path"
  echo "import sys; sys.path.append('$work/site')" > "$work/path/sitecustomize.py"
  PYTHONPATH=$work/path MODERN_CNN_COMMIT=$(cat "$pack/commit" 2> /dev/null || true)
  export PYTHONPATH MODERN_CNN_COMMIT
  fashion=idx:$work/fashion-mnist cifar=folder:$(dirname "$(find "$work/cifar" -maxdepth 3 -type d -name train)")
fi

part() {  # NAME SECONDS COMMAND...: run it, with its output in the log, and say how it ended
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  limit=$((limit < last - SECONDS ? limit : last - SECONDS))
  echo "== $name: $*" >> "$out/log.txt"
  if [ "$limit" -gt 5 ]; then
    timeout -k 5 "$limit" "$@" >> "$out/log.txt" 2>&1 || code=$?
  else
    code=124
  fi
  [ "$code" -eq 0 ] || failed=$((failed + 1))
  echo "$name: code $code after $((SECONDS - start)) s: $(tail -n 1 "$out/log.txt")"
}

train() {  # NAME SECONDS CONFIG FLAGS...: a run whose files are kept without its checkpoints
  part "$1" "$2" python scripts/train.py --config="configs/$3" --workdir="$work/runs/$1" "${@:4}"
  tar -czf "$out/runs.tar.gz" --exclude=checkpoints --exclude=tensorboard -C "$work" runs 2>> "$out/log.txt" || true
}

mkdir "$work/runs"
if [ "${1:-}" = --tiny ]; then
  [ -z "$pack" ] || part pack 120 python -c "from modern_cnn.data import load
print(*(load(source)[0].shape for source in ('$fashion', '$cifar')))"
  tiny=(--tiny) fashion=digits cifar=digits
  export XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # compile quickly
fi
before=$failed
part device 60 python -c "import jax
print(jax.devices()[0].device_kind, jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64))).sum())
raise SystemExit('${tiny[*]:-}' == '' and jax.default_backend() == 'cpu')"
if [ "$failed" -gt "$before" ]; then  # JAX goes on with the CPU where CUDA fails
  echo "error: JAX has no accelerator here; $out/log.txt says more, and --tiny runs anywhere" >&2
  exit 1
fi
part exactness 110 python -m scripts.bench.exactness --out="$out/exactness.json" "${tiny[@]}"
if [ ${#tiny[@]} -eq 0 ]; then
  part steps 150 python scripts/benchmark.py --models=resnet50,vgg16,densenet121 --batch_size=128 --dtype=bfloat16 \
    --peer=torch,torch_compile --rounds=3 --out="$out/steps.json"
  part steps_cifar 40 python scripts/benchmark.py --models=resnet18_cifar --batch_size=512 --dtype=bfloat16 \
    --peer=torch,torch_compile --rounds=3 --out="$out/steps_cifar.json"
  short=()
else
  part steps 60 python scripts/benchmark.py --models=resnet18_cifar --batch_size=2 --dtype=bfloat16 --peer=torch \
    --rounds=1 --out="$out/steps.json"
  short=(--config.max_steps=2 --config.data.batch_size=8)
fi
for seed in 0 1 2; do
  train "speedrun-$seed" 60 speedrun.py:cifar10 --config.data.source="$cifar" --config.seed=$seed "${short[@]}" \
    ${short:+--config.data.image_size=32 --config.model.width=0.25}
done
train lenet-alone 30 lenet.py --config.data.source="$fashion" --config.epochs=2 "${short[@]}" \
  ${short:+--config.data.image_size=28}
part lenet-16-together 40 python scripts/sweep.py --config=configs/lenet.py --config.data.source="$fashion" \
  --sweep=seed=0:16 --config.epochs=2 --workdir="$work/runs/lenet-16" "${short[@]}" ${short:+--config.data.image_size=28}
for config in lenet.py lenet.py:lenet_bn resnet.py densenet.py googlenet.py vgg.py alexnet.py nin.py; do
  name=${config/.py/}
  train "${name/:/-}" 75 "$config" --config.data.source="$fashion" "${short[@]}" \
    ${short:+--config.data.image_size=$([ "${name%%:*}" = lenet ] && echo 28 || echo 72)}
done
tar -czf "$out/runs.tar.gz" --exclude=checkpoints --exclude=tensorboard -C "$work" runs
echo "$SECONDS s, $failed parts failed; see $out"
[ "$failed" -eq 0 ]
