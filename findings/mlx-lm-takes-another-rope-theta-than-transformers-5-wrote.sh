#!/usr/bin/env bash
# mlx-lm runs a LLaMA checkpoint that transformers 5 saved with another base of its rotary embeddings than it was saved with, and
# says nothing.
#
# transformers 5 writes the base into `rope_parameters` ({"rope_type": "default", "rope_theta": 50000.0}) and no longer beside it,
# as transformers 4 did and as most configurations on the hub have it. mlx-lm 0.32.2 looks for `rope_theta` at the top of
# config.json alone, and takes 10000 where there is none; so it does for Mistral and SmolLM3, and 1000000 for Qwen2. (Granite ends
# with an error that names the key, and Qwen3 is read from both places.) Whoever serves an adapter on such a checkpoint has it on
# another base. Adding "rope_theta" to config.json makes it right.
#
# Seen on 2026-11-28 with mlx-lm 0.32.2, mlx 0.32.4 (CPU), transformers 5.24.0; largest difference of logits:
#   as transformers 5 saved it, and with rope_theta 50000 beside it: 0.089
#   as transformers 5 saved it, and with rope_theta 10000 beside it: 0.0
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile \
  "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0 sentencepiece==0.2.3
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$scratch/python/bin/python" - "$scratch" <<'PYTHON'
import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import load_model
from transformers import LlamaConfig

folder = pathlib.Path(sys.argv[1])
config = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=64,
    max_position_embeddings=128, tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "rope_theta": 50000.0})
config.save_pretrained(folder)
saved = json.loads((folder / "config.json").read_text())
print("rope_parameters:", saved["rope_parameters"], "rope_theta:", saved.get("rope_theta"))

mx.random.seed(1)
random = llama.Model(llama.ModelArgs.from_dict(saved))
weights = {name: mx.random.normal(value.shape) * 0.3 for name, value in tree_flatten(random.parameters())}
mx.save_safetensors(str(folder / "model.safetensors"), weights)


def logits(theta):
    (folder / "config.json").write_text(json.dumps(saved if theta is None else {**saved, "rope_theta": theta}))
    model, _ = load_model(folder)
    return model(mx.array([[5, 9, 14, 20, 27, 35, 44, 54]]))


as_saved = logits(None)
found = {theta: mx.abs(as_saved - logits(theta)).max().item() for theta in (50000.0, 10000.0)}
for theta, difference in found.items():
    print(f"as transformers 5 saved it, and with rope_theta {theta:.0f} beside it: {difference}")
if not (found[50000.0] > 0.01 and found[10000.0] == 0.0):
    sys.exit("this changed: the first was expected to differ, and the second to be the same")
PYTHON
