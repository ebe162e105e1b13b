"""Loads exports in PEFT, or merged ones in transformers:   load_peft.py SCRATCH"""

import sys

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import loads

transformers.logging.set_verbosity_error()
# Threads that wait for each other take longer than these models do.
torch.set_num_threads(1)


def class_for(config):
    return AutoModelForCausalLM if config.get_text_config() is config else AutoModelForImageTextToText


def open_model(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    # Eager attention is the one that caps Gemma's scores.
    return class_for(config).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def log_probabilities(model):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([loads.TOKENS])).logits[0, :-1]
    return torch.log_softmax(logits.double(), -1).tolist()


def load_and_run(load):
    model = open_model(load.base)
    return log_probabilities(peft.PeftModel.from_pretrained(model, load.adapter).eval() if load.adapter else model)


if __name__ == "__main__":
    versions = f"PEFT {peft.__version__}, transformers {transformers.__version__}, PyTorch {torch.__version__}"
    loads.run(sys.argv[1], "peft", versions, load_and_run)
