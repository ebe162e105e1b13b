"""Makes the cases of MobileVLM that `trainer parity` is tested with, or checks them.

    make_mobilevlm.py make     writes mobilevlm_v1 and mobilevlm_v2 beside this script
    make_mobilevlm.py check FOLDER...
                               computes the outputs of cases again and says how far they are from what is written there

What computes is the authors' own code, which is no package: clone Meituan-AutoML/MobileVLM from GitHub (commit
688fdec914810485c8766da96c63d9d2ce15f750) and put the clone on PYTHONPATH. README.md beside this script names the packages.
"""

import json
import math
import pathlib
import sys
import tempfile

import torch
from mobilevlm.model.mobilellama import MobileLlamaForCausalLM, MobileVLMConfig
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

HERE = pathlib.Path(__file__).resolve().parent

# As small as the parts allow: LDPNetV2 pools to 12 x 12 tokens whatever it gets, so its grid has 24 patches a side; LDPNet
# halves any grid. A width of 40 makes LDPNet's squeeze 16 and not a quarter.
CASES = {
    "mobilevlm_v1": dict(
        seed=1, ranks=[3, 8, 2, 4], weight_decay=0.0,
        decoder=dict(vocab_size=64, hidden_size=40, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=4, mm_projector_type="ldpnet"),
        vision=dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, patch_size=3,
                    image_size=36)),
    "mobilevlm_v2": dict(
        seed=2, ranks=[6, 1, 8, 4], weight_decay=0.1,
        decoder=dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, mm_projector_type="ldpnetv2"),
        vision=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=2,
                    image_size=48)),
}
PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
IMAGE, IGNORED, PADDING = -200, -100, 0
STEPS = 5
# Kept apart from the weights of a checkpoint: computed when the model is made.
BUFFERS = ("inv_freq", "position_ids")


def build(config, vision):
    """MobileVLM with random weights; its tower is looked for in a folder, so one is made."""
    name = config.mm_vision_tower
    with tempfile.TemporaryDirectory() as folder:
        CLIPVisionModel(vision).save_pretrained(folder)
        config.mm_vision_tower = folder
        model = MobileLlamaForCausalLM(config)
    config.mm_vision_tower = name
    return model.eval()


def randomize(model):
    """Weights that leave no part without effect: norms that are not 1, biases that are not 0."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() >= 2:
            fan_in = parameter[0].numel()
            parameter.data = noise * (0.2 if "embed" in name else 1.4 / math.sqrt(fan_in))
        elif name.endswith("bias") or "class_embedding" in name:
            parameter.data = noise * 0.1
        else:
            parameter.data = 1 + noise * 0.2


def write_inputs(folder, vocabulary, side):
    """Two rows of one image each, at different places; the second row is padded on the right."""
    rows, length, shorter = 2, 14, 11
    ids = torch.randint(3, vocabulary, (rows, length))
    ids[:, 0] = 1
    ids[0, 4], ids[1, 2] = IMAGE, IMAGE
    ids[1, shorter:] = PADDING
    mask = torch.ones_like(ids)
    mask[1, shorter:] = 0
    labels = ids.clone()
    labels[:, :7] = IGNORED
    labels[mask == 0] = IGNORED
    inputs = {"images": torch.randn(rows, 3, side, side), "input_ids": ids, "attention_mask": mask, "labels": labels}
    save_file(inputs, folder / "case.safetensors")


def write_adapter(folder, model, layers, ranks):
    """An adapter whose ranks differ from module to module, and whose B is not zero."""
    names = [f"model.layers.{layer}.{projection}" for layer in range(layers) for projection in PROJECTIONS]
    pattern = {name: ranks[(3 * number + number // 7) % len(ranks)] for number, name in enumerate(names)}
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM", base_model_name_or_path="reference",
                        target_modules=r"^model\.layers\.\d+\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$",
                        rank_pattern=pattern, alpha_pattern={name: 2 * rank for name, rank in pattern.items()})
    tuned = get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.05
    tuned.peft_config["default"].base_model_name_or_path = "reference"
    tuned.save_pretrained(str(folder / "adapter"), safe_serialization=True)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)


def make(folder, case):
    torch.manual_seed(case["seed"])
    folder.mkdir(exist_ok=True)
    vision = CLIPVisionConfig(projection_dim=case["vision"]["hidden_size"], **case["vision"])
    config = MobileVLMConfig(
        mm_vision_tower="openai/clip-vit-large-patch14-336", vision_tower_type="clip",
        mm_hidden_size=vision.hidden_size, mm_vision_select_layer=-2, mm_vision_select_feature="patch",
        image_aspect_ratio="pad", mm_use_im_start_end=False, mm_use_im_patch_token=False, use_mm_proj=True,
        pad_token_id=PADDING, bos_token_id=1, eos_token_id=2, **case["decoder"])
    model = build(config, vision)
    randomize(model)
    config.to_json_file(folder / "config.json", use_diff=False)
    vision.to_json_file(folder / "vision_config.json", use_diff=False)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if not name.endswith(BUFFERS)}
    save_file(weights, folder / "model.safetensors")
    write_inputs(folder, config.vocab_size, vision.image_size)
    write_adapter(folder, model, config.num_hidden_layers, case["ranks"])
    optimizer = {"optimizer": "AdamW", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8,
                 "weight_decay": case["weight_decay"], "trained": "lora factors only"}
    tensors, norms, losses = compute(folder, optimizer)
    save_file(tensors, folder / "case.safetensors")
    (folder / "lora_grad_norms.json").write_text(json.dumps(norms, indent=1) + "\n")
    (folder / "trajectory.json").write_text(json.dumps({**optimizer, "losses": losses}, indent=1) + "\n")


def compute(folder, optimizer):
    """The tensors, gradient norms and losses of a case from its model, adapter and inputs."""
    read = lambda name: json.loads((folder / name).read_text())
    model = build(MobileVLMConfig(**read("config.json")), CLIPVisionConfig(**read("vision_config.json")))
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not unexpected and all(name.endswith(BUFFERS) for name in missing), (missing, unexpected)
    case = load_file(folder / "case.safetensors")
    inputs = {name: case[name] for name in ("images", "input_ids", "attention_mask", "labels")}

    tensors = dict(inputs)
    with torch.no_grad():
        tensors["vision_features"] = model.get_vision_tower()(inputs["images"])
        tensors["projected"] = model.encode_images(inputs["images"])
        result = model(**inputs)
    tensors.update(logits=result.logits, loss=result.loss.reshape(1))

    tuned = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True).eval()
    factors = {name: parameter for name, parameter in tuned.named_parameters() if "lora_" in name}
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name in factors)
    result = tuned(**inputs)
    result.loss.backward()
    tensors.update(lora_logits=result.logits, lora_loss=result.loss.reshape(1))
    norms = {name: parameter.grad.norm().item() for name, parameter in factors.items()}

    settings = {key: optimizer[key] for key in ("lr", "betas", "eps", "weight_decay")}
    adamw = torch.optim.AdamW(factors.values(), **settings)
    losses = []
    for _ in range(STEPS):
        adamw.zero_grad()
        loss = tuned(**inputs).loss
        losses.append(loss.item())
        loss.backward()
        adamw.step()
    return {name: value.detach().contiguous() for name, value in tensors.items()}, norms, losses


def check(folder):
    """Largest difference of every quantity, divided by its largest magnitude."""
    written = json.loads((folder / "trajectory.json").read_text())
    tensors, norms, losses = compute(folder, written)
    expected = load_file(folder / "case.safetensors")
    apart = lambda a, b: ((a - b).abs().max() / b.abs().max()).item()
    found = {name: apart(tensors[name], value) for name, value in expected.items() if value.is_floating_point()}
    old = json.loads((folder / "lora_grad_norms.json").read_text())
    assert norms.keys() == old.keys()
    found["lora_grad_norms"] = max(abs(norms[name] - value) / value for name, value in old.items())
    found["trajectory"] = max(abs(new - value) / value for new, value in zip(losses, written["losses"]))
    for name, difference in found.items():
        print(f"{folder.name}: {name} {difference:.1e}")
    assert max(found.values()) < 1e-5, "this is not what the reference computes"


def main():
    match sys.argv[1:]:
        case ["make"]:
            for name, case in CASES.items():
                make(HERE / name, case)
        case ["check", *folders] if folders:
            for folder in folders:
                check(pathlib.Path(folder))
        case _:
            sys.exit(__doc__)


main()
