"""The adapter that personalise saved, in Python: prints the predictions of the first rows.

    pip install torch peft safetensors
    python predict.py model.safetensors rows.csv adapter [--target COLUMN] [--activation relu]
"""

import argparse
import csv
import re

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(),
               "tanh": nn.Tanh()}


class Mlp(nn.Module):
    """The linear layers of a state dictionary under their own names, the numbers in names by value."""

    def __init__(self, tensors, activation):
        super().__init__()
        names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
        self.order = sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
        self.activation = activation
        for name in self.order:
            out, inputs = tensors[name + ".weight"].shape
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.add_module(last, nn.Linear(inputs, out, bias=name + ".bias" in tensors))
        self.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})

    def forward(self, x):
        for i, name in enumerate(self.order):
            x = self.get_submodule(name)(x if i == 0 else self.activation(x))
        return x


def read_inputs(file, target, count):
    """The first rows that have a target, without it; missing inputs have the mean of their column."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        header, *rows = list(csv.reader(stream))
    missing = {"", "NA", "nan", "NaN"}
    column = header.index(target) if target else len(header) - 1
    rows = [row for row in rows if row and row[column] not in missing]
    values = torch.tensor([[float("nan") if field in missing else float(field) for field in row] for row in rows],
                          dtype=torch.float64)
    values = values[:, [i for i in range(len(header)) if i != column]]
    return torch.where(values.isnan(), values.nanmean(dim=0), values)[:count].float()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("adapter")
    parser.add_argument("--target")
    parser.add_argument("--activation", default="relu", choices=ACTIVATIONS)
    options = parser.parse_args()
    base = Mlp(load_file(options.model), ACTIVATIONS[options.activation])
    model = PeftModel.from_pretrained(base, options.adapter)
    with torch.no_grad():
        for row in model(read_inputs(options.rows, options.target, 3)):
            print(" ".join(f"{value:.6g}" for value in row.tolist()))


if __name__ == "__main__":
    main()
