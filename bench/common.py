"""What the benchmark scripts share: running ours and the peers, describing the machine, writing results."""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PEERS = ROOT / "bench" / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hydra"


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes and few runs: checks that the script works")
    parser.add_argument("--trainer", type=Path, help="the program, where it is not to be built")
    parser.add_argument("--python", type=Path, default=CACHE / "python-current" / "bin" / "python",
                        help="Python with the peers (bench/setup makes one)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="file of the result; bench/results/NAME.json without it")
    return parser


def trainer(options, features=()):
    """Path of the program, built where none was given."""
    if options.trainer:
        return options.trainer.resolve()
    command = ["cargo", "build", "--release", "-p", "hydra-trainer"]
    if features:
        command += ["--features", ",".join(features)]
    subprocess.run(command, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "trainer"


def environment(threads):
    """The environment of a measured process: so many threads, whatever library counts them."""
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    env.update({name: str(threads) for name in names})
    # OpenMP's threads wait for each other by turning round and round, which is fastest on an idle machine and several times
    # slower where anything else wants the processor.
    env["OMP_WAIT_POLICY"] = WAIT_POLICY
    return env


def busy_share(seconds=2.0):
    """Which share of the processors other programs use just now. The load average would still tell of the last benchmark."""

    def ticks():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(fields), fields[3] + fields[4]

    if not Path("/proc/stat").exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    before = ticks()
    time.sleep(seconds)
    after = ticks()
    return 1 - (after[1] - before[1]) / max(after[0] - before[0], 1)


BUSY_BEFORE = busy_share()
WAIT_POLICY = "passive" if BUSY_BEFORE > 0.25 else "active"


def run_json(command, threads, limit=None):
    """Runs a program that prints one JSON document; None where it took longer than `limit` seconds."""
    command = [str(part) for part in command]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with {done.returncode}:\n{done.stderr[-4000:]}\n{done.stdout[-1000:]}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def browser_figures(options, page, logs, out, **environment):
    """What tests/tests/browser_figures.rs measured of a page and these logs."""
    environment = {**os.environ, "HYDRA_PAGE": str(page.resolve()), "HYDRA_BENCH_OUT": str(out),
                   "HYDRA_BENCH_LOGS": os.pathsep.join(map(str, logs)), **environment}
    if options.figures:
        program = [options.figures.resolve()]
    else:
        # All packages at once, as in scripts/test: nothing is built twice.
        features = "hydra-trainer/wgpu,hydra-workers/performance,hydra-workers/training"
        program = ["cargo", "test", "--workspace", "--exclude", "hydra-web", "--features", features,
                   "--test", "browser_figures", "--"]
    subprocess.run([*program, "--ignored", "--nocapture"], cwd=ROOT, env=environment, check=True)
    return json.loads(out.read_text())


def in_turn(*programs, rounds):
    """Runs programs in turn, so that all see the same machine, and gives the documents of all rounds of each."""
    documents = tuple([] for _ in programs)
    for _ in range(rounds):
        for program, found in zip(programs, documents):
            found.append(program())
    return documents


def median_of(documents, key):
    return statistics.median(document[key] for document in documents)


def median_document(documents, key):
    """The document in the middle of all by `key`."""
    ordered = sorted(documents, key=lambda document: document[key])
    return ordered[len(ordered) // 2]


def exponent(sizes, seconds):
    """Slope of log(seconds) over log(size), by least squares: 1 where the time grows with the size."""
    import math

    points = [(math.log(size), math.log(second)) for size, second in zip(sizes, seconds) if second]
    if len(points) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    square = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / square


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine():
    """Processor, cores, memory and load."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    memory = None
    if Path("/proc/meminfo").exists():
        kib = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
        memory = int(kib.group(1)) * 1024 if kib else None
    family = re.search(r"cpu family\s*: (.*)", info)
    number = re.search(r"\nmodel\s*: (.*)", info)
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cpu_family_and_model": f"{family.group(1)}/{number.group(1)}" if family and number else None,
        "simd": "AVX-512" if " avx512f" in info else "AVX2" if " avx2" in info else "none or unknown",
        "bfloat16_units": [name for name, flag in (("AMX", " amx_bf16"), ("AVX512-BF16", " avx512_bf16")) if flag in info],
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.system(),
        "load_average": list(os.getloadavg()),
        "busy_before": round(BUSY_BEFORE, 3),
    }


def gpu():
    """The first NVIDIA card, its driver and memory; None where there is none."""
    return first_line(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])


def versions(python, modules):
    code = "import importlib, json; print(json.dumps({m: importlib.import_module(m).__version__ for m in %r}))" % (modules,)
    found = first_line([str(python), "-c", code])
    result = json.loads(found) if found else {}
    result["python"] = first_line([str(python), "-c", "import platform; print(platform.python_version())"])
    lock = (ROOT / "Cargo.lock").read_text() if (ROOT / "Cargo.lock").exists() else ""
    burn = re.search(r'name = "burn"\nversion = "([^"]+)"', lock)
    result["burn"] = burn.group(1) if burn else None
    return result


def write(options, name, claim, body, modules, started):
    """Writes the result; `started` is the machine before the measurement."""
    commit = os.environ.get("HYDRA_COMMIT") or first_line(["git", "rev-parse", "--short=12", "HEAD"])
    # gpu_pack marks a build of changed files so.
    changed = commit.endswith("+") if "HYDRA_COMMIT" in os.environ else first_line(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", "trainer", "shared", "Cargo.lock"])
    document = {
        "claim": claim,
        "quick": options.quick,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit and commit.rstrip("+"),
        "uncommitted_changes": bool(changed),
        "machine": started,
        "load_average_afterwards": list(os.getloadavg()),
        "threads": options.threads,
        "openmp_wait_policy": WAIT_POLICY,
        "versions": versions(options.python, modules),
        **body,
    }
    path = options.out or RESULTS / f"{name}{'-quick' if options.quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {path}", file=sys.stderr)
