#!/usr/bin/env bash
# Deep with narrow kernels against shallow with wide ones (VGG)
# Its page: docs/ablations/deep_narrow.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/deep_narrow}
kernels() {
  python scripts/sweep.py --config=configs/vgg.py:vgg13_cifar --workdir="$workdir" --sweep=seed=0:3 \
    --config.model.width=0.25 --config.model.norm=batch --config.data.source=fashion_mnist \
    --config.data.train_size=5000 --config.data.batch_size=100 --config.optimizer.learning_rate=1e-3 \
    --config.schedule.name=cosine --config.epochs=6 --config.log_every_steps=0 "$@"
}
kernels --sweep=model.kernel_size=3 '--sweep=model.stage_sizes=(1,1,1,1,1),(2,2,2,2,2)' "$@"
kernels --sweep=model.kernel_size=5 '--sweep=model.stage_sizes=(1,1,1,1,1)' "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
