#!/usr/bin/env bash
# wandb.Histogram of an array of zeros puts all of it into a bin that begins at 0 and ends at 1/64, of a range from -0.5 to 0.5.
#
# W&B's own example logs gradients as `wandb.Histogram(parameter.grad)`. In the first step of every LoRA run the gradient of A is
# zero, since B is. The bins are those of numpy.histogram, whose range for equal values c is c - 0.5 to c + 0.5; which value it
# was is not written. A reader that takes a bin's middle for its values estimates a norm of 0.0078 times the square root of the
# number of elements, which is more than real gradients of later steps; a norm of 0 is right. wandb.watch's own histograms of
# the same gradient are written as one bin from 0 to 0, so both forms stand in logs.
#
# Seen on 2026-11-28 with wandb 0.31.0 and numpy 2.3.5, for 256 zeros:
#   64 bins from -0.5 to 0.5, 1 of them not empty: 256 values from 0.0 to 0.015625
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile wandb==0.31.0 numpy==2.3.5
cd "$scratch"
python/bin/python - <<'PYTHON'
import sys

import numpy
import wandb

histogram = wandb.Histogram(numpy.zeros(256))
counts, edges = list(histogram.histogram), list(histogram.bins)
full = [(int(count), edges[i], edges[i + 1]) for i, count in enumerate(counts) if count]
print(f"{len(counts)} bins from {edges[0]} to {edges[-1]}, {len(full)} of them not empty: "
      + ", ".join(f"{count} values from {float(low)} to {float(high)}" for count, low, high in full))
expected = (64, -0.5, 0.5, [(256, 0.0, 0.015625)])
found = (len(counts), edges[0], edges[-1], full)
if found != expected:
    sys.exit(f"this changed: expected {expected}, found {found}")
PYTHON
