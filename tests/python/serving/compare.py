"""Compares what the programs computed with PEFT:   compare.py SCRATCH

Prints tables in Markdown, and exits with 1 where a difference is above its bound, or a wrong adapter is not noticed.
"""

import json
import pathlib
import sys

import loads

# Of log-probabilities. A program that differs from transformers without any adapter, through a rounded GELU or another one,
# differs by a few times as much with one.
BOUND = 1e-4
TIMES_BASE = 3
# Where a base differs by more, an adapter on it says nothing.
BASE_BOUND = 1e-2
# What an adapter has to change, and by how many bounds a wrong one has to be off.
EFFECT = 0.5
WRONG = 3
TITLES = {"peft": "PEFT", "vllm": "vLLM", "llama.cpp": "llama.cpp", "mlx": "mlx-lm"}


def difference(rows, others):
    """The largest one; not a number where there is one that is not."""
    values = [abs(a - b) for row, other in zip(rows, others, strict=True) for a, b in zip(row, other, strict=True)]
    return max(values) if all(value == value for value in values) else float("nan")


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


class Comparison:
    def __init__(self, scratch):
        self.scratch = scratch
        self.cases = json.loads((scratch / "cases.json").read_text())
        self.loads = loads.read(scratch)
        self.programs = [program for program in TITLES if any(load.program == program for load in self.loads)]
        self.failures, self.refused = [], []
        # By program and case.
        self.base = {}
        # By load, in which an adapter came out and in which a wrong one did.
        self.right, self.wrong = {}, {}

    def fail(self, load, text):
        self.failures.append(f"{TITLES[load.program]}, {load.case}, {load.what}: {text}")

    def bound(self, load):
        return max(BOUND, TIMES_BASE * self.base.get((load.program, load.case), 0.0))

    def judge(self, load, reference):
        path = loads.result_path(self.scratch, load)
        result = json.loads(path.read_text()) if path.exists() else {"error": "it ended before"}
        if load.expected == "refused":
            if "max_lora_rank" in result.get("error", ""):
                self.refused.append((load, result["error"]))
            else:
                self.fail(load, f"it was to be refused, and gave {result.get('error', 'a result')}")
            return
        if "error" in result:
            self.fail(load, result["error"])
            return
        found = difference(result["rows"], reference["base" if load.expected == "base" else "adapter"])
        if load.expected == "base":
            self.base[load.program, load.case] = found
            if not found <= BASE_BOUND:
                self.fail(load, f"without any adapter it differs from transformers by {found:.1e}")
        elif load.expected == "adapter":
            self.right[load.program, load.case, load.what] = found
            if not found <= self.bound(load):
                self.fail(load, f"it differs from PEFT by {found:.1e}, and the bound is {self.bound(load):.1e}")
        else:
            self.wrong[load.program, load.case, load.what] = found
            if not found >= WRONG * self.bound(load):
                self.fail(load, f"a wrong adapter differs by no more than {found:.1e}")

    def run(self):
        effects = {}
        for case, facts in self.cases.items():
            reference = json.loads(pathlib.Path(facts["reference"]).read_text())
            effects[case] = difference(reference["base"], reference["adapter"])
            if not effects[case] >= EFFECT:
                self.failures.append(f"{case}: the adapter changes log-probabilities by no more than {effects[case]:.1e}")
            # The base comes first.
            for load in self.loads:
                if load.case == case:
                    self.judge(load, reference)
        return effects

    def cell(self, program, case):
        found = [value for (p, c, _), value in self.right.items() if (p, c) == (program, case)]
        if not found:
            return "–"
        return f"{max(found):.0e} ({self.base.get((program, case), float('nan')):.0e})"

    def print(self, effects):
        print("Largest differences from PEFT; in parentheses the program's without any adapter.\n")
        header = ["model, scale", "ranks", "effect", *(TITLES[program] for program in self.programs), "one module doubled"]
        rows = []
        for case, facts in self.cases.items():
            spoiled = [value for (_, c, what), value in self.wrong.items() if c == case and what == "another adapter"]
            rows.append([case, f"{facts['ranks'][0]}–{facts['ranks'][-1]}", f"{effects[case]:.1f}",
                         *(self.cell(program, case) for program in self.programs),
                         f"{min(spoiled):.2f}" if spoiled else "–"])
        table(header, rows)
        groups = {}
        for (program, case, what), value in [*self.right.items(), *self.wrong.items()]:
            close = self.base.get((program, case), 0.0) <= BOUND
            is_right = (program, case, what) in self.right
            groups.setdefault((program, what, is_right), []).append((value, close))
        rows = []
        for (program, what, is_right), values in sorted(groups.items(), key=lambda group: self.programs.index(group[0][0])):
            if what == "another adapter":
                continue
            near, far = ([value for value, close in values if close is which] for which in (True, False))
            rows.append([f"{TITLES[program]}: {what}" + ("" if is_right else " (wrong, as `verify` says)"), str(len(values)),
                         f"{max(near):.0e}" if near else "–", f"{max(far):.0e}" if far else "–"])
        table(["program: what it loaded", "cases", "largest difference", "where its base is rounded"], rows)
        for path in sorted((self.scratch / "results").glob("versions-*.txt")):
            print(f"- {path.read_text()}")
        for case, facts in self.cases.items():
            if facts["not_merged"]:
                said = facts["not_merged"].replace(f"{self.scratch}/models/", "")
                print(f"- {case}, --format merged: {said}")
        for load, error in self.refused:
            print(f"- {TITLES[load.program]}, {load.case}, {load.what}: {error}")
        print()


def main():
    comparison = Comparison(pathlib.Path(sys.argv[1]))
    comparison.print(comparison.run())
    for failure in comparison.failures:
        print(f"FAILED: {failure}")
    sys.exit(bool(comparison.failures))


main()
