#!/usr/bin/env python3
"""Makes a small LLaVA model that has seen shapes but no colours: what train.py fine-tunes where no GPU is.

    python make_base.py --data EASY_VQA --out base

A vision tower of CLIP's architecture, a projector and a decoder of Llama's, about 1.4 million parameters, trained whole on
easy-VQA's questions about shapes. Its folder is a checkpoint as LlavaForConditionalGeneration and AutoProcessor read it.
"""

import argparse
import re

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from train import COLOURS, prompt, read, score, train

SPECIAL = ["<pad>", "<unk>", "</s>", "<image>"]
IMAGE, PATCH = 64, 16


def make_tokenizer(rows):
    """A token for every word: questions are made of some dozens."""
    texts = [f"{prompt(question)} {answer}" for _, question, answer in rows]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s<>]", text.replace("<image>", " "))})
    vocabulary = {word: number for number, word in enumerate(SPECIAL + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "isolated")]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast


def make(tokenizer, seed):
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=IMAGE, patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=344, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE // PATCH) ** 2, vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    size = {"height": IMAGE, "width": IMAGE}
    pictures = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    processor = LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return model, processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    rows = read(args.data, "train")
    tokenizer = make_tokenizer(rows)
    model, processor = make(tokenizer, args.seed)
    # No word of a colour is asked or answered, so that the fine-tune has something to learn.
    shapes = [row for row in rows if not COLOURS & set(re.findall(r"\w+", f"{row[1]} {row[2]}"))]
    shapes = [row for row in shapes if "color" not in row[1]]
    train(model, processor, shapes, args)
    print("before any fine-tune:", score(model, processor, read(args.data, "validation")[:800]))
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
