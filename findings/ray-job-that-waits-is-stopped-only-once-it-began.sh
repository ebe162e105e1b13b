#!/usr/bin/env bash
# Ray's Jobs interface says that a job was stopped which waits for resources; it goes on waiting, is begun when they come free,
# and is ended only then.
#
# A job whose entrypoint resources are not free is PENDING. POST /api/jobs/ID/stop answers {"stopped": true}, as for a job that
# runs; the job stays PENDING, and DELETE answers 500. When the CPU comes free its command is run, and then ended: what it did
# at its beginning is done. Who cancels trials that wait must not take the answer for an end: look the job up again, hand over
# no more jobs than fit, and give a new attempt a name and a result of its own.
#
# Seen on 2026-11-29 with ray[default] 2.60.0:
#   stop {'stopped': True}, after 5 s PENDING, delete 500, at last STOPPED: begun True, ended by itself False
set -euo pipefail
scratch="$(mktemp -d /tmp/rayXXXXXX)"
export RAY_ADDRESS= RAY_AUTH_MODE=disabled HOME="$scratch"
trap 'kill "$head" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$scratch"' EXIT
head=
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile "ray[default]==2.60.0"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
dashboard="$(port)"
"$scratch/python/bin/ray" start --head --num-cpus=1 --port="$(port)" --dashboard-port="$dashboard" --temp-dir="$scratch/ray" \
  --block --disable-usage-stats >"$scratch/log" 2>&1 &
head=$!
"$scratch/python/bin/python" - "http://127.0.0.1:$dashboard" "$scratch/written" <<'PYTHON'
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

address, written = sys.argv[1], pathlib.Path(sys.argv[2])


def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def status(job):
    return json.loads(ask("GET", f"/api/jobs/{job}")[1])["status"]


def wait(until):
    for _ in range(600):
        try:
            if until():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.2)
    sys.exit("this changed: what was waited for never came")


wait(lambda: ask("GET", "/api/version")[0] == 200)
submit = lambda job, command: ask("POST", "/api/jobs/", {"entrypoint": command, "submission_id": job, "entrypoint_num_cpus": 1})
submit("first", "sleep 20")
wait(lambda: status("first") == "RUNNING")
submit("second", f"sh -c 'touch {written}; sleep 60; touch {written}.ended'")
wait(lambda: status("second") == "PENDING")
stopped = json.loads(ask("POST", "/api/jobs/second/stop")[1])
time.sleep(5)
after = status("second")
deleted = ask("DELETE", "/api/jobs/second")[0]
wait(lambda: status("second") not in ("PENDING", "RUNNING"))
last = status("second")
begun, ended = written.exists(), pathlib.Path(f"{written}.ended").exists()
print(f"stop {stopped}, after 5 s {after}, delete {deleted}, at last {last}: begun {begun}, ended by itself {ended}")
if (stopped, after, deleted, last, begun, ended) != ({"stopped": True}, "PENDING", 500, "STOPPED", True, False):
    sys.exit("this changed")
PYTHON
