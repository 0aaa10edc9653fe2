"""The selective scan in PyTorch: `fused_scan` (CUDA, with its gradient) and `plain_scan` (the equations)."""

import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess
import tempfile

import torch
import torch.nn.functional as F

CHUNK = 16  # tokens between checkpoints, kChunk of scan.cu
CHANNELS = 32  # channels of a block, kChannels of scan.cu


def plain_scan(u, dt, dt_bias, a, bt, ct):
    """y [B, T, E] of u, dt [B, T, E], dt_bias [E], a [E, N], bt, ct [B, T, N]: one token after the other."""
    delta = F.softplus(dt + dt_bias)
    state = u.new_zeros(u.shape[0], *a.shape)
    rows = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * a)
        state = decay * state + (delta[:, t] * u[:, t])[..., None] * bt[:, t, None]
        rows.append((state * ct[:, t, None]).sum(-1))
    return torch.stack(rows, 1)


@functools.cache
def library():
    """scan.cu, compiled for the GPU of this machine on first use."""
    source = pathlib.Path(__file__).with_name("scan.cu")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = pathlib.Path(tempfile.gettempdir()) / f"hymba-scan-{digest}.so"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.so")
        flags = ["-O3", "-std=c++20", "-arch=native", "-shared", "-Xcompiler", "-fPIC"]
        subprocess.run(["nvcc", *flags, "-o", str(partial), str(source)], check=True)
        partial.rename(target)
    return ctypes.CDLL(str(target))


def call(name, tensors, shape):
    """Runs `name` of the library on the current stream; the first tensor decides the type."""
    bf16 = {torch.float32: 0, torch.bfloat16: 1}[tensors[0].dtype]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    status = getattr(library(), name)(bf16, *pointers, *shape, stream)
    if status:
        raise RuntimeError(f"{name} failed with CUDA error {status}")


@torch.library.custom_op("hymba::scan_forward", mutates_args=())
def scan_forward(
    u: torch.Tensor,
    dt: torch.Tensor,
    dt_bias: torch.Tensor,
    a: torch.Tensor,
    bt: torch.Tensor,
    ct: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = [x.contiguous() for x in (u, dt, dt_bias, a, bt, ct)]
    y, checkpoints = scan_forward_shapes(u, dt, dt_bias, a, bt, ct)
    call("scan_forward", [*inputs, y, checkpoints], u.shape)
    return y, checkpoints


@scan_forward.register_fake
def scan_forward_shapes(u, dt, dt_bias, a, bt, ct):
    batch, length, channels = u.shape
    num_chunks = -(-length // CHUNK)
    return u.new_empty(u.shape), a.new_empty(batch, num_chunks, channels, a.shape[1])


@torch.library.custom_op("hymba::scan_backward", mutates_args=())
def scan_backward(
    u: torch.Tensor,
    dt: torch.Tensor,
    dt_bias: torch.Tensor,
    a: torch.Tensor,
    bt: torch.Tensor,
    ct: torch.Tensor,
    checkpoints: torch.Tensor,
    dy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = [x.contiguous() for x in (u, dt, dt_bias, a, bt, ct, checkpoints, dy)]
    outputs = scan_backward_shapes(u, dt, dt_bias, a, bt, ct, checkpoints, dy)
    call("scan_backward", [*inputs, *outputs], u.shape)
    return outputs


@scan_backward.register_fake
def scan_backward_shapes(u, dt, dt_bias, a, bt, ct, checkpoints, dy):
    batch, length, channels = u.shape
    da = a.new_empty(batch, *a.shape)
    dbc = a.new_empty(channels // CHANNELS, batch, length, 2 * a.shape[1])
    return u.new_empty(u.shape), u.new_empty(u.shape), da, dbc


def save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def gradient(ctx, dy, _dcheckpoints):
    du, ddt, da, dbc = scan_backward(*ctx.saved_tensors, dy.to(ctx.saved_tensors[0].dtype))
    dbt, dct = dbc.sum(0).chunk(2, -1)
    return du, ddt, ddt.sum((0, 1), dtype=torch.float32), da.sum(0), dbt, dct


scan_forward.register_autograd(gradient, setup_context=save_for_backward)


def fused_scan(u, dt, dt_bias, a, bt, ct):
    """plain_scan by one CUDA kernel: u and dt both fp32 or both bf16, the rest fp32."""
    return scan_forward(u, dt, dt_bias, a, bt, ct)[0]
