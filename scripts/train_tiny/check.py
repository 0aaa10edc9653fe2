"""Checks, on a GPU, the CUDA scan against float64 and the compiled training path against the plain equations.

    python3 check.py

Prints relative errors (norm of the difference over norm of the reference) and fails when one is too large.
"""

import argparse

import torch
import torch.nn.functional as F

from model import Hymba
from ops import SCORING, TRAINING
from recipe import TINY, TRAIN_TOKENS, initialise
from scan import fused_scan, plain_scan

SCAN_LIMITS = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
# bf16 operands alone cost the whole gradient 3.4e-2 at the starting weights (plain, uncompiled PyTorch); the
# compiled path has shown 3.3e-2. A wrong layout shows as an error near one.
TRAINING_LIMIT = 5e-2


def relative_error(value, reference):
    difference = (value.double() - reference.double()).norm() / reference.double().norm()
    return difference.item()


def check_scan(length, dtype):
    """Outputs and gradients at `length` tokens; the reference is in float64 on the same inputs."""
    batch, channels, states = 2, 64, 16
    shapes = [(batch, length, channels)] * 2 + [(channels,), (channels, states)]
    shapes += [(batch, length, states)] * 2
    inputs = [torch.randn(shape, device="cuda") for shape in shapes]
    inputs[3] = -torch.exp(inputs[3])
    inputs[:2] = [x.to(dtype) for x in inputs[:2]]
    upstream = torch.randn(shapes[0], device="cuda", dtype=dtype)
    results = []
    for scan, values in ((fused_scan, inputs), (plain_scan, [x.double() for x in inputs])):
        leaves = [x.detach().clone().requires_grad_() for x in values]
        y = scan(*leaves)
        y.backward(upstream.to(y.dtype))
        results.append([y.detach(), *(x.grad for x in leaves)])
    errors = [relative_error(value, reference) for value, reference in zip(*results)]
    print(f"scan {length:4} {str(dtype):14}", *(f"{error:.1e}" for error in errors), flush=True)
    assert all(error < SCAN_LIMITS[dtype] for error in errors), "the CUDA scan is wrong"


def check_training_path():
    """The gradient of the loss, fast against fp32, at the length that training uses."""
    ids = torch.randint(TINY["vocab_size"], (2, TRAIN_TOKENS), device="cuda")
    gradients = []
    for ops in (SCORING, TRAINING):
        model = Hymba(TINY, ops)
        initialise(model, 0)
        model.cuda()
        if ops is TRAINING:
            for layer in model.layers:
                layer.compile(fullgraph=True, dynamic=False)
        loss = F.cross_entropy(model.logits(model(ids))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        print(f"{ops.dtype}: loss {loss.item():.6f}", flush=True)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    exact, fast = gradients
    errors = {name: relative_error(fast[name], exact[name]) for name in exact}
    for name in sorted(errors, key=errors.get)[-5:]:
        print(f"gradient of {name}: {errors[name]:.1e}", flush=True)
    flat = [torch.cat([gradient.flatten() for gradient in g.values()]) for g in (fast, exact)]
    whole = relative_error(*flat)
    print(f"whole gradient: {whole:.1e}", flush=True)
    assert whole < TRAINING_LIMIT, "the training path computes another function"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    for num_tokens in (2, 15, 16, 17, 100):
        for precision in (torch.float32, torch.bfloat16):
            check_scan(num_tokens, precision)
    check_training_path()
