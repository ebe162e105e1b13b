"""What the scripts of this folder tell each other, as files of one scratch folder.

`loads.jsonl`: one line for each model or adapter that a program loads, with the keys of `Load`. `results/NAME.json`: the
log-probabilities that came out, a row for each prefix of `TOKENS` and a column for each token, or the error.
"""

import dataclasses
import json
import pathlib

VOCABULARY = 320
# Any tokens, without those that tokenizers treat in a way of their own.
TOKENS = [5 + (97 * step * step + 31 * step) % (VOCABULARY - 5) for step in range(16)]


@dataclasses.dataclass
class Load:
    """One thing that one program loads."""

    # The program: peft, llama.cpp, vllm or mlx.
    program: str
    # The case, such as "qwen3, constant:2".
    case: str
    # What is loaded: base, gguf, uniform, …
    what: str
    # The model's folder; for llama.cpp its GGUF file.
    base: str
    # The adapter's folder or file.
    adapter: str = None
    # Whether the result has to be the base's, the adapter's, another one, or a refusal.
    expected: str = "adapter"
    # vLLM's setting.
    max_lora_rank: int = None

    def name(self):
        return "".join(c if c.isalnum() else "-" for c in f"{self.program} {self.case} {self.what}")


def write(folder, loads):
    lines = [json.dumps(dataclasses.asdict(load)) for load in loads]
    (folder / "loads.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "results").mkdir(exist_ok=True)


def read(folder):
    return [Load(**json.loads(line)) for line in (folder / "loads.jsonl").read_text().splitlines()]


def result_path(folder, load):
    return folder / "results" / f"{load.name()}.json"


def run(folder, program, versions, log_probabilities):
    """Calls `log_probabilities(load)` for every load of a program and keeps what comes out."""
    folder = pathlib.Path(folder)
    (folder / "results" / f"versions-{program}.txt").write_text(versions)
    for load in read(folder):
        if load.program != program:
            continue
        try:
            result = {"rows": log_probabilities(load)}
        # Whatever a program says when it does not load something is the result.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            result = {"error": f"{type(error).__name__}: {lines[0]}"}
        result_path(folder, load).write_text(json.dumps(result))
