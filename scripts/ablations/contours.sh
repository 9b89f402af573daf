#!/usr/bin/env bash
# Loss contours under badly scaled inputs.
#
# Claim: with inputs of like ranges gradient descent takes a straight way and few steps; with [1, 10] and [100, 1000]
# a long one; standardising mends it.
#
# Source: the TensorFlow text, section 10.8, figure 10.40. Its loss, the output x1 w1 + x2 w2 + b itself, has no
# minimum and straight contours; here it is half the mean squared error to known weights.
#
# Here: 100 inputs from each seed, the rate 1 / the largest curvature, from a distance of 1, half of it along each
# principal axis; steps until a hundredth of it is left.
#
# Full size: it is.
#
# Found: as claimed, and more so. 40 steps (mean of 3 seeds) where the ranges are alike, 122,000 where they are not
# (condition number 9.8 against 28,700), 3 after standardising: like ranges alone are not the best, as inputs that are
# all above 0 are correlated. Took 6 seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/contours}
python scripts/ablate.py --what=contours --workdir="$workdir" "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
