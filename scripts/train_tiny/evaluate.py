r"""Scores a model folder on the held-out documents in fp32, and writes reference numbers and sample texts.

    python3 evaluate.py --model models/hymba-tiny --heldout prepared/heldout.json \
        --golden tiny_holdout.json --samples 5

Protocol: each held-out document is tokenized and cut into consecutive pieces of 1,024 tokens, the last one
shorter. A piece is scored on its own: the model reads `<|endoftext|>` and the piece, and every token of the
piece counts once. nats/token is the mean over all tokens, bits/byte the sum over the documents' UTF-8 bytes.
"""

import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from data import encode_documents
from model import Hymba
from ops import EXACT, SCORING

PIECE_TOKENS = 1024
BOS = 0
BATCH = 32
GOLDEN_PIECES = [(0, 0, 1024), (13, 1, 512), (26, 0, 256), (39, 1, 256)]  # (document, piece of it, tokens)
PROMPTS = [
    "Once upon a time there was",
    "The old man looked at the sea and said",
    '"I have never been so insulted in my life," said Clovis',
    "When the rocket landed on the red planet,",
    "It was a cold winter morning, and",
]


def load(folder, ops, device):
    """The model of a folder, its weights widened to fp32."""
    config = json.loads((folder / "config.json").read_text())
    model = Hymba(config, ops)
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()})
    return model.eval().to(device)


def cut(tokenizer, documents, size=PIECE_TOKENS):
    """Per document the list of its pieces, each a list of token ids."""
    encoded = encode_documents(tokenizer, documents)
    return [[ids[i : i + size] for i in range(0, len(ids), size)] for ids in encoded]


@torch.no_grad()
def score(model, pieces):
    """Per document and piece the log-probabilities of the piece's tokens."""
    device = model.memory_tokens.device
    flat = [(d, p) for d, document in enumerate(pieces) for p in range(len(document))]
    flat.sort(key=lambda at: -len(pieces[at[0]][at[1]]))  # batches of equal lengths need no padding
    scores = [[None] * len(document) for document in pieces]
    for first in range(0, len(flat), BATCH):
        places = flat[first : first + BATCH]
        batch = [torch.tensor(pieces[d][p]) for d, p in places]
        targets = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(device)
        inputs = torch.cat((torch.full_like(targets[:, :1], BOS), targets[:, :-1]), 1)
        logprobs = model.logits(model(inputs)).log_softmax(-1)
        logprobs = logprobs.gather(-1, targets[..., None]).squeeze(-1).cpu()
        for (d, p), row, piece in zip(places, logprobs, batch):
            scores[d][p] = row[: len(piece)]
    return scores


def summary(scores, documents):
    all_scores = torch.cat([piece for document in scores for piece in document]).double()
    nats, num_bytes = -all_scores.sum().item(), sum(len(document.encode()) for document in documents)
    return {
        "documents": len(documents),
        "bytes": num_bytes,
        "tokens": len(all_scores),
        "nats_per_token": nats / len(all_scores),
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }


def golden(tokenizer, pieces, scores):
    """A few pieces with the log-probability of each of their tokens."""
    rows = []
    for document, piece, length in GOLDEN_PIECES:
        ids = pieces[document][piece][:length]
        logprobs = scores[document][piece][:length]
        rows.append(
            {
                "document": document,
                "piece": piece,
                "text": tokenizer.decode(ids, skip_special_tokens=False),
                "input_ids": [BOS, *ids],
                "logprobs": [round(value, 6) for value in logprobs.tolist()],
                "nats_per_token": -logprobs.double().mean().item(),
            }
        )
    return rows


@torch.no_grad()
def generate(model, tokenizer, prompt, num_tokens, seed, temperature=0.8, top_p=0.95):
    """Samples a continuation; the whole text is read again for every token."""
    device = model.memory_tokens.device
    generator = torch.Generator(device).manual_seed(seed)
    ids = torch.tensor([[BOS, *tokenizer.encode(prompt, add_special_tokens=False).ids]], device=device)
    for _ in range(num_tokens):
        probabilities = (model.logits(model(ids)[:, -1]) / temperature).softmax(-1)[0]
        values, order = probabilities.sort(descending=True)
        values[values.cumsum(0) - values > top_p] = 0
        token = order[torch.multinomial(values, 1, generator=generator)]
        if token.item() == BOS:
            break
        ids = torch.cat((ids, token[None]), 1)
    return tokenizer.decode(ids[0, 1:].tolist())


def main(args):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    documents = json.loads(args.heldout.read_text(encoding="utf-8"))
    model = load(args.model, EXACT, device)
    pieces = cut(tokenizer, documents)
    scores = score(model, pieces)
    result = {"protocol": {"piece_tokens": PIECE_TOKENS, "bos_token_id": BOS}, **summary(scores, documents)}
    print(json.dumps(result), flush=True)
    if args.golden:
        result["pieces"] = golden(tokenizer, pieces, scores)
        args.golden.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.samples:
        sampler = load(args.model, SCORING if device == "cuda" else EXACT, device)
        for seed, prompt in enumerate(PROMPTS[: args.samples]):
            print(f"--- seed {seed}\n{generate(sampler, tokenizer, prompt, 160, seed)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=pathlib.Path, help="model folder")
    parser.add_argument("--heldout", required=True, type=pathlib.Path, help="heldout.json of data.py")
    parser.add_argument("--golden", type=pathlib.Path, help="file to write the reference numbers to")
    parser.add_argument("--samples", type=int, default=0, help="number of texts to sample, at most 5")
    main(parser.parse_args())
