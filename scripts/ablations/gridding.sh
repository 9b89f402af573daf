#!/usr/bin/env bash
# The gridding of stacked dilated convolutions: docs/ablations/gridding.md
. "$(dirname "$0")/../experiment.sh"
python scripts/ablate.py --what=gridding --workdir="$workdir" "$@"
