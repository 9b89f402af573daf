# What all experiments in scripts/ablations/ share; each reads this file first.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/$(basename "$0" .sh)}
trap '[ $? -ne 0 ] || { echo "$SECONDS"; times; } >> "$workdir/seconds"' EXIT  # only if all commands succeeded

sweep() {  # DIRECTORY CONFIG FLAGS...: three seeds of a grid on images as they are, cosine schedule; later flags count
  python scripts/sweep.py --config="configs/$2" --workdir="$1" --sweep=seed=0:3 --config.data.source=fashion_mnist \
    --config.data.validation=0 --config.augment.crop=0 --config.augment.flip=false --config.augment.lighting=0 \
    --config.test_every_epoch=true --config.log_every_steps=0 --config.schedule.name=cosine "${@:3}"
}
