#!/usr/bin/env python3
"""Compares LoRA configurations at the same number of trainable parameters, each at its own best learning rate.

    python compare.py --base BASE --data EASY_VQA uniform=uniform.json searched=lora.json

Rates are chosen on the validation part with seeds of their own, as many tries for every configuration; the table is of the
published test pictures with other seeds. The first configuration is the one that the others are compared with, seed by seed.
Every fine-tune is a line of `--out`, and one that is there already is not run again.
"""

import argparse
import json
import multiprocessing
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import torch
from peft import LoraConfig
from scipy.stats import t as student

from train import run, write


def fine_tune(job):
    torch.set_num_threads(1)
    name, lora, rate, seed, part, rows, args = job
    scores = run(args.base, args.data, LoraConfig(**lora), seed, args.steps, learning_rate=rate, part=part, rows=rows)
    return {"name": name, "rate": rate, "seed": seed, "part": part, "steps": args.steps, "rows": rows, "scores": scores}


def score(line):
    return mean(line["scores"].values())


def interval(values):
    """Mean and 95 % interval."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.1f} [{mean(values) - half:+.1f}, {mean(values) + half:+.1f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loras", nargs="+", metavar="NAME=FILE", help="PEFT's configurations")
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("compare.json"))
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 3e-3, 4.5e-3])
    parser.add_argument("--tuning-seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(101, 111)))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", type=int, default=2000, help="questions of the test part")
    parser.add_argument("--jobs", type=int, default=2, help="fine-tunes at a time, a core each")
    args = parser.parse_args()
    loras = {name: json.loads(Path(file).read_text()) for name, file in (pair.split("=", 1) for pair in args.loras)}
    done = json.loads(args.out.read_text()) if args.out.exists() else []

    def lines(jobs):
        key = lambda line: tuple(line[of] for of in ("name", "rate", "seed", "part", "steps", "rows"))
        of_job = lambda name, lora, rate, seed, part, rows: (name, rate, seed, part, args.steps, rows)
        wanted = {of_job(*job) for job in jobs}
        missing = [job + (args,) for job in jobs if of_job(*job) not in map(key, done)]
        with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
            for line in pool.imap_unordered(fine_tune, missing):
                done.append(line)
                write(args.out, done)
        return sorted((line for line in done if key(line) in wanted), key=key)

    tuning = defaultdict(list)
    for line in lines([(name, lora, rate, seed, "validation", 800)
                       for name, lora in loras.items() for rate in args.rates for seed in args.tuning_seeds]):
        tuning[line["name"], line["rate"]].append(score(line))
    best = {name: max(args.rates, key=lambda rate: mean(tuning[name, rate])) for name in loras}
    tested = defaultdict(list)
    for line in lines([(name, lora, best[name], seed, "test", args.rows)
                       for name, lora in loras.items() for seed in args.seeds]):
        tested[line["name"]].append(line)

    first = next(iter(loras))
    tasks = sorted(tested[first][0]["scores"])
    print("| LoRA | rate | " + " | ".join(tasks) + f" | mean | against {first} |")
    print("| --- |" + " ---: |" * (len(tasks) + 3))
    for name in loras:
        means = [f"{mean(line['scores'][task] for line in tested[name]):.1f}" for task in tasks]
        differences = [score(a) - score(b) for a, b in zip(tested[name], tested[first])]
        against = "" if name == first else interval(differences)
        row = [name, f"{best[name]:g}", *means, f"{mean(map(score, tested[name])):.1f}", against]
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
