#!/usr/bin/env python3
"""The same search from Python: hydra_lora's Study calls the fine-tune as a function.

    python search.py --base BASE --data EASY_VQA --out search.journal

Several of these may run on one journal at once, each a process of its own.
"""

import argparse
import json
from pathlib import Path

import hydra_lora

from train import run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="search.journal")
    parser.add_argument("--base-rank", type=int, default=4)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    model = Path(args.base) / "config.json"
    study = hydra_lora.create_study(
        args.out, model, args.base_rank, n_trials=args.trials, n_startup_trials=6, patience=args.trials,
        n_replicates=args.replicates, load_if_exists=True,
    )

    def fine_tune(trial):
        return run(args.base, args.data, trial.lora_config(), trial.seed, steps=args.steps, gradients=trial.gradients)

    study.optimize(fine_tune)
    study.best_schedule.save_lora_config("lora.json")
    pick = study.pick
    print(json.dumps({key: getattr(pick, key) for key in ("basis", "difference", "low", "high", "probability", "seeds")}))


if __name__ == "__main__":
    main()
