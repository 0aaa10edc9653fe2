"""Positions, masks, attention and scan, in two ways: exact (plain PyTorch) and fast (FlexAttention, CUDA)."""

import dataclasses
import typing

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from scan import fused_scan, plain_scan


def rotary_tables(config, length, device):
    """cos, sin [length, Dk/2] of RoPE with the fixed `ntk` base."""
    dim = config["hidden_size"] // config["num_attention_heads"]
    ratio = config["max_position_embeddings"] / config["orig_max_position_embeddings"]
    base = config["rope_theta"] * (2 * ratio - 1) ** (dim / (dim - 2))
    frequency = base ** (-2 * torch.arange(dim // 2, device=device, dtype=torch.float64) / dim)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x, rotary):
    """RoPE on x [B, T, heads, Dk], the two halves of a head being the two coordinates."""
    cos, sin = (table[:, None, :] for table in rotary)
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def visible(window, num_meta):
    """The mask as a function of positions; `window` None is full causal attention."""

    def causal(_batch, _head, query, key):
        return query >= key

    def windowed(_batch, _head, query, key):
        return (query >= key) & ((query - key <= window) | (key < num_meta))

    return causal if window is None else windowed


def plain_mask(window, num_meta, length, device):
    position = torch.arange(length, device=device)
    return visible(window, num_meta)(None, None, position[:, None], position[None, :])


def plain_attend(q, k, v, mask):
    """[B, T, H, Dk], [B, T, G, Dk], [B, T, G, Dv] → [B, T, H, Dv]; query head h reads KV head h / (H/G)."""
    repeats = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def flex_mask(window, num_meta, length, device):
    return create_block_mask(visible(window, num_meta), None, None, length, length, device=device)


def flex_attend(q, k, v, mask):
    # The copy is needed: some versions of torch.compile read inputs of FlexAttention with wrong
    # strides when they come straight out of a fused kernel.
    q, k, v = (x.contiguous().transpose(1, 2) for x in (q, k, v))
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True).transpose(1, 2)


@dataclasses.dataclass(frozen=True)
class Ops:
    """`dtype` is that of matrix products and activations; residual stream and norms are fp32 always."""

    dtype: torch.dtype
    make_mask: typing.Callable
    attend: typing.Callable
    scan: typing.Callable


EXACT = Ops(torch.float32, plain_mask, plain_attend, plain_scan)  # slow: for final numbers
SCORING = Ops(torch.float32, plain_mask, plain_attend, fused_scan)  # on a GPU, while training
TRAINING = Ops(torch.bfloat16, flex_mask, flex_attend, fused_scan)  # needs torch.compile
