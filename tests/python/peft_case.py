"""Makes cases for `trainer parity` with transformers and PEFT.

    peft_case.py load BASE ADAPTER OUT ...   what PEFT computes with an adapter that HyDRA wrote
    peft_case.py write OUT SEED ...          a random model with grouped-query attention, and an adapter that PEFT wrote;
                                             with an even seed the model is a pickled `pytorch_model.bin`

Several cases may follow each other: to import PEFT takes longer than a case. BASE is a folder of HyDRA's tiny base: its decoder alone is used, as a LlamaForCausalLM of transformers.
"""

import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

# The decoder of the preset tiny-mobilevlm.
TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
            vocab_size=512, rms_norm_eps=1e-6, max_position_embeddings=256)


def write_case(out, model, name, extra=()):
    """Inputs, and the logits and loss of `model` under `name`; `extra` tensors are added."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, model.config.vocab_size, (3, 17), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    labels = ids.clone()
    labels[:, :5] = -100
    labels[mask == 0] = -100
    result = model(input_ids=ids, attention_mask=mask, labels=labels)
    tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels,
               f"{name}logits": result.logits, f"{name}loss": result.loss.reshape(1), **dict(extra)}
    out.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, out / "case.safetensors")
    return result.loss


def write_model(out, model, pickled=False):
    """`config.json` and weights, as safetensors or as PyTorch pickles them, its buffers then included."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.to_json_file(out / "config.json", use_diff=False)
    state = model.state_dict()
    if pickled:
        torch.save(state, out / "pytorch_model.bin")
    else:
        save_file({key: value.contiguous() for key, value in state.items() if "inv_freq" not in key},
                  out / "model.safetensors")


def norms_of(model, loss, out):
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()
             if parameter.requires_grad}
    (out / "lora_grad_norms.json").write_text(json.dumps(norms))


def tiny_decoder(base):
    weights = load_file(base / "model.safetensors")
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    text = {name: value.float() for name, value in weights.items()
            if "vision_tower" not in name and "mm_projector" not in name}
    missing, unexpected = model.load_state_dict(text, strict=False)
    assert not unexpected and all("inv_freq" in name for name in missing), (missing, unexpected)
    return model.eval()


def load(base, adapter, out):
    """The case in `out`: base and adapter, or, without an adapter, whatever lies in `base`."""
    model = tiny_decoder(base)
    write_model(out, model)
    if adapter is None:
        write_case(out, model, "")
        return
    shutil.copytree(adapter, out / "adapter")
    tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
    for parameter_name, parameter in tuned.named_parameters():
        parameter.requires_grad_("lora_" in parameter_name)
    norms_of(tuned, write_case(out, tuned, "lora_"), out)


def write(out, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
                         num_key_value_heads=2, vocab_size=101, rms_norm_eps=1e-5, rope_theta=5e4)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    write_model(out, model, pickled=seed % 2 == 0)
    plain = model(input_ids=torch.tensor([[1]])).logits
    assert plain.isfinite().all()
    ranks = {"layers.0.self_attn.q_proj": 3, "model.layers.2.mlp.down_proj": 7}
    lora = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern=ranks,
                      alpha_pattern={"model.layers.2.mlp.down_proj": 5}, lora_dropout=0.0, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(str(out / "adapter"), safe_serialization=True)
    norms_of(tuned, write_case(out, tuned, "lora_"), out)


def main():
    match sys.argv[1:]:
        case ["load", *cases] if cases and len(cases) % 3 == 0:
            for base, adapter, out in zip(cases[::3], cases[1::3], cases[2::3]):
                load(pathlib.Path(base), None if adapter == "-" else pathlib.Path(adapter), pathlib.Path(out))
        case ["write", *cases] if cases and len(cases) % 2 == 0:
            for out, seed in zip(cases[::2], cases[1::2]):
                write(pathlib.Path(out), int(seed))
        case _:
            sys.exit(__doc__)


main()
