"""The Hymba model in PyTorch: the equations, with parameters named as in a Hugging Face checkpoint."""

import torch
import torch.nn.functional as F
from torch import nn

from ops import rotary_tables, rotate


def producers(config):
    """For every layer the one whose keys and values it attends to (itself if it makes its own)."""
    own = list(range(config["num_hidden_layers"]))
    for group in config["kv_reuse_group"]:
        for layer in group:
            own[layer] = group[0]
    return own


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def linear(x, weight, dtype):
    return F.linear(x.to(dtype), weight.to(dtype))


class HybridHead(nn.Module):
    """Attention and Mamba side by side over one input projection; their normed outputs are averaged."""

    def __init__(self, c, makes_kv, ops):
        super().__init__()
        width, states, rank = c["hidden_size"], c["mamba_d_state"], c["mamba_dt_rank"]
        inner = c["mamba_expand"] * width
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.makes_kv, self.ops = makes_kv, ops
        key_dim, value_dim = width // self.heads, inner // self.heads
        kv_sizes = [self.kv_heads * key_dim, self.kv_heads * value_dim] if makes_kv else []
        self.sizes, self.ssm_sizes = [width, *kv_sizes, inner, inner], [rank, states, states]
        self.in_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(inner, inner, c["mamba_d_conv"], groups=inner)
        self.x_proj = nn.ModuleList([nn.Linear(inner, rank + 2 * states, bias=False)])
        self.dt_proj = nn.ModuleList([nn.Linear(rank, inner)])
        a = torch.arange(1, states + 1, dtype=torch.float32).expand(inner, states)
        self.A_log = nn.ParameterList([nn.Parameter(a.log())])
        self.D = nn.ParameterList([nn.Parameter(torch.ones(inner))])
        norms = {"dt": rank, "B": states, "C": states}
        for name, size in norms.items():
            setattr(self, f"{name}_layernorm", Norm(size, c["rms_norm_eps"]))
        self.pre_avg_layernorm1 = Norm(inner, c["rms_norm_eps"])
        self.pre_avg_layernorm2 = Norm(inner, c["rms_norm_eps"])
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, h, shared_kv, rotary, mask):
        q, *kv, u, z = linear(h, self.in_proj.weight, self.ops.dtype).split(self.sizes, -1)
        if self.makes_kv:
            k, v = (x.unflatten(-1, (self.kv_heads, -1)) for x in kv)
            shared_kv = rotate(k, rotary).to(self.ops.dtype), v
        q = rotate(q.unflatten(-1, (self.heads, -1)), rotary).to(self.ops.dtype)
        attention = self.ops.attend(q, *shared_kv, mask).flatten(-2)
        fused = self.pre_avg_layernorm1(attention) + self.pre_avg_layernorm2(self.mamba(u, z))
        return linear(fused / 2, self.out_proj.weight, self.ops.dtype), shared_kv

    def mamba(self, u, z):
        taps = self.conv1d.weight[:, 0].unbind(-1)
        padded = F.pad(u, (0, 0, len(taps) - 1, 0))
        u = sum(tap * padded[:, i : i + z.shape[1]] for i, tap in enumerate(taps)) + self.conv1d.bias
        u = F.silu(u).to(self.ops.dtype)
        dt, b, c = linear(u, self.x_proj[0].weight, self.ops.dtype).split(self.ssm_sizes, -1)
        dt = linear(self.dt_layernorm(dt), self.dt_proj[0].weight, self.ops.dtype)
        a = -torch.exp(self.A_log[0])
        y = self.ops.scan(u, dt, self.dt_proj[0].bias, a, self.B_layernorm(b), self.C_layernorm(c))
        return (y + self.D[0] * u) * F.silu(z.float())


class Mlp(nn.Module):
    def __init__(self, c, ops):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.ops = ops

    def forward(self, x):
        gate, up = (linear(x, m.weight, self.ops.dtype) for m in (self.gate_proj, self.up_proj))
        return linear(F.silu(gate.float()) * up, self.down_proj.weight, self.ops.dtype)


class Layer(nn.Module):
    def __init__(self, c, makes_kv, ops, dropout):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mamba = HybridHead(c, makes_kv, ops)
        self.pre_moe_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.moe = nn.ModuleDict({"experts": nn.ModuleList([Mlp(c, ops)])})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, shared_kv, rotary, mask):
        y, shared_kv = self.mamba(self.input_layernorm(x), shared_kv, rotary, mask)
        x = x + self.dropout(y)
        return x + self.dropout(self.moe["experts"][0](self.pre_moe_layernorm(x))), shared_kv


class Hymba(nn.Module):
    """state_dict() has the checkpoint's names without their common prefix `model.`; embeddings are tied."""

    def __init__(self, config, ops, dropout=0.0):
        super().__init__()
        self.config, self.ops, self.producers = config, ops, producers(config)
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.memory_tokens = nn.Parameter(torch.empty(config["num_memory_tokens"], config["hidden_size"]))
        self.layers = nn.ModuleList(
            Layer(config, source == index, ops, dropout) for index, source in enumerate(self.producers)
        )
        self.final_layernorm = Norm(config["hidden_size"], config["rms_norm_eps"])
        self.dropout = nn.Dropout(dropout)

    def context(self, num_tokens, device):
        """Rotary tables and masks (full, window) for sequences of `num_tokens` text tokens."""
        num_meta, window = self.config["num_memory_tokens"], self.config["sliding_window"]
        length = num_meta + num_tokens
        masks = [self.ops.make_mask(w, num_meta, length, device) for w in (None, window)]
        return rotary_tables(self.config, length, device), masks

    def forward(self, ids, context=None):
        """The final residual stream [B, T, C] at the text tokens `ids` [B, T]."""
        rotary, (full, windowed) = context or self.context(ids.shape[1], ids.device)
        meta = self.memory_tokens.expand(ids.shape[0], -1, -1)
        x = self.dropout(torch.cat((meta, self.embed_tokens(ids)), 1))
        kv = {}
        for index, (layer, source) in enumerate(zip(self.layers, self.producers)):
            mask = full if index in self.config["global_attn_idx"] else windowed
            x, kv[source] = layer(x, kv.get(source), rotary, mask)
        return x[:, meta.shape[1] :]

    def logits(self, x):
        return linear(self.final_layernorm(x), self.embed_tokens.weight, self.ops.dtype).float()
