#!/usr/bin/env bash
# Loss contours under badly scaled inputs: docs/ablations/contours.md
. "$(dirname "$0")/../experiment.sh"
python scripts/ablate.py --what=contours --workdir="$workdir" "$@"
