"""The shape of the tiny model, as its config.json, and the values its parameters start from."""

import math

import torch

NUM_LAYERS = 8

TINY = {
    "architectures": ["HymbaForCausalLM"],
    "model_type": "hymba",
    "hidden_size": 256,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "kq_head_dim": -1,
    "v_head_dim": 128,
    "attn_hidden_size": -1,
    "mamba_expand": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_dt_rank": 16,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_inner_layernorms": True,
    "num_mamba": 1,
    "intermediate_size": 384,
    "hidden_act": "silu",
    "mlp_hidden_act": "silu",
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "num_memory_tokens": 32,
    "memory_tokens_interspersed_every": 0,
    "sliding_window": 256,
    "global_attn_idx": [0, 3, 7],
    "kv_reuse_group": [[1, 2], [4, 5, 6]],
    "kv_reuse_every_i_layer": -1,
    "kv_weight_reuse": False,
    "rope": True,
    "rope_theta": 10000.0,
    "rope_type": "ntk",
    "max_position_embeddings": 2048,
    "orig_max_position_embeddings": 1024,
    "kq_norm": "none",
    "rms_norm_eps": 1e-06,
    "attention_dropout": 0.0,
    "attn_implementation": "flex",
    "attn_implementation_new": "flex",
    "calc_logits_for_entire_prompt": False,
    "conv_dim": {str(layer): 512 for layer in range(NUM_LAYERS)},
    "layer_type": ["h"] * NUM_LAYERS,
    "seq_length": 2048,
    "use_cache": True,
    "use_mamba_kernels": True,
    "torch_dtype": "bfloat16",
}

# Text tokens of a training sequence: with the meta tokens in front it fills all 2,048 positions.
TRAIN_TOKENS = TINY["max_position_embeddings"] - TINY["num_memory_tokens"]


@torch.no_grad()
def initialise(model, seed):
    """Unit-gain projections, small steps into the residual stream, delta log-uniform in [1e-3, 1e-1]."""
    generator = torch.Generator().manual_seed(seed)
    depth = model.config["num_hidden_layers"]
    for name, weight in model.named_parameters():
        if name.endswith(("embed_tokens.weight", "memory_tokens")):
            weight.normal_(0, 0.05, generator=generator)
        elif name.endswith(("_proj.weight", "_proj.0.weight", "conv1d.weight")):
            gain = (2 * depth) ** -0.5 if name.endswith(("out_proj.weight", "down_proj.weight")) else 1.0
            weight.normal_(0, gain * weight[0].numel() ** -0.5, generator=generator)
        elif name.endswith("conv1d.bias"):
            weight.zero_()
        elif name.endswith("dt_proj.0.bias"):
            span = torch.rand(weight.shape, generator=generator) * math.log(100)
            weight.copy_(torch.log(torch.expm1(torch.exp(math.log(1e-3) + span))))
