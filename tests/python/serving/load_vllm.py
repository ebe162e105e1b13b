"""Loads exports in vLLM:   load_vllm.py SCRATCH"""

import os
import sys

# What goes wrong in a process of its own arrives here without its message.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# Threads that wait for each other take longer than these models do.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import vllm
from vllm.lora.request import LoRARequest

import loads

# One engine serves a base and its adapters; the next one takes its place.
engine = None
engine_key = None
adapters = 0


def engine_for(load):
    global engine, engine_key
    key = (load.base, load.max_lora_rank)
    if key != engine_key:
        engine = engine_key = None
        lora = {"enable_lora": True, "max_lora_rank": load.max_lora_rank} if load.max_lora_rank else {}
        engine = vllm.LLM(
            model=load.base, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, block_size=32, max_model_len=256,
            max_num_seqs=2, max_num_batched_tokens=256, max_logprobs=loads.VOCABULARY, enable_prefix_caching=False, **lora,
        )
        engine_key = key
    return engine


def load_and_run(load):
    global adapters
    llm = engine_for(load)
    adapters += 1
    request = LoRARequest(f"adapter-{adapters}", adapters, load.adapter) if load.adapter else None
    settings = vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=loads.VOCABULARY, detokenize=False)
    prompt = vllm.TokensPrompt(prompt_token_ids=loads.TOKENS)
    [answer] = llm.generate([prompt], settings, lora_request=request, use_tqdm=False)
    # The first token has no prefix.
    return [[row[token].logprob for token in range(loads.VOCABULARY)] for row in answer.prompt_logprobs[1:]]


if __name__ == "__main__":
    loads.run(sys.argv[1], "vllm", f"vLLM {vllm.__version__}, PyTorch {torch.__version__}", load_and_run)
