"""A small random model, gradient logs, and the trainer to compare with."""

import json
import os
import pathlib
import subprocess

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_config(**changes):
    shapes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                  vocab_size=64, max_position_embeddings=64)
    return LlamaConfig(**{**shapes, **changes})


def tiny_model(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config(**changes))


@pytest.fixture(scope="session")
def config():
    return tiny_config()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def config_file(tmp_path, config):
    config.to_json_file(tmp_path / "config.json", use_diff=False)
    return tmp_path / "config.json"


def write_log(path, modules=None, layers=4, factor=1.0):
    """A gradient log of uniform LoRA whose norms grow with depth."""
    names = modules or [f"model.layers.{layer}.{'mlp' if kind[:2] in ('ga', 'up', 'do') else 'self_attn'}.{kind}"
                        for layer in range(layers) for kind in PROJECTIONS]
    with open(path, "w", encoding="utf-8") as file:
        header = {"hydra_grads": 1, "model": "tiny", "norm": "l2", "clip": "pre", "unit": "optimizer_step",
                  "lora": {"r": 4, "alpha": 8}}
        file.write(json.dumps(header) + "\n")
        for step in range(1, 21):
            grads = {name: {"A": 0.1 + factor * 0.01 * place, "B": 0.2 + factor * 0.03 * place * (1 + place % 3)}
                     for place, name in enumerate(names)}
            file.write(json.dumps({"step": step, "grads": grads}) + "\n")
    return path


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "grads.jsonl")


@pytest.fixture
def skip():
    """Says that a test cannot run here; where nothing may be skipped it fails."""

    def skip(reason):
        if os.environ.get("HYDRA_REQUIRE") == "all":
            pytest.fail(reason)
        if os.environ.get("HYDRA_SKIPS"):
            with open(os.environ["HYDRA_SKIPS"], "a", encoding="utf-8") as file:
                file.write(f"python: {os.environ.get('PYTEST_CURRENT_TEST', '').split(' ')[0]}: {reason}\n")
        pytest.skip(reason)

    return skip


@pytest.fixture
def trainer(skip):
    """Runs the program `trainer`; gives what it printed."""
    program = os.environ.get("HYDRA_TRAINER")
    if not program or not pathlib.Path(program).is_file():
        skip("HYDRA_TRAINER names no trainer to compare with")

    def run(*arguments):
        words = [program, *map(str, arguments)]
        return subprocess.run(words, check=True, capture_output=True, text=True, encoding="utf-8").stdout

    return run
