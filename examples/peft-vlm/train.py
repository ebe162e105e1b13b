#!/usr/bin/env python3
"""Fine-tunes a LLaVA model of transformers with PEFT on easy-VQA and scores it: one trial of a search.

    python train.py --base BASE --data EASY_VQA --lora lora.json --seed 0 --out result.json [--gradients grads.jsonl]

BASE is a checkpoint folder or a name on the Hugging Face Hub: `make_base.py` makes a small one, and
llava-hf/llava-1.5-7b-hf works the same way on a GPU (with --steps 600 --batch-size 8 --learning-rate 2e-4).
Scores are the shares of right answers by kind of question, on pictures that were kept back for validation (or, with
--part test, on the published test pictures).
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, get_cosine_schedule_with_warmup

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from hydra_grad_logger import GradientLog

# The last pictures of the training part choose schedules; nothing is trained on them.
VALIDATION_PICTURES = 400
COLOURS = {"red", "green", "blue", "black", "gray", "teal", "brown", "yellow"}
SHAPES = {"circle", "rectangle", "triangle"}


def kind(answer):
    return "colour" if answer in COLOURS else "shape" if answer in SHAPES else "yes-no"


def read(data, part):
    """(picture, question, answer) of a part: train, validation or test."""
    folder = Path(data) / ("test" if part == "test" else "train")
    rows = json.loads((folder / "questions.json").read_text())
    if part != "test":
        first = max(picture for _, _, picture in rows) + 1 - VALIDATION_PICTURES
        rows = [row for row in rows if (row[2] >= first) == (part == "validation")]
    return [(folder / "images" / f"{picture}.png", question, answer) for question, answer, picture in rows]


def prompt(question):
    return f"USER: <image>\n{question} ASSISTANT:"


def batch_of(processor, rows, answers, device):
    """The rows as tensors; with answers they are what is to be learned."""
    pictures = [Image.open(path).convert("RGB") for path, _, _ in rows]
    texts = [prompt(question) + (f" {answer}{processor.tokenizer.eos_token}" if answers else "") for _, question, answer in rows]
    # Padding before the question, so that every answer ends at the same place.
    batch = processor(images=pictures, text=texts, return_tensors="pt", padding=True, padding_side="left").to(device)
    if answers:
        labels = torch.full_like(batch["input_ids"], -100)
        for at, (_, _, answer) in enumerate(rows):
            length = len(processor.tokenizer(f" {answer}{processor.tokenizer.eos_token}", add_special_tokens=False)["input_ids"])
            labels[at, -length:] = batch["input_ids"][at, -length:]
        batch["labels"] = labels
    return batch


def train(model, processor, rows, args, log=None):
    """Plain PyTorch, so that nothing is hidden."""
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
    rate = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    order = random.Random(args.seed)
    model.train()
    for step in range(args.steps):
        batch = batch_of(processor, order.sample(rows, args.batch_size), True, device)
        loss = model(**batch).loss
        loss.backward()
        if log is not None:
            log.record(step, loss=loss.item())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def score(model, processor, rows, batch_size=100):
    """The share of right answers, by kind of question."""
    model.eval()
    device = next(model.parameters()).device
    right, asked = {}, {}
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        batch = batch_of(processor, part, False, device)
        said = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :]
        for text, (_, _, answer) in zip(processor.batch_decode(said, skip_special_tokens=True), part):
            asked[kind(answer)] = asked.get(kind(answer), 0) + 1
            right[kind(answer)] = right.get(kind(answer), 0) + (text.strip().lower().rstrip(".") == answer)
    return {name: 100 * right[name] / asked[name] for name in sorted(asked)}


def write(path, document):
    """Whole or not at all."""
    part = f"{path}.part"
    Path(part).write_text(json.dumps(document))
    os.replace(part, path)


def run(base, data, lora, seed, steps=150, batch_size=16, learning_rate=3e-3, part="validation", rows=800, gradients=None):
    """Fine-tunes a base with a `LoraConfig` and scores it."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(base)
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype).to(device)
    model = get_peft_model(model, lora)
    model.print_trainable_parameters()
    log = GradientLog(gradients, model) if gradients else None
    settings = argparse.Namespace(seed=seed, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    train(model, processor, read(data, "train"), settings, log)
    if log is not None:
        log.close()
    return score(model, processor, read(data, part)[:rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True, help="easy-VQA's folder: scripts/easy-vqa fetches it and prints where")
    parser.add_argument("--lora", required=True, help="PEFT's configuration as JSON")
    parser.add_argument("--out", required=True)
    parser.add_argument("--gradients")
    parser.add_argument("--part", choices=["validation", "test"], default="validation")
    parser.add_argument("--rows", type=int, default=800, help="questions that are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    args = vars(parser.parse_args())
    out, lora = args.pop("out"), json.loads(Path(args.pop("lora")).read_text())
    scores = run(lora=LoraConfig(**lora), **args)
    print(scores)
    write(out, {"scores": scores})


if __name__ == "__main__":
    main()
