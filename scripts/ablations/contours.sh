#!/usr/bin/env bash
# Loss contours under badly scaled inputs
# Its page: docs/ablations/contours.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/contours}
python scripts/ablate.py --what=contours --workdir="$workdir" "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
