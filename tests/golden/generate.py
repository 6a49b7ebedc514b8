#!/usr/bin/env python3
"""Writes the golden data of the tests, the *.txt files next to this program, with PyTorch.

    pip install torch
    python generate.py

A file is text: lines that begin with # are comments, every other tensor is a block

    name rows cols
    one line for each row

row by row as the matrix is written on paper, with 17 significant digits, which give every
float and double back. support/golden.hpp reads it.

No random numbers are stored: initial values, inputs and gradients come from noise() below, which
support/golden.hpp repeats bit for bit.
"""

import math
import pathlib

import torch

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


def noise(stream, index):
    """Uniform in [-1, 1): the finalizer of MurmurHash3 on 32-bit integers."""
    h = (stream * 0x9E3779B9 + index) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & 0xFFFFFFFF
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & 0xFFFFFFFF
    h ^= h >> 16
    return h / 2**31 - 1


def noise_matrix(stream, rows, cols, scale=1.0):
    """rows x cols of noise in double precision, numbered row by row."""
    values = [scale * noise(stream, index) for index in range(rows * cols)]
    return torch.tensor(values, dtype=torch.float64).reshape(rows, cols)


def write(file_name, comment, tensors):
    lines = [f"# Made by generate.py with torch {torch.__version__}.", f"# {comment}"]
    for name, tensor in tensors.items():
        matrix = tensor.detach().double()
        matrix = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
        lines.append(f"{name} {matrix.shape[0]} {matrix.shape[1]}")
        lines += [" ".join(f"{value:.17g}" for value in row) for row in matrix.tolist()]
    path = pathlib.Path(__file__).parent / file_name
    path.write_text("\n".join(lines) + "\n")


# Update rules: 100 steps on one tensor, whose gradient depends on where it is, so that an error
# stays. Four coefficients in five have small gradients, beside which epsilon counts.

COEFFICIENTS = 12
RECORDED_STEPS = [1, 2, 3, 10, 30, 100]
RATE = 0.05
DECAY = 0.1
MOMENTUM = 0.9
ADAM = {"betas": (0.8, 0.95), "eps": 1e-3}

RULES = {
    "sgd": (torch.optim.SGD, {}),
    "sgd_decay": (torch.optim.SGD, {"weight_decay": DECAY}),
    "momentum": (torch.optim.SGD, {"momentum": MOMENTUM}),
    "momentum_decay": (torch.optim.SGD, {"momentum": MOMENTUM, "weight_decay": DECAY}),
    "nesterov": (torch.optim.SGD, {"momentum": MOMENTUM, "nesterov": True}),
    "nesterov_decay": (
        torch.optim.SGD,
        {"momentum": MOMENTUM, "nesterov": True, "weight_decay": DECAY},
    ),
    "adam": (torch.optim.Adam, ADAM),
    "adam_decay": (torch.optim.Adam, {**ADAM, "weight_decay": DECAY}),
    "adam_defaults": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {**ADAM, "weight_decay": 0}),
    "adamw_decay": (torch.optim.AdamW, {**ADAM, "weight_decay": DECAY}),
    "adamw_defaults": (torch.optim.AdamW, {}),
}


def gradient(p, step):
    """0.1 p + noise, whose size falls from 1 to 4^-5 over six coefficients."""
    values = [noise(step, i) * 4.0 ** -(i % 6) for i in range(COEFFICIENTS)]
    return 0.1 * p + torch.tensor(values, dtype=torch.float64).to(p.dtype)


def follow_rule(make_optimizer, settings, dtype):
    """The tensor after each of the recorded steps, a row each."""
    p = noise_matrix(0, COEFFICIENTS, 1).flatten().to(dtype).requires_grad_()
    optimizer = make_optimizer([p], lr=RATE, **settings)
    rows = []
    for step in range(1, RECORDED_STEPS[-1] + 1):
        p.grad = gradient(p.detach(), step)
        optimizer.step()
        if step in RECORDED_STEPS:
            rows.append(p.detach().clone())
    return torch.stack(rows)


def write_rules():
    tensors = {"steps": torch.tensor(RECORDED_STEPS)}
    for name, (make_optimizer, settings) in RULES.items():
        for precision, dtype in PRECISIONS.items():
            tensors[f"{name}.{precision}"] = follow_rule(make_optimizer, settings, dtype)
    write("update_rules.txt", "A row: the tensor after one of the steps.", tensors)


# Training runs: an MLP with LoRA on two of three layers, trained with LoRA+ around AdamW.

WIDTHS = [12, 16, 8, 5]
RANK = 3
ALPHA = 6
BATCH = 7
STEPS = 50


class LoraLinear(torch.nn.Module):
    """A frozen torch.nn.Linear and an adapter, y = W x + b + (alpha / r) B A x."""

    def __init__(self, linear, a, b):
        super().__init__()
        self.linear = linear
        self.lora_A = torch.nn.Parameter(a)
        self.lora_B = torch.nn.Parameter(b)

    def forward(self, x):
        return self.linear(x) + (ALPHA / RANK) * (x @ self.lora_A.T @ self.lora_B.T)


def make_linear(layer, dtype):
    """fc1, fc2 or fc3, frozen."""
    inputs, outputs = WIDTHS[layer - 1], WIDTHS[layer]
    bound = 2 / math.sqrt(inputs)
    linear = torch.nn.Linear(inputs, outputs, dtype=dtype)
    linear.requires_grad_(False)
    linear.weight.copy_(noise_matrix(10 * layer, outputs, inputs, bound))
    linear.bias.copy_(noise_matrix(10 * layer + 1, outputs, 1, bound).flatten())
    return linear


def make_adapted(layer, b_scale, dtype):
    linear = make_linear(layer, dtype)
    bound = 1 / math.sqrt(linear.in_features)
    a = noise_matrix(10 * layer + 2, RANK, linear.in_features, bound).to(dtype)
    b = noise_matrix(10 * layer + 3, linear.out_features, RANK, b_scale).to(dtype)
    return LoraLinear(linear, a, b)


def make_batch(step, dtype):
    """Inputs, samples x features; a sample's class is the largest of its first five features."""
    x = noise_matrix(100 + step, BATCH, WIDTHS[0])
    return x.to(dtype), x[:, : WIDTHS[-1]].argmax(dim=1)


def schedule_factor(step, warmup, total):
    """Linear with warm-up, of the step counted from 0."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, 1 - (step - warmup) / (total - warmup))


def train(dtype, *, b_scale, rate, ratio, decay, trains_bias=False, clip=None, schedule=None):
    layers = [make_adapted(1, b_scale, dtype), make_adapted(2, b_scale, dtype)]
    network = torch.nn.Sequential(
        layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), make_linear(3, dtype)
    )
    biases = [layer.linear.bias.requires_grad_() for layer in layers] if trains_bias else []
    groups = [
        {"params": [layer.lora_A for layer in layers], "lr": rate, "weight_decay": decay},
        {"params": [layer.lora_B for layer in layers], "lr": rate * ratio, "weight_decay": decay},
        {"params": biases, "lr": rate * ratio, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
    factor = (lambda step: schedule_factor(step, *schedule)) if schedule else (lambda step: 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses, clipped = [], 0
    for step in range(STEPS):
        x, labels = make_batch(step, dtype)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        if clip is not None:
            trained = [p for group in groups for p in group["params"]]
            clipped += int(torch.nn.utils.clip_grad_norm_(trained, clip) > clip)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    if clip is not None:  # else the run would not tell a clipping optimizer from another
        assert 5 <= clipped <= STEPS - 5, f"the bound bites in {clipped} of {STEPS} steps"
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10]), "nothing was learnt"
    result = {"loss": torch.stack(losses)}
    for name, layer in zip(["fc1", "fc2"], layers):
        result[f"{name}.lora_A"] = layer.lora_A
        result[f"{name}.lora_B"] = layer.lora_B
        if trains_bias:
            result[f"{name}.bias"] = layer.linear.bias
    return result


def write_run(file_name, comment, **settings):
    tensors = {}
    for precision, dtype in PRECISIONS.items():
        for name, tensor in train(dtype, **settings).items():
            tensors[f"{name}.{precision}"] = tensor
    write(file_name, f"{comment}: loss of each step, and what was trained after the last.", tensors)


def main():
    torch.set_num_threads(1)
    write_rules()
    rates = {"rate": 1e-2, "ratio": 8, "decay": 0.1}
    write_run("run_b_zero.txt", "B = 0 at the start", b_scale=0, **rates)
    write_run("run_b_random.txt", "A and B random at the start", b_scale=0.5, **rates)
    write_run(
        "run_bias_clip_schedule.txt",
        "Biases trained, gradients clipped, a linear schedule that ends before the run does",
        b_scale=0.5,
        rate=1e-2,
        ratio=4,
        decay=0.1,
        trains_bias=True,
        clip=0.6,
        schedule=(5, 40),
    )


if __name__ == "__main__":
    main()
