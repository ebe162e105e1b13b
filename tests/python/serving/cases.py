"""Makes small random models and adapters in mixed ranks, exports them, and lists what is to be loaded.

    cases.py SCRATCH TRAINER LLAMA_CPP PROGRAM ...

LLAMA_CPP is the folder of llama.cpp's sources with its converters, or `-`. An adapter goes the way of README's first reader:
a gradient log of PEFT, `trainer plan --peft`, PEFT's own `save_pretrained`, then `trainer verify` and `trainer export`.
"""

import contextlib
import io
import json
import logging
import pathlib
import runpy
import shutil
import subprocess
import sys

import sentencepiece
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import load_peft
import loads
from loads import Load

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "scripts"))
from hydra_grad_logger import GradientLog

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
# Sizes that all of the programs take: vLLM's attention on the CPU wants heads of 32, 64, ….
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": loads.VOCABULARY, "max_position_embeddings": 512,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE_HEADS = {"head_dim": 64}
# mlx-lm rounds the root of hidden_size, by which Gemma multiplies its embedding, to bfloat16: that of 64 is exact.
GEMMA = {"head_dim": 32, "hidden_size": 64}
# Name, model type, what its configuration has beside SIZES.
MODELS = {
    "llama": ("llama", ROPE),
    "llama with biases and wide heads": ("llama", {**ROPE, **WIDE_HEADS, "attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("mistral", {**ROPE, "sliding_window": None}),
    "qwen2": ("qwen2", ROPE),
    "qwen3": ("qwen3", {**ROPE, **WIDE_HEADS}),
    "gemma": ("gemma", GEMMA),
    "gemma2": ("gemma2", {**GEMMA, "query_pre_attn_scalar": 32}),
    # Every sixth layer looks at all positions.
    "gemma3_text": ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 32, "num_hidden_layers": 6}),
    "granite": ("granite", {**ROPE, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.7,
                            "logits_scaling": 2.0}),
    # Every fourth layer has no positions.
    "smollm3": ("smollm3", ROPE),
}
# A decoder inside a vision-language model, asked without a picture: vLLM wants an image processor for it, and mlx-lm runs language
# models alone.
LLAVA = "llava"
TOWER = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
MODELS[LLAVA] = ("llava", {"text_config": {"model_type": "llama", **SIZES, **ROPE}, "vision_config": TOWER,
                           "image_token_id": loads.VOCABULARY - 1})
WITHOUT_PROCESSOR = ["peft", "llama.cpp"]
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QV = ["q_proj", "v_proj"]
BASE_RANK = 8
# Model, modules of LoRA, further arguments of `trainer plan`.
CASES = [
    ("llama", SEVEN, ["--scale", "constant:2"]),
    ("llama", SEVEN, ["--scale", "fixed-alpha:16"]),
    ("llama", SEVEN, ["--scale", "rslora:8"]),
    ("llama", QV, ["--scale", "constant:2", "--min-rank", "0"]),
    *((name, SEVEN, ["--scale", "constant:2"]) for name in MODELS if name != "llama"),
]


def random_model(name, seed):
    model_type, settings = MODELS[name]
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[model_type](**{**({} if name == LLAVA else SIZES), **settings})
    model = load_peft.class_for(config).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
            else:
                # Norms and biases keep their means, Gemma's 0 included.
                parameter.add_(torch.randn_like(parameter) * 0.1)
        # Where it is the output head as well, a large one would make log-probabilities large.
        model.get_input_embeddings().weight.mul_(1 if config.tie_word_embeddings else 4)
    return model


def as_published(path):
    """The base of the rotation also where configurations on the hub have it, and where mlx-lm alone looks for most models."""
    config = json.loads(path.read_text())
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta:
        path.write_text(json.dumps({**config, "rope_theta": theta}, indent=2))


def write_tokenizer(folder):
    """A SentencePiece model: the one kind that llama.cpp's converter takes without knowing it."""
    text = " ".join(f"{first}{second}{third}" for first in "abcdefghij" for second in "klmnopqr" for third in "stuvwxyz")
    (folder / "text.txt").write_text("\n".join(text[start : start + 400] for start in range(0, len(text), 400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=loads.VOCABULARY, byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_gradients(model, targets, path):
    """What two steps of uniform LoRA leave in the log of README's step 1."""
    tuned = get_peft_model(model, LoraConfig(r=BASE_RANK, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    log = GradientLog(str(path), tuned)
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.01)
    ids = torch.tensor([loads.TOKENS])
    for step in (1, 2):
        tuned(input_ids=ids, labels=ids).loss.backward()
        log.record(step)
        optimizer.step()
        optimizer.zero_grad()
    log.close()


def save_adapter(model, config, folder):
    tuned = get_peft_model(model, LoraConfig(**json.loads(config.read_text())))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.06)
    tuned.save_pretrained(str(folder))


def spoil(folder, out):
    """The same adapter with the updates of one module doubled, that of the smallest rank."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "adapter_model.safetensors")
    name = min((name for name in tensors if "lora_B" in name), key=lambda name: tensors[name].shape[1])
    tensors[name] = tensors[name] * 2
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})


class Maker:
    def __init__(self, scratch, trainer, llama_cpp, programs):
        self.scratch, self.trainer, self.llama_cpp, self.programs = scratch, trainer, llama_cpp, programs
        self.loads, self.refusals = [], []
        self.facts = {}

    def add(self, program, case, *arguments, **keywords):
        if program in self.programs and (not case.startswith(LLAVA) or program in WITHOUT_PROCESSOR):
            self.loads.append(Load(program, case, *arguments, **keywords))

    def run_trainer(self, *arguments, codes=(0,)):
        run = subprocess.run([self.trainer, *map(str, arguments)], capture_output=True, text=True)
        if run.returncode not in codes:
            sys.exit(f"trainer {' '.join(map(str, arguments))}: exit code {run.returncode}\n{run.stderr}")
        return run

    def export(self, adapter, base, form, out):
        self.run_trainer("export", "--adapter", adapter, "--base", base / "config.json", "--format", form, "--out", out)
        return str(out)

    def convert(self, script, *arguments):
        """Runs one of llama.cpp's converters, in this process: to import PyTorch takes longer than they do."""
        path, own = sys.path[:], sys.argv
        sys.path.insert(0, str(self.llama_cpp))
        sys.argv = [script, *map(str, arguments)]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                runpy.run_path(str(self.llama_cpp / script), run_name="__main__")
        except SystemExit as end:
            if end.code:
                sys.exit(f"{' '.join(sys.argv)}: {end.code}\n{said.getvalue()}")
        finally:
            sys.path, sys.argv = path, own

    def to_gguf(self, folder):
        out = folder.with_suffix(".gguf")
        self.convert("convert_hf_to_gguf.py", folder, "--outtype", "f32", "--outfile", out)
        return str(out)

    def lora_to_gguf(self, folder, base):
        out = folder.with_name(f"{folder.name}-converted.gguf")
        self.convert("convert_lora_to_gguf.py", folder, "--base", base, "--outfile", out)
        return str(out)

    def model(self, name):
        folder = self.scratch / "models" / name.replace(" ", "-")
        if not folder.exists():
            random_model(name, seed=len(self.facts)).save_pretrained(str(folder))
            as_published(folder / "config.json")
            write_tokenizer(folder)
            if "llama.cpp" in self.programs:
                self.to_gguf(folder)
        return folder, str(folder.with_suffix(".gguf"))

    def case(self, name, targets, plan):
        case = f"{name}, {'' if targets == SEVEN else 'q and v, '}{plan[1]}"
        print(case, file=sys.stderr, flush=True)
        base, base_gguf = self.model(name)
        folder = self.scratch / "cases" / str(len(self.facts))
        folder.mkdir(parents=True)
        adapter, spoiled = folder / "adapter", folder / "spoiled"
        write_gradients(load_peft.open_model(base), targets, folder / "grads.jsonl")
        self.run_trainer("plan", "--gradients", folder / "grads.jsonl", "--model", base / "config.json",
                         "--base-rank", BASE_RANK, *plan, "--peft", folder / "lora.json", "--out", folder / "schedule.json")
        save_adapter(load_peft.open_model(base), folder / "lora.json", adapter)
        spoil(adapter, spoiled)

        run = self.run_trainer("verify", adapter, "--model", base / "config.json", "--base-rank", BASE_RANK, "--json")
        verified = json.loads(run.stdout)
        largest = verified["vllm_max_lora_rank"]
        is_right = {consumer["name"]: consumer["right"] for consumer in verified["consumers"]}
        ranks = sorted({t.shape[0] for n, t in load_file(adapter / "adapter_model.safetensors").items() if "lora_A" in n})
        assert len(ranks) > 2, f"{case}: ranks {ranks} are hardly mixed"
        self.facts[case] = {"ranks": ranks}

        mlx = [] if name == LLAVA else ["mlx"]
        exports = {form: self.export(adapter, base, form, folder / form) for form in ["peft", "uniform", "gguf", *mlx]}
        others = {form: self.export(spoiled, base, form, folder / f"other-{form}") for form in ["peft", "gguf", *mlx]}
        # Merging reads weights, and so the model has to be one that is run here.
        merging = self.run_trainer("export", "--adapter", adapter, "--base", base, "--format", "merged",
                                   "--out", folder / "merged", "--device", "cpu", "--quiet", codes=(0, 2, 3))
        merged = folder / "merged" if merging.returncode == 0 else None
        self.facts[case]["not_merged"] = None if merged else merging.stderr.strip().splitlines()[-1]
        if merged:
            write_tokenizer(merged)

        folders = [("peft", {}), ("vllm", {"max_lora_rank": largest})]
        for program, settings in folders:
            self.add(program, case, "base", str(base), expected="base", **settings)
            self.add(program, case, "as PEFT saved it", str(base), str(adapter), **settings)
            for form in ("peft", "uniform"):
                self.add(program, case, form, str(base), exports[form], **settings)
            self.add(program, case, "another adapter", str(base), others["peft"], expected="other", **settings)
        # It is a checkpoint like any other: three programs load it.
        if merged:
            self.add("peft", case, "merged", str(merged))
        smaller = {16: 8, 32: 16}[largest]
        self.refusals.append((case, f"--max-lora-rank {smaller}", str(base), str(adapter), "refused", smaller))

        if "llama.cpp" in self.programs:
            converted = {form: self.lora_to_gguf(path, base)
                         for form, path in (("as PEFT saved it", adapter), ("uniform", pathlib.Path(exports["uniform"])))}
            self.add("llama.cpp", case, "base", base_gguf, expected="base")
            self.add("llama.cpp", case, "gguf", base_gguf, exports["gguf"])
            self.add("llama.cpp", case, "uniform, converted", base_gguf, converted["uniform"])
            self.add("llama.cpp", case, "as PEFT saved it, converted", base_gguf, converted["as PEFT saved it"],
                     expected="adapter" if is_right["llama.cpp"] else "other")
            self.add("llama.cpp", case, "another adapter", base_gguf, others["gguf"], expected="other")
            if merged:
                self.add("llama.cpp", case, "merged", self.to_gguf(merged))

        self.add("mlx", case, "base", str(base), expected="base")
        self.add("mlx", case, "mlx", str(base), exports.get("mlx"))
        self.add("mlx", case, "another adapter", str(base), others.get("mlx"), expected="other")
        if merged:
            self.add("mlx", case, "merged", str(merged))

        # What everything is compared with, from the very folder that PEFT saved.
        reference = {
            "base": load_peft.load_and_run(Load("peft", case, "base", str(base))),
            "adapter": load_peft.load_and_run(Load("peft", case, "reference", str(base), str(adapter))),
        }
        (folder / "reference.json").write_text(json.dumps(reference))
        self.facts[case]["reference"] = str(folder / "reference.json")


def main():
    # The converters tell every tensor otherwise.
    logging.basicConfig(level=logging.ERROR)
    scratch, trainer, llama_cpp, *programs = sys.argv[1:]
    maker = Maker(pathlib.Path(scratch), trainer, pathlib.Path(llama_cpp), programs)
    for name, targets, plan in CASES:
        maker.case(name, targets, plan)
    # Last, and one of them, because vLLM starts again for it.
    maker.add("vllm", *maker.refusals[0])
    loads.write(maker.scratch, maker.loads)
    (maker.scratch / "cases.json").write_text(json.dumps(maker.facts))


main()
