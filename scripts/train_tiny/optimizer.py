"""The optimizers: Muon for the large matrices, AdamW for every other parameter."""

import collections

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic that drives all singular values towards one
ITERATIONS = 5


def orthogonalise(matrices):
    """[n, rows, cols], rows <= cols: each replaced by roughly U V of its singular value decomposition."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Momentum whose update of a matrix is replaced by the nearest orthogonal matrix.

    `matrices` are pairs (parameter, sizes): a parameter is treated as a stack of matrices of `sizes` rows.
    """

    def __init__(self, matrices, momentum, weight_decay):
        self.parameters = [parameter for parameter, _ in matrices]
        self.sizes = [sizes for _, sizes in matrices]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, lr):
        gradients = [parameter.grad for parameter in self.parameters]
        torch._foreach_lerp_(self.averages, gradients, 1 - self.momentum)
        updates = torch._foreach_lerp(gradients, self.averages, self.momentum)  # Nesterov
        by_shape = collections.defaultdict(list)
        for parameter, update, sizes in zip(self.parameters, updates, self.sizes):
            for target, part in zip(parameter.split(sizes), update.split(sizes)):
                by_shape[part.shape].append((target, part))
        for (rows, cols), pairs in by_shape.items():
            targets = [target for target, _ in pairs]
            stack = torch.stack([part for _, part in pairs])
            directions = orthogonalise(stack.mT).mT if rows > cols else orthogonalise(stack)
            torch._foreach_mul_(targets, 1 - lr * self.weight_decay)
            scale = max(1.0, rows / cols) ** 0.5
            torch._foreach_add_(targets, list(directions.float().unbind()), alpha=-lr * scale)


def build_optimizers(model, args):
    """Muon for the large matrices (the parts of in_proj each on their own), AdamW for everything else."""
    matrices, embeddings, others = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj.weight"):
            matrices.append((parameter, model.get_submodule(name.rsplit(".", 2)[0]).sizes))
        elif name.endswith(("out_proj.weight", "gate_proj.weight", "up_proj.weight", "down_proj.weight")):
            matrices.append((parameter, [len(parameter)]))
        elif name in ("embed_tokens.weight", "memory_tokens"):
            embeddings.append(parameter)
        else:
            others.append(parameter)
    groups = [
        {"params": embeddings, "peak": args.embedding_lr, "weight_decay": args.weight_decay},
        {"params": others, "peak": args.other_lr, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-10, fused=True)
    return Muon(matrices, momentum=0.95, weight_decay=args.weight_decay), adam
