"""Trains the tiny Hymba model for a given time on one GPU and writes the model folder.

    python3 train.py --data prepared/ --out models/hymba-tiny --seconds 440

`prepared/` is what data.py wrote. The learning rate follows the clock, so a slower GPU sees less text but
ends at zero all the same. The written weights are bfloat16, and every score printed on the way is that of
the rounded weights.
"""

import argparse
import json
import pathlib
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

import evaluate
from model import Hymba
from ops import SCORING, TRAINING
from optimizer import build_optimizers
from recipe import TINY, TRAIN_TOKENS, initialise

TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
]


def training_batches(tokens, batch, seed):
    """Endless (epoch, ids [batch, TRAIN_TOKENS]); each epoch cuts the text elsewhere, in a new order."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(TRAIN_TOKENS, device=tokens.device)
    num_windows = len(tokens) // TRAIN_TOKENS - 1
    epoch = 0
    while True:
        first = torch.randint(TRAIN_TOKENS, (1,), generator=generator)
        starts = (first + TRAIN_TOKENS * torch.randperm(num_windows, generator=generator)).to(tokens.device)
        for rows in starts.split(batch):
            if len(rows) == batch:
                yield epoch, tokens[rows[:, None] + columns].long()
        epoch += 1


def schedule(progress):
    """Factor of the peak rates: a short warm-up, then a straight line to zero."""
    return min(1.0, progress / 0.02) * max(0.0, 1.0 - progress)


def save_model(model, tokenizer_folder, out):
    """config.json, model.safetensors (bfloat16) and the tokenizer's files."""
    out.mkdir(parents=True, exist_ok=True)
    state = model.state_dict().items()
    tensors = {f"model.{name}": tensor.to("cpu", torch.bfloat16) for name, tensor in state}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / name, out / name)


def train(args):
    device = "cuda"
    torch.manual_seed(args.seed)
    tokens = torch.from_numpy(np.load(args.data / "train.npy").astype(np.int32)).to(device)
    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    held_out = json.loads((args.data / "heldout.json").read_text(encoding="utf-8"))
    pieces = evaluate.cut(tokenizer, held_out)

    model = Hymba(TINY, TRAINING, args.dropout)
    initialise(model, args.seed)
    model.to(device)
    for layer in model.layers:
        layer.compile(fullgraph=True, dynamic=False)
    context = model.context(TRAIN_TOKENS, device)

    @torch.compile(fullgraph=True, dynamic=False)
    def loss_of(x, targets):
        return F.cross_entropy(model.logits(x).flatten(0, 1), targets.flatten())

    muon, adam = build_optimizers(model, args)
    bos = torch.zeros(args.batch, 1, dtype=torch.long, device=device)
    steps, num_tokens, loss_sum = 0, 0, torch.zeros((), device=device)
    compile_start = start = time.monotonic()
    next_report, last_report_steps = args.report_seconds, 0
    for epoch, ids in training_batches(tokens, args.batch, args.seed):
        loss = loss_of(model(torch.cat((bos, ids[:, :-1]), 1), context), ids)
        loss.backward()
        if steps == 0:  # compilation is over: the clock of the schedule starts here
            torch.cuda.synchronize()
            start = time.monotonic()
            print(f"compiled in {start - compile_start:.0f} s", flush=True)
        factor = schedule((time.monotonic() - start) / args.seconds)
        for group in adam.param_groups:
            group["lr"] = group["peak"] * factor
        muon.step(args.muon_lr * factor)
        adam.step()
        model.zero_grad(set_to_none=True)
        loss_sum += loss.detach()
        steps += 1
        num_tokens += ids.numel()
        if steps % 16 == 0:
            torch.cuda.synchronize()  # keeps the clock honest
        elapsed = time.monotonic() - start
        if elapsed > next_report or elapsed > args.seconds:
            save_model(model, args.data, args.out)
            rounded = evaluate.load(args.out, SCORING, device)
            scores = evaluate.summary(evaluate.score(rounded, pieces), held_out)
            loss_mean = loss_sum.item() / (steps - last_report_steps)
            print(
                f"{elapsed:4.0f} s  step {steps}  epoch {epoch}  "
                f"{num_tokens / elapsed / 1e6:.2f} M tokens/s  "
                f"loss {loss_mean:.4f}  held out {scores['nats_per_token']:.4f} nats/token, "
                f"{scores['bits_per_byte']:.4f} bits/byte",
                flush=True,
            )
            loss_sum.zero_()
            next_report, last_report_steps = elapsed + args.report_seconds, steps
        if elapsed > args.seconds:
            break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder written by data.py")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="model folder to write")
    parser.add_argument("--seconds", type=float, default=440, help="time to train, compilation not counted")
    parser.add_argument("--batch", type=int, default=32, help=f"sequences of {TRAIN_TOKENS} tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--embedding-lr", type=float, default=0.005)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report-seconds", type=float, default=60, help="between two held-out scores")
    train(parser.parse_args())
