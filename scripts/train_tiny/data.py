"""Splits the corpus, trains the byte-level BPE tokenizer on the training part, writes token files.

    python3 data.py --corpus standard-ebooks.txt.xz --out prepared/

Documents stand between lines `<|endoftext|>`. The last ceil(2 %) of the documents are held out; the
tokenizer and the model see only the others. Output: the four tokenizer files of the model folder,
train.npy (uint16 token ids, every document followed by the separator token), heldout.json (the text of
the held-out documents, in order).
"""

import argparse
import json
import lzma
import math
import pathlib

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 4096
SEPARATOR = "<|endoftext|>"
SPECIAL_TOKENS = [SEPARATOR, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
HELDOUT_FRACTION = 0.02
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def load_documents(path):
    """The documents of the corpus, without the separator lines and the newlines around them."""
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return file.read().rstrip("\n").split(f"\n{SEPARATOR}\n")


def split_documents(documents):
    """(training, held out): the last ceil(2 %) of the documents are held out."""
    held_out = math.ceil(HELDOUT_FRACTION * len(documents))
    return documents[:-held_out], documents[-held_out:]


def train_tokenizer(documents):
    """Byte-level BPE over the complete byte alphabet: any UTF-8 string encodes and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    separator_id = tokenizer.token_to_id(SEPARATOR)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A",
        pair=f"{SEPARATOR} $A $B:1",
        special_tokens=[(SEPARATOR, separator_id)],
    )
    return tokenizer


def write_tokenizer(tokenizer, folder):
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": SEPARATOR, "eos_token": SEPARATOR, "pad_token": "<|pad|>"}
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": added,
            **named,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        },
    )
    write_json(
        folder / "special_tokens_map.json",
        {**named, "additional_special_tokens": SPECIAL_TOKENS[2:]},
    )
    ids = {f"{name}_id": tokenizer.token_to_id(token) for name, token in named.items()}
    # A turn of a conversation ends with <|end|>, a text with the separator: either one stops generation.
    ids["eos_token_id"] = [ids["eos_token_id"], tokenizer.token_to_id("<|end|>")]
    write_json(
        folder / "generation_config.json",
        {**ids, "do_sample": True, "temperature": 0.8, "top_p": 0.95},
    )


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encode_documents(tokenizer, documents):
    """Token ids of each document, without the separator that the tokenizer would put in front."""
    return [e.ids for e in tokenizer.encode_batch(documents, add_special_tokens=False)]


def prepare(corpus, out):
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = split_documents(load_documents(corpus))
    tokenizer = train_tokenizer(training)
    write_tokenizer(tokenizer, out)
    separator_id = tokenizer.token_to_id(SEPARATOR)
    ids = [np.array([*d, separator_id], np.uint16) for d in encode_documents(tokenizer, training)]
    np.save(out / "train.npy", np.concatenate(ids))
    write_json(out / "heldout.json", held_out)
    num_bytes = sum(len(d.encode()) for d in training)
    print(f"{len(training)} documents, {num_bytes} bytes, {sum(map(len, ids))} tokens for training;")
    print(f"{len(held_out)} documents, {sum(len(d.encode()) for d in held_out)} bytes held out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help="the text, plain or .xz")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write")
    arguments = parser.parse_args()
    prepare(arguments.corpus, arguments.out)
