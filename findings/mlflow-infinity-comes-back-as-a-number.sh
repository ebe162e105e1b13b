#!/usr/bin/env bash
# mlflow's SQLite store gives an infinite metric back as the largest finite number, and marks only NaN.
#
# A gradient norm that overflowed is logged as infinity. In the table `metrics` it becomes 1.7976931348623157e308 with `is_nan` 0,
# and `MlflowClient.get_metric_history` returns that number: a mean over steps is then huge or infinite and nothing says why.
# NaN is stored as 0.0 with `is_nan` 1, so that who reads the column `value` alone sees a gradient of zero in a step that
# diverged. A reader of mlflow.db has to look at `is_nan` and to take ±1.7976931348623157e308 for what it was.
#
# Seen on 2026-11-28 with mlflow 3.17.2:
#   logged inf, -inf, nan
#   stored (1.7976931348623157e+308, 0), (-1.7976931348623157e+308, 0), (0.0, 1)
#   client 1.7976931348623157e+308, -1.7976931348623157e+308, nan
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile mlflow==3.17.2 mlflow-skinny==3.17.2
cd "$scratch"
MLFLOW_DISABLE_TELEMETRY=true python/bin/python - 2>log <<'PYTHON' || { cat log; exit 1; }
import math
import sqlite3
import sys

import mlflow

mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run() as run:
    for step, value in enumerate([math.inf, -math.inf, math.nan]):
        mlflow.log_metric("grad_norm", value, step=step)
stored = sqlite3.connect("mlflow.db").execute("select value, is_nan from metrics order by step").fetchall()
client = [metric.value for metric in mlflow.MlflowClient().get_metric_history(run.info.run_id, "grad_norm")]
print("logged inf, -inf, nan")
print("stored", ", ".join(map(str, stored)))
print("client", ", ".join(map(str, client)))
most = sys.float_info.max
expected = [(most, 0), (-most, 0), (0.0, 1)]
if stored != expected or client[:2] != [most, -most] or not math.isnan(client[2]):
    print(f"this changed: expected {expected} in the table, and the first two from the client")
    sys.exit(1)
PYTHON
