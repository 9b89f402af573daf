#!/usr/bin/env bash
# Nested and non-nested function classes: more layers as identities: docs/ablations/nested.md
. "$(dirname "$0")/../experiment.sh"
classes() {
  sweep "$1" resnet.py:resnet20 '--sweep=model.stage_sizes=(1,1,1),(3,3,3),(5,5,5)' --config.model.norm=none \
    --config.model.width=0.5 --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 \
    --config.optimizer.weight_decay=0 --config.data.image_size=16 --config.data.train_size=4000 \
    --config.epochs=6 "${@:2}"
}
classes "$workdir/1-plain" --config.model.shortcut=none "$@"
classes "$workdir/2-plain, identities" --config.model.shortcut=none --config.model.initializer=identity "$@"
classes "$workdir/3-residual, identities" --config.model.preactivation=true --config.model.zero_init_residual=true "$@"
