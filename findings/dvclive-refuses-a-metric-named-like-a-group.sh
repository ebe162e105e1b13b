#!/usr/bin/env bash
# dvclive cannot log `grad_norm` and `grad_norm/NAME` in one run: AttributeError about a float.
#
# transformers' Trainer logs the global norm as `grad_norm`; whoever adds norms by parameter under `grad_norm/NAME`, which W&B,
# TensorBoard, trackio and mlflow take, gets an error whose text names neither of the two keys. `grad_norms/NAME` works.
#
# Seen on 2026-11-28 with dvclive 3.49.1:
#   AttributeError: 'float' object has no attribute 'copy'
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile dvclive==3.49.1
mkdir "$scratch/run"
cd "$scratch/run"
DVC_NO_ANALYTICS=1 ../python/bin/python - 2>../log <<'PYTHON' || { cat ../log; exit 1; }
import sys

from dvclive import Live

live = Live(save_dvc_exp=False, report=None, dir="dvclive")


def log(*names):
    try:
        for name in names:
            live.log_metric(name, 1.0)
        live.next_step()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


separate, nested = log("grad_norm", "grad_norms/q_proj"), log("grad_norm", "grad_norm/q_proj")
print(f"grad_norm and grad_norms/q_proj: {separate}\ngrad_norm and grad_norm/q_proj: {nested}")
if separate is not None or nested != "AttributeError: 'float' object has no attribute 'copy'":
    print("this changed: expected no error, then AttributeError: 'float' object has no attribute 'copy'")
    sys.exit(1)
PYTHON
