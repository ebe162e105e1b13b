"""What transformers and MobileVLM's rules make of texts and pictures, for the tests to compare with.

    llava_case.py OUT

writes OUT/tokenizer.model (a small SentencePiece model of LLaMA's kind, trained here), OUT/conversations.json (texts with
their token ids and labels, -200 for a picture, -100 for what is not predicted), and pictures as PNG, each with the values
that CLIP's image processor makes of it, in OUT/pictures.safetensors.
"""

import json
import pathlib
import sys

import numpy
import sentencepiece
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, LlamaTokenizer

SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
          "and polite answers to the user's questions.")

# Question, answer, …; a conversation with a picture begins with its place.
CONVERSATIONS = [
    ["<image>\nWhat color is the bus?", "Red."],
    ["<image>\nHow many people are there?\nAnswer with a number.", "12", "Where are they?", "In the park, near two dogs."],
    ["Is this text alone?", "Yes, it is.", "Why?", "Because there is no picture; none at all."],
    ["<image>", " begins with a space"],
    ["<image>\nNaïve café? 你好 🙂", "Ünïcode – 漢字 and 🙂 stay\nacross lines"],
    ["<image>\n  spaces   inside  ", "a  b   c"],
    ["<image>\nIs it day?", "It is night"],
]
# MobileVLM was trained with transformers 4.33, whose tokenizer puts a space before a text that begins with one, as before any
# other. Version 5 does not: there, such texts have no token ids to agree with.
if int(transformers.__version__.split(".")[0]) >= 5:
    CONVERSATIONS.remove(["<image>", " begins with a space"])
# Width, height.
SIZES = [(336, 336), (640, 480), (200, 333), (50, 50), (1000, 37), (5, 4), (337, 336), (91, 401)]


def train_tokenizer(out):
    text = out / "text.txt"
    words = " ".join(sum(CONVERSATIONS, [])).replace("<image>", "")
    lines = [SYSTEM, words, "USER: ASSISTANT: the people in the park are near a red bus"] * 4
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(out / "tokenizer"), model_type="bpe", vocab_size=420, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)
    # As LLaMA's checkpoints have it; only a tokenizer that is loaded from a folder knows its special tokens in text.
    token = lambda text: {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": False, "rstrip": False,
                          "single_word": False}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": token("<s>"), "eos_token": token("</s>"),
                "unk_token": token("<unk>"), "add_bos_token": True}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return LlamaTokenizer.from_pretrained(str(out))


def ids_of(tokenizer, text):
    """Token ids with pictures: every stretch between them is tokenized alone, and only the first keeps its BOS."""
    result = [tokenizer.bos_token_id]
    for index, stretch in enumerate(text.split("<image>")):
        if index > 0:
            result.append(-200)
        result.extend(tokenizer(stretch).input_ids[1:])
    return result


def v1(tokenizer, sentences):
    """The whole text, tokenized at once; labels by counting the tokens of each round and of its question."""
    rounds = [f"USER: {question} ASSISTANT: {answer}" for question, answer in zip(sentences[::2], sentences[1::2])]
    rounds[0] = f"{SYSTEM} {rounds[0]}"
    ids = ids_of(tokenizer, "".join(round + "</s>" for round in rounds))
    labels = list(ids)
    labels[0] = -100
    at = 1
    for round in rounds:
        question = round[:round.index(" ASSISTANT: ") + len(" ASSISTANT: ")]
        # Without its BOS, and without the space at its end, which belongs to the answer's first token.
        given = len(ids_of(tokenizer, question)) - 2
        labels[at:at + given] = [-100] * given
        # BOS is not there and the end of the sentence is.
        at += len(ids_of(tokenizer, round))
    assert at == len(ids), (at, len(ids))
    return ids, labels


def plain(tokenizer, sentences):
    ids = ids_of(tokenizer, "<image>" + sentences[1] + "\n")
    return ids, [-100, -100] + ids[2:]


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(out)
    cases = []
    for sentences in CONVERSATIONS:
        for name, template in [("v1", v1), ("plain", plain)]:
            if name == "plain" and not sentences[0].startswith("<image>"):
                continue
            # MobileVLM brings a question with a picture into this form first.
            turns = list(sentences)
            if "<image>" in turns[0]:
                turns[0] = ("<image>\n" + turns[0].replace("<image>", "").strip()).strip()
            ids, labels = template(tokenizer, turns)
            labels = [-100 if token == -200 else label for token, label in zip(ids, labels)]
            cases.append({"template": name, "sentences": sentences, "ids": ids, "labels": labels})
    (out / "conversations.json").write_text(json.dumps(cases))

    random = numpy.random.default_rng(5)
    processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    tensors = {}
    for number, (width, height) in enumerate(SIZES):
        # Smooth colours with some noise: edges, gradients and texture.
        x, y = numpy.meshgrid(numpy.linspace(0, 6, width), numpy.linspace(0, 9, height))
        waves = numpy.stack([numpy.sin(x), numpy.cos(y), numpy.sin(x * y / 3)], axis=-1) * 90 + 128
        pixels = (waves + random.normal(0, 20, waves.shape)).clip(0, 255).astype(numpy.uint8)
        picture = Image.fromarray(pixels)
        picture.save(out / f"{number}.png")
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in processor.image_mean))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        for fit, image in [("pad", square), ("crop", picture)]:
            values = processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
            tensors[f"{fit}.{number}"] = values.to(torch.float32).contiguous()
    save_file(tensors, out / "pictures.safetensors")


main(pathlib.Path(sys.argv[1]))
