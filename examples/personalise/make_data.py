"""Writes data/: a network that was trained on many households, and the rows of one of them.

    pip install torch safetensors
    python make_data.py

From the hour, the temperatures outside and inside and the number of people at home the network tells the
temperature that a household sets its heating to, all of them scaled to about 1. The household of
rows.csv likes it warmer, above all in the evening. Some of its values are missing.
"""

import csv
import math
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn


def households(count, rows, generator):
    """Inputs (rows x 4) and what each household sets; a household has a taste of its own."""
    shape = (count, rows)
    hour = torch.rand(shape, generator=generator)
    outside = torch.randn(shape, generator=generator)
    inside = 0.3 * outside + 0.5 * torch.randn(shape, generator=generator)
    people = torch.randint(0, 5, shape, generator=generator) / 2 - 1
    taste = 0.3 * torch.randn((count, 1), generator=generator)
    night = torch.cos(2 * math.pi * hour)
    setting = taste - 0.5 * night - 0.2 * outside - 0.3 * inside + 0.3 * people * (1 - night)
    x = torch.stack([hour, outside, inside, people], dim=-1)
    return x.reshape(-1, 4), setting.reshape(-1, 1)


def main():
    folder = pathlib.Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    x, y = households(500, 40, generator)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(2000):
        chosen = torch.randint(0, len(x), (256,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
    print(f"loss on all households: {loss.item():.3f}")
    save_file(model.state_dict(), folder / "model.safetensors")

    x, y = households(1, 120, generator)
    y = y + 0.6 + 0.6 * torch.cos(2 * math.pi * (x[:, :1] - 0.8))
    rows = [[f"{value:.3f}" for value in row.tolist()] for row in torch.cat([x, y], dim=1)]
    rows[6][2] = "NA"
    rows[30][1] = ""
    rows[51][4] = ""
    with open(folder / "rows.csv", "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["hour", "outside", "inside", "people", "setting"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
