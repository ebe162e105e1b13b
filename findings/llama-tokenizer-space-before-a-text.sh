#!/usr/bin/env bash
# transformers 5 gives a LLaMA tokenizer other token ids than transformers 4 and SentencePiece itself where a text begins with a
# space, with `"legacy": true` in tokenizer_config.json as well.
#
# SentencePiece, told to by the model (`add_dummy_prefix`), puts a space before every text; a text that has one already then
# begins with two. transformers 4.33.1 does the same. transformers 5.24.0 puts none before such a text, so that a model that was
# trained with version 4 on conversations that are tokenized in stretches (as LLaVA's and MobileVLM's are, around a picture)
# sees other ids for every stretch that begins with a space. Nothing warns.
#
# Seen on 2026-11-28 with transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.2, for " red bus":
#   SentencePiece: ['▁', '▁red', '▁bus']
#   transformers:  ['▁red', '▁bus']
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/python"
"$scratch/python/bin/pip" install -q --disable-pip-version-check --no-compile \
  transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.2 protobuf
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$scratch/python/bin/python" - "$scratch" <<'PYTHON'
import json
import pathlib
import sys

import sentencepiece
from transformers import LlamaTokenizer

folder = pathlib.Path(sys.argv[1])
(folder / "text.txt").write_text("a red bus stands near the park and a red bus is a bus\n" * 20)
sentencepiece.SentencePieceTrainer.train(
    input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=300,
    byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2,
    pad_id=-1, minloglevel=2)
settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))

reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
tokenizer = LlamaTokenizer.from_pretrained(str(folder))
agree = {}
for text in ["red bus", " red bus"]:
    wanted = reference.encode(text, out_type=str)
    found = tokenizer.tokenize(text)
    print(f"{text!r}\n  SentencePiece: {wanted}\n  transformers:  {found}")
    agree[text] = wanted == found
expected = {"red bus": True, " red bus": False}
if agree != expected:
    sys.exit(f"this changed: agreement was {expected}, now {agree}")
PYTHON
