"""Recomputes a few reference log-probabilities with NumPy alone, straight from the checkpoint file.

    python3 verify.py --model models/hymba-tiny --golden test/golden/tiny_holdout.json

Written from the equations, sharing no code with model.py: agreement proves that names, shapes and layouts of
the shipped file are the ones that the equations mean.
"""

import argparse
import json
import pathlib
import struct

import numpy as np

EPS = 1e-6


def read_safetensors(path):
    """{name: float64 array} of a file with bfloat16 tensors."""
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16", name
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).astype(np.float64).reshape(entry["shape"])
    return tensors


def rms(x, weight):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def silu(x):
    return x / (1 + np.exp(-x))


def attend(q, k, v, window, num_meta):
    """One head: q, k [T, Dk], v [T, Dv]."""
    i, j = np.indices((len(q), len(k)))
    seen = (j <= i) & ((window is None) | (i - j <= (window or 0)) | (j < num_meta))
    scores = np.where(seen, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def forward(c, w, ids):
    """Log-probabilities [T, V] of the token after each of ids."""
    width, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    dim, inner, states, rank = width // heads, 2 * width, c["mamba_d_state"], c["mamba_dt_rank"]
    num_meta, taps = c["num_memory_tokens"], c["mamba_d_conv"]
    base = c["rope_theta"] * (2 * c["max_position_embeddings"] / c["orig_max_position_embeddings"] - 1) ** (
        dim / (dim - 2)
    )
    x = np.concatenate([w["model.memory_tokens"], w["model.embed_tokens.weight"][ids]])
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(0, dim, 2) / dim)

    def rotate(y):  # [T, heads * dim] -> [heads, T, dim]
        y = y.reshape(len(y), -1, dim).transpose(1, 0, 2)
        turned = np.concatenate([-y[..., dim // 2 :], y[..., : dim // 2]], -1)
        return y * np.cos(np.tile(angle, 2)) + turned * np.sin(np.tile(angle, 2))

    source = {layer: group[0] for group in c["kv_reuse_group"] for layer in group}
    kv = {}
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        t = {n.removeprefix(prefix): a for n, a in w.items() if n.startswith(prefix)}
        p = rms(x, t["input_layernorm.weight"]) @ t["mamba.in_proj.weight"].T
        q, rest, gate = p[:, :width], p[:, width:-inner], p[:, -inner:]
        if source.get(layer, layer) == layer:
            k, v = rest[:, : kv_heads * dim], rest[:, kv_heads * dim : -inner]
            kv[layer] = rotate(k), v.reshape(len(v), kv_heads, -1).transpose(1, 0, 2)
        keys, values = kv[source.get(layer, layer)]
        window = None if layer in c["global_attn_idx"] else c["sliding_window"]
        shared = np.arange(heads) * kv_heads // heads  # the KV head of every query head
        a = [attend(y, keys[g], values[g], window, num_meta) for y, g in zip(rotate(q), shared)]

        u = np.pad(rest[:, -inner:], ((taps - 1, 0), (0, 0)))
        kernel = t["mamba.conv1d.weight"][:, 0]
        u = silu(sum(u[i : i + len(x)] * kernel[:, i] for i in range(taps)) + t["mamba.conv1d.bias"])
        dt, bt, ct = np.split(u @ t["mamba.x_proj.0.weight"].T, [rank, rank + states], -1)
        dt = rms(dt, t["mamba.dt_layernorm.weight"]) @ t["mamba.dt_proj.0.weight"].T
        dt = dt + t["mamba.dt_proj.0.bias"]
        bt, ct = rms(bt, t["mamba.B_layernorm.weight"]), rms(ct, t["mamba.C_layernorm.weight"])
        delta, state, rows = np.logaddexp(0, dt), np.zeros((inner, states)), []
        for i in range(len(x)):
            decay = np.exp(-delta[i, :, None] * np.exp(t["mamba.A_log.0"]))
            state = decay * state + (delta[i] * u[i])[:, None] * bt[i]
            rows.append(state @ ct[i] + t["mamba.D.0"] * u[i])
        m = np.array(rows) * silu(gate)
        y = rms(np.concatenate(a, -1), t["mamba.pre_avg_layernorm1.weight"])
        y = (y + rms(m, t["mamba.pre_avg_layernorm2.weight"])) / 2
        x = x + y @ t["mamba.out_proj.weight"].T
        g = rms(x, t["pre_moe_layernorm.weight"])
        gate, up, down = (t[f"moe.experts.0.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        x = x + silu(g @ gate) * (g @ up) @ down
    logits = rms(x[num_meta:], w["model.final_layernorm.weight"]) @ w["model.embed_tokens.weight"].T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main(args):
    config = json.loads((args.model / "config.json").read_text())
    weights = read_safetensors(args.model / "model.safetensors")
    for piece in json.loads(args.golden.read_text(encoding="utf-8"))["pieces"]:
        ids = np.array(piece["input_ids"][: args.tokens + 1])
        found = forward(config, weights, ids[:-1])[np.arange(len(ids) - 1), ids[1:]]
        expected = np.array(piece["logprobs"][: args.tokens])
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"document {piece['document']}, {len(expected)} tokens: relative error {error:.1e}")
        assert error < 1e-4, "the reference file and the checkpoint disagree"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=pathlib.Path, help="model folder")
    parser.add_argument("--golden", required=True, type=pathlib.Path, help="file written by evaluate.py")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each piece to recompute")
    main(parser.parse_args())
