"""Loads exports in llama.cpp:   load_llama_cpp.py SCRATCH"""

import json
import math
import sys
import urllib.request
from importlib.metadata import version

import xllamacpp

import loads


def load_and_run(load):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = load.base
    parameters.n_ctx = 256
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.fit_params = False
    parameters.cache_ram_mib = 0
    # Threads that wait for each other take longer than these models do.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # Keys and values are kept in half precision otherwise.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if load.adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(load.adapter, 1.0)]
    server = xllamacpp.Server(parameters)
    rows = [next_token(server, loads.TOKENS[:length]) for length in range(1, len(loads.TOKENS))]
    del server
    return rows


def next_token(server, prefix):
    # The next token is a letter by force, which the reported probabilities do not show: after one whose text is not whole,
    # such as a byte of UTF-8, they would be missing.
    request = {"prompt": prefix, "n_predict": 1, "n_probs": loads.VOCABULARY, "cache_prompt": False,
               "logit_bias": [[loads.VOCABULARY - 1, 1000.0]]}
    url = f"{server.listening_address}/completion"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), headers)) as answer:
        answer = json.load(answer)
    row = [math.nan] * loads.VOCABULARY
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        row[entry["id"]] = entry["logprob"]
    return row


loads.run(sys.argv[1], "llama.cpp", f"xllamacpp {version('xllamacpp')}", load_and_run)
