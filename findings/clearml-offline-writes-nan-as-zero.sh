#!/usr/bin/env bash
# ClearML in offline mode writes a scalar that is NaN as 0.0, with nothing beside it that says so.
#
# A run that diverged has gradient norms that are NaN. In `metrics.jsonl` of the offline session they stand as 0.0, as if a
# parameter got no gradient: a mean over steps gets smaller where it has to be NaN. Who plans from such a file cannot tell a
# diverged run from a frozen parameter; a run of zeros after numbers is the only sign.
#
# Seen on 2026-11-28 with clearml 2.1.12, for the values 1.5, NaN, 2.5:
#   [1.5, 0.0, 2.5]
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile clearml==2.1.12
cd "$scratch"
HOME="$scratch" CLEARML_CACHE_DIR="$scratch/cache" CLEARML_OFFLINE_MODE=1 python/bin/python - >log 2>&1 <<'PYTHON' || { cat log; exit 1; }
from clearml import Task

Task.set_offline(True)
task = Task.init(project_name="p", task_name="t", auto_connect_frameworks=False, auto_resource_monitoring=False)
for step, value in enumerate([1.5, float("nan"), 2.5]):
    task.get_logger().report_scalar("grad_norm", "q_proj", value, step)
task.flush(wait_for_uploads=True)
task.close()
PYTHON
python/bin/python - <<'PYTHON'
import json
import pathlib
import sys

files = [file for file in pathlib.Path(".").rglob("metrics.jsonl")]
events = [event for file in files for line in file.read_text().splitlines() for event in json.loads(line)]
found = [event["value"] for event in sorted(events, key=lambda event: event["iter"]) if event.get("metric") == "grad_norm"]
print(found)
if found != [1.5, 0.0, 2.5]:
    sys.exit(f"this changed: expected [1.5, 0.0, 2.5], found {found}")
PYTHON
