"""The LoRA training step in PyTorch, transformers and peft, on random weights. Prints one JSON document.

The model is a LLaMA decoder of the given shapes; with --pictures, MobileVLM V2's projector (LDPNetV2) turns given vision
features into 144 tokens a picture and is trained, as in stage II.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=576)
parser.add_argument("--intermediate", type=int, default=1536)
parser.add_argument("--layers", type=int, default=30)
parser.add_argument("--heads", type=int, default=9)
parser.add_argument("--kv-heads", type=int, default=3)
parser.add_argument("--vocab", type=int, default=49152)
parser.add_argument("--rope-theta", type=float, default=100000.0)
parser.add_argument("--untied", action="store_true")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--mixed", action="store_true", help="half, once and twice the rank on 1/2, 1/4, 1/4 of the layers")
parser.add_argument("--rows", type=int, default=4)
parser.add_argument("--micro-batches", type=int, default=1)
parser.add_argument("--text", type=int, default=128)
parser.add_argument("--answers", type=int, default=128)
parser.add_argument("--pictures", type=int, default=0)
parser.add_argument("--vision-width", type=int, default=1024)
parser.add_argument("--patches", type=int, default=576)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--attention", default="sdpa")
parser.add_argument("--gradient-checkpointing", action="store_true")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--answer-logits", action="store_true",
                    help="compute logits at answer positions alone, which transformers does not do by itself")
options = parser.parse_args()

torch.manual_seed(1)
device = torch.device(options.device)
dtype = getattr(torch, options.dtype)


class LdpNetV2(nn.Module):
    """MobileVLM V2's projector: two linear layers, 2×2 mean pooling, a depth-wise convolution with a residual."""

    def __init__(self, width, hidden):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.peg = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, features):
        x = self.mlp(features)
        pictures, patches, hidden = x.shape
        side = int(patches**0.5)
        x = x.transpose(1, 2).reshape(pictures, hidden, side, side)
        x = nn.functional.adaptive_avg_pool2d(x, side // 2)
        x = self.peg(x) + x
        return x.flatten(2).transpose(1, 2)


config = LlamaConfig(
    hidden_size=options.hidden,
    intermediate_size=options.intermediate,
    num_hidden_layers=options.layers,
    num_attention_heads=options.heads,
    num_key_value_heads=options.kv_heads,
    vocab_size=options.vocab,
    tie_word_embeddings=not options.untied,
    rope_theta=options.rope_theta,
    attn_implementation=options.attention,
)
with torch.device(device):
    model = LlamaForCausalLM(config).to(dtype)
ranks = {}
for layer in range(options.layers):
    rank = options.rank
    if options.mixed:
        half, quarter = options.layers // 2, options.layers // 4
        rank = options.rank // 2 if layer < half else options.rank if layer < half + quarter else 2 * options.rank
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                 "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        ranks[f"model.layers.{layer}.{part}"] = rank
lora = LoraConfig(
    r=options.rank,
    lora_alpha=2 * options.rank,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    rank_pattern=ranks if options.mixed else {},
    alpha_pattern={name: 2 * rank for name, rank in ranks.items()} if options.mixed else {},
)
model = get_peft_model(model, lora)
if options.gradient_checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
projector = LdpNetV2(options.vision_width, options.hidden).to(device) if options.pictures else None
if options.compile:
    model = torch.compile(model)
trained = [p for p in model.parameters() if p.requires_grad] + (list(projector.parameters()) if projector else [])
optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
embed = model.get_input_embeddings()

tokens = torch.randint(0, options.vocab, (options.rows, options.text), device=device)
features = None
if projector:
    features = torch.randn(options.rows * options.pictures, options.patches, options.vision_width, device=device)
micro = options.rows // options.micro_batches
picture_tokens = options.pictures * options.patches // 4


def loss_of(rows):
    ids = tokens[rows]
    given = options.text - options.answers
    labels = ids.clone()
    labels[:, :given] = -100
    if projector is None and not options.answer_logits:
        # The first token of a row has none before it that could predict it.
        return model(input_ids=ids, labels=labels, use_cache=False).loss
    embedded = embed(ids)
    if projector is not None:
        count = ids.shape[0] * options.pictures
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            image = projector(features[:count]).reshape(ids.shape[0], picture_tokens, options.hidden).to(embedded.dtype)
        before = given // 2
        embedded = torch.cat([embedded[:, :before], image, embedded[:, before:]], 1)
        padding = torch.full((ids.shape[0], picture_tokens), -100, device=device)
        labels = torch.cat([labels[:, :before], padding, labels[:, before:]], 1)
    if not options.answer_logits:
        return model(inputs_embeds=embedded, labels=labels, use_cache=False).loss
    logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=options.answers + 1).logits
    logits = logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.reshape(-1, options.vocab), ids[:, given:].reshape(-1))


def step():
    total = 0.0
    for part in range(options.micro_batches):
        loss = loss_of(slice(part * micro, (part + 1) * micro)) / options.micro_batches
        loss.backward()
        total = total + loss.detach()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


losses, seconds = [], []
if device.type == "cuda":
    torch.cuda.reset_peak_memory_stats()
for number in range(options.warmup + options.steps):
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    losses.append(step())
    if device.type == "cuda":
        torch.cuda.synchronize()
    if number == options.warmup - 1:
        processor = time.process_time()
    if number >= options.warmup:
        seconds.append(time.perf_counter() - started)

processor = (time.process_time() - processor) / options.steps if options.warmup else None
median = statistics.median(seconds)
length = options.text + picture_tokens
memory = {"process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
if device.type == "cuda":
    memory["device_peak"] = torch.cuda.max_memory_allocated()
    memory["device_reserved"] = torch.cuda.max_memory_reserved()
print(json.dumps({
    "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU (PyTorch)",
    "threads": torch.get_num_threads(),
    "dtype": options.dtype,
    "gradient_checkpointing": options.gradient_checkpointing,
    "answer_logits": options.answer_logits,
    "trainable_parameters": sum(p.numel() for p in trained),
    "length": length,
    "seconds_per_step": median,
    "all_seconds": seconds,
    "cpu_seconds_per_step": processor,
    "tokens_per_second": options.rows * length / median,
    "memory": memory,
    "first_loss": losses[0],
    "last_loss": losses[-1],
}))
