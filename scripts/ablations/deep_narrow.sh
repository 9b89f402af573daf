#!/usr/bin/env bash
# Deep with narrow kernels against shallow with wide ones (VGG): docs/ablations/deep_narrow.md
. "$(dirname "$0")/../experiment.sh"
kernels() {
  sweep "$workdir" vgg.py:vgg13_cifar --config.model.width=0.25 --config.model.norm=batch \
    --config.data.train_size=5000 --config.data.batch_size=100 --config.optimizer.learning_rate=1e-3 \
    --config.epochs=6 "$@"
}
kernels --sweep=model.kernel_size=3 '--sweep=model.stage_sizes=(1,1,1,1,1),(2,2,2,2,2)' "$@"
kernels --sweep=model.kernel_size=5 '--sweep=model.stage_sizes=(1,1,1,1,1)' "$@"
