#!/usr/bin/env python3
"""Writes shared/src/vlm/spec/fixtures/families.json: what PEFT adapts in models of many families.

    python tests/python/families.py shared/src/vlm/spec/fixtures/families.json

`configs`: a config.json that leaves out what transformers has defaults for, and every linear module that PEFT adapts in the
language model's layers; of a mixture of experts every linear module there but what chooses among experts, whether or not PEFT
takes its name for the experts', and the parameters of the whole decoder. `towers`: a config.json that names its vision tower's
kind, and every linear module that PEFT adapts in that tower's layers, all of which have them. `checkpoints`: names and shapes of the tensors that save_pretrained writes, and every linear module
that PEFT adapts anywhere. In names `{}` stands for a layer; `[d_in, d_out]` of a module that all of the layers have, otherwise
`[d_in, d_out, [layers]]`. Needs torch, transformers and PEFT; models are made without weights, or tiny.
"""

import json
import re
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import CONFIG_MAPPING

transformers.logging.set_verbosity_error()

LAYER = re.compile(r"\.(\d+)\.")
# Decoders alone, then decoders within vision-language models.
TEXT = ("llama mistral qwen2 qwen3 gemma gemma2 gemma3_text granite smollm3 olmo olmo2 olmo3 ministral3 stablelm "
        "cohere cohere2").split()
NESTED = ("llava llava_next llava_onevision vipllava qwen2_vl qwen2_5_vl qwen3_vl gemma3 idefics2 idefics3 smolvlm internvl "
          "paligemma mistral3 aya_vision").split()
# Decoders within models that hear.
HEARING = "voxtral glmasr qwen2_audio granite_speech qwen3_asr".split()
# Mixtures of experts, alone and within a vision-language model.
MIXTURES = "mixtral phimoe granitemoe olmoe flex_olmo qwen2_moe qwen3_moe glm4_moe dots1 gpt_oss".split()
NESTED_MIXTURES = ["qwen3_vl_moe", "glm4v_moe"]
MIXTURE_SIZES = ({}, {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 512, "num_experts": 3,
                      "num_local_experts": 3, "n_routed_experts": 3, "mlp_only_layers": [1], "first_k_dense_replace": 0,
                      "attention_bias": False, "pad_token_id": 0},
                 {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 512, "num_experts": 3,
                  "n_routed_experts": 3, "n_shared_experts": 2, "decoder_sparse_step": 2, "first_k_dense_replace": 1,
                  "pad_token_id": 0})
# Other sizes than the defaults, and nothing said of keys and values.
WIDTHS = {"hidden_size": 1024, "intermediate_size": 1536, "num_attention_heads": 64, "vocab_size": 512, "pad_token_id": 0}
# Where the default of another part does not make a model.
OTHER_PARTS = {"aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152,
                                                "num_attention_heads": 16}}}
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
CHECKPOINTS = {
    "llama": {}, "phi3": {}, "phi": {}, "glm": {"head_dim": 8}, "glm4": {"head_dim": 8}, "lfm2": {"layer_types":
    ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, "starcoder2": {}, "olmo2": {}, "stablelm": {}, "cohere": {},
    "mixtral": EXPERTS, "qwen3_moe": {**EXPERTS, "head_dim": 8}, "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
}
VISION = {
    "llava": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
              "patch_size": 8, "model_type": "clip_vision_model"},
    "qwen2_vl": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
}


def model_of(config):
    if config.get_text_config() is config:
        return transformers.AutoModelForCausalLM.from_config(config)
    if config.model_type in HEARING:
        return transformers.AutoModelForMultimodalLM.from_config(config)
    return transformers.AutoModelForImageTextToText.from_config(config)


def linear(model):
    """Every module that PEFT adapts, except the output head."""
    wrapped = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"), low_cpu_mem_usage=True)
    found = {}
    for name, module in wrapped.named_modules():
        if hasattr(module, "lora_A") and "default" in getattr(module, "lora_A", {}):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[name.removeprefix("base_model.model.")] = [a.shape[1], b.shape[0]]
    return found


def dense(model):
    """Every linear module but the output head."""
    return {name: [module.in_features, module.out_features] for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def compact(shapes):
    groups = {}
    for name, shape in shapes.items():
        layer = LAYER.search(name)
        key = (LAYER.sub(".{}.", name, count=1) if layer else name, tuple(shape))
        groups.setdefault(key, []).append(int(layer[1]) if layer else None)
    layers = {}
    for (name, _), numbers in groups.items():
        stack = name.split(".{}.")[0]
        layers.setdefault(stack, set()).update(numbers)
    text = {}
    for (name, shape), numbers in groups.items():
        whole = numbers == [None] or set(numbers) == layers[name.split(".{}.")[0]] and sorted(numbers) == list(range(len(numbers)))
        value = list(shape) if whole else [*shape, sorted(numbers)]
        text.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in text.items()}


def configs():
    for family in TEXT + NESTED + HEARING + MIXTURES + NESTED_MIXTURES:
        mixture = family in MIXTURES + NESTED_MIXTURES
        for sizes in MIXTURE_SIZES if mixture else ({}, WIDTHS):
            sizes = {**sizes, "num_hidden_layers": 2}
            outer = CONFIG_MAPPING[family]()
            inner = outer.get_text_config()
            if inner is outer:
                text = {"model_type": family, **sizes}
                written = text
            else:
                text = {"model_type": inner.model_type, **sizes}
                written = {"model_type": family, "text_config": text}
            config = CONFIG_MAPPING[family].from_dict(dict(written)) if inner is outer else CONFIG_MAPPING[family](
                text_config=dict(text), **OTHER_PARTS.get(family, {}))
            try:
                with torch.device("meta"):
                    model = model_of(config)
                parameters = [(name, parameter) for name, parameter in model.named_parameters()]
                modules = dense(model) if mixture else linear(model)
            except Exception as error:
                print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            other = re.compile(r"vision|visual|image|audio|^model\.encoder|projector|connector|merger|lm_head|adapter|mlp1")
            if mixture:
                other = re.compile(other.pattern + r"|\.experts\b|\.(gate|router|shared_expert_gate)$")
            layers = {name: shape for name, shape in modules.items() if LAYER.search(name) and not other.search(name)}
            entry = {"family": family, "config": written, "modules": compact(layers)}
            if mixture:
                entry["parameters"] = sum(parameter.numel() for name, parameter in parameters if "visual" not in name)
            yield entry


def towers():
    for family in NESTED + ["qwen3_vl_moe"]:
        outer = CONFIG_MAPPING[family]()
        text = {"model_type": outer.get_text_config().model_type, "num_hidden_layers": 1}
        vision = {"model_type": outer.vision_config.model_type}
        written = {"model_type": family, "text_config": text, "vision_config": vision}
        config = CONFIG_MAPPING[family](text_config=dict(text), vision_config=dict(vision))
        try:
            with torch.device("meta"):
                modules = linear(model_of(config))
        except Exception as error:
            print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        of_tower = re.compile(r"^model\.(visual\.blocks|vision_tower\..*|vision_model\..*)\.(\d+)\.")
        layers = {name: shape for name, shape in modules.items() if of_tower.search(name)}
        count = len({of_tower.search(name)[2] for name in layers})
        yield {"family": family, "config": written, "layers": count, "modules": compact(layers)}


def checkpoints():
    for family, more in [*CHECKPOINTS.items(), *((name, {}) for name in VISION)]:
        if family in VISION:
            config = CONFIG_MAPPING[family](text_config={**TINY, "model_type": "llama" if family == "llava" else "qwen2_vl_text"},
                                            vision_config=VISION[family], image_token_id=5, image_token_index=5)
        else:
            config = CONFIG_MAPPING[family](**{**TINY, **more})
        try:
            model = model_of(config)
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                with safe_open(f"{folder}/model.safetensors", "pt") as file:
                    tensors = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
            modules = linear(model)
        except Exception as error:
            print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        yield {"family": family, "tensors": compact(tensors), "modules": compact(modules)}


def main():
    document = {"versions": {"transformers": transformers.__version__, "peft": __import__("peft").__version__},
                "configs": list(configs()), "towers": list(towers()), "checkpoints": list(checkpoints())}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("{\n")
        file.write(f'"versions": {json.dumps(document["versions"])},\n')
        for last, key in ((False, "configs"), (False, "towers"), (True, "checkpoints")):
            rows = ",\n".join(json.dumps(row) for row in document[key])
            file.write(f'"{key}": [\n{rows}\n]{"" if last else ","}\n')
        file.write("}\n")


if __name__ == "__main__":
    main()
