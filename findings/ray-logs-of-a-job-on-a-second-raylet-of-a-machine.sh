#!/usr/bin/env bash
# Of a Ray cluster that is tried out on one machine, as two raylets, the log of a job that ran on the second one cannot be had.
#
# Every node has an agent that serves the logs of its jobs, on the same port. The second raylet of a machine finds it taken; its
# agent starts all the same, and is known by the port -1. Jobs run there and end well, GET /api/jobs/ID says SUCCEEDED, and
# GET /api/jobs/ID/logs answers 500, with a traceback about a port that is out of range (`ray job logs` ends with it, too).
# Whoever tests a submitter so must read the output of its jobs from a file of their own, or start the second node with another
# --dashboard-agent-listen-port, which this does as well: then the log is there.
#
# Seen on 2026-11-30 with ray[default] 2.60.0:
#   without a port SUCCEEDED, agent :-1, logs 500; with a port of its own SUCCEEDED, logs 200 hello
set -euo pipefail
scratch="$(mktemp -d /tmp/rayXXXXXX)"
export RAY_ADDRESS= RAY_AUTH_MODE=disabled HOME="$scratch"
nodes=()
trap 'kill "${nodes[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile "ray[default]==2.60.0"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() {
  "$scratch/python/bin/ray" start --block --disable-usage-stats "$@" >>"$scratch/log" 2>&1 &
  nodes+=("$!")
}
dashboard="$(port)" head="$(port)"
start --head --num-cpus=0 --port="$head" --dashboard-port="$dashboard" --temp-dir="$scratch/ray"
"$scratch/python/bin/python" - "http://127.0.0.1:$dashboard" wait-for-head <<'PYTHON'
import sys, time, urllib.request
for _ in range(300):
    try:
        sys.exit(urllib.request.urlopen(sys.argv[1] + "/api/version", timeout=5).status != 200)
    except OSError:
        time.sleep(0.2)
sys.exit("the head does not start")
PYTHON
start --address="127.0.0.1:$head" --num-cpus=1 --resources='{"plain": 1}'
start --address="127.0.0.1:$head" --num-cpus=1 --resources='{"own": 1}' --dashboard-agent-listen-port="$(port)"
"$scratch/python/bin/python" - "http://127.0.0.1:$dashboard" <<'PYTHON'
import json
import sys
import time
import urllib.error
import urllib.request

address = sys.argv[1]


def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def run(node):
    """A job on a node: how it ended, its agent's address, and what its log answers."""
    body = {"entrypoint": "echo hello", "submission_id": node, "entrypoint_num_cpus": 1, "entrypoint_resources": {node: 1}}
    assert ask("POST", "/api/jobs/", body)[0] == 200
    for _ in range(600):
        job = json.loads(ask("GET", f"/api/jobs/{node}")[1])
        if job["status"] not in ("PENDING", "RUNNING"):
            break
        time.sleep(0.2)
    code, log = ask("GET", f"/api/jobs/{node}/logs")
    return job["status"], job["driver_agent_http_address"], code, log


status, agent, code, _ = run("plain")
own_status, _, own_code, log = run("own")
said = "hello" if "hello" in log else log[:100]
print(f"without a port {status}, agent :{agent.rsplit(':', 1)[1]}, logs {code}; with a port of its own {own_status}, logs "
      f"{own_code} {said}")
if (status, agent.endswith(":-1"), code, own_status, own_code, said) != ("SUCCEEDED", True, 500, "SUCCEEDED", 200, "hello"):
    sys.exit("this changed")
PYTHON
