#!/usr/bin/env python3
"""Times one LoRA training step of loraplus beside the same step of PyTorch with PEFT, in float32.

PyTorch runs in this process, loraplus in one driven through pipes; blocks of steps alternate,
there and back. Before that both make three steps from the same numbers, and must agree.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

Arrays = dict[str, np.ndarray]
Run = Callable[[int], float]  # seconds a step, of so many
Rule = tuple[float, float]  # learning rate and epsilon of AdamW
RANK, ALPHA, NETWORK, NETWORK_SAMPLES = 8, 16, (784, 256, 256, 10), 64
EAGER = {"AdamW": {"fused": False}, "AdamW, fused": {"fused": True}}
COMPILED = {"compiled": {"fused": True, "compiled": True}}
BLOCK, SETTLE = 0.06, 0.03  # seconds: of a block of steps, and for idle threads to fall asleep
TOLERANCE = 1e-4  # of the norm
# With the usual epsilon the first update of a coefficient is the sign of its gradient, which
# rounding decides if that is nearly zero. While timing, the numbers must hardly move.
CHECKED, TIMED = (1e-2, 1e-3), (1e-6, 1e-8)


class Case(NamedTuple):
    """A layer of width x width, or the network, with a batch of n samples."""

    widths: tuple[int, ...]
    n: int

    @property
    def is_layer(self) -> bool:
        return len(self.widths) == 2

    def __str__(self) -> str:
        return ("x" if self.is_layer else "-").join(map(str, self.widths)) + f", n = {self.n}"

    def arrays(self) -> Arrays:
        """W, bias, A, B of each layer, x and dy; a layer takes no bias, the network no dy."""
        n, first, last = self.n, self.widths[0], self.widths[-1]
        shapes = {"x": (n, first, 1.0), "dy": (n, last, 0.1 * (n * last) ** -0.5)}
        for i, (inner, outer) in enumerate(zip(self.widths, self.widths[1:]), 1):
            shapes |= {f"w{i}": (outer, inner, inner**-0.5), f"bias{i}": (1, outer, 0.1),
                       f"a{i}": (RANK, inner, inner**-0.5), f"b{i}": (outer, RANK, 0.1)}
        random = np.random.default_rng(1)
        return {name: random.standard_normal((rows, cols), dtype=np.float32) * np.float32(deviation)
                for name, (rows, cols, deviation) in shapes.items()}


def ask(ours: Popen[str], line: str) -> str:
    assert ours.stdin and ours.stdout
    print(line, file=ours.stdin, flush=True)
    return ours.stdout.readline().strip() or sys.exit(f"compare.py: no answer to '{line}'")


def load(ours: Popen[str], case: Case, threads: int, rule: Rule, folder: Path) -> None:
    model = f"layer {case.widths[0]}" if case.is_layer else "mlp"
    ask(ours, f"{model} {case.n} {threads} {rule[0]} {rule[1]} {folder}")


class Theirs:
    """A PyTorch model under PEFT with its optimizer and batch."""

    def __init__(self, case: Case, arrays: Arrays, rule: Rule, fused: bool, compiled: bool = False):
        sides = zip(case.widths, case.widths[1:])
        layers = [nn.Linear(*side, bias=not case.is_layer) for side in sides]
        net = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
        self.adapted = [str(2 * i) for i in range(len(layers))]
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=self.adapted)
        self.peft = get_peft_model(net, config)
        self.model = torch.compile(self.peft) if compiled else self.peft
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(tensors[name].view_as(parameter))
        trained = [p for p in self.peft.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rule[0], eps=rule[1], fused=fused)
        self.x = tensors["x"].requires_grad_(case.is_layer)
        self.dy = tensors["dy"] if case.is_layer else None
        self.labels = torch.arange(case.n) % case.widths[-1]

    def parameters(self) -> dict[str, torch.Tensor]:
        """All of them by the names of Case.arrays."""
        named = {}
        for i, name in enumerate(self.adapted, 1):
            layer = self.peft.base_model.model.get_submodule(name)
            named |= {f"w{i}": layer.base_layer.weight, f"bias{i}": layer.base_layer.bias}
            named |= {f"a{i}": layer.lora_A.default.weight, f"b{i}": layer.lora_B.default.weight}
        return {name: value for name, value in named.items() if value is not None}

    def step(self) -> None:
        self.x.grad = self.output = None
        self.output = self.model(self.x)
        if self.dy is None:
            self.output = nn.functional.cross_entropy(self.output, self.labels)
        self.output.backward(self.dy)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, count: int) -> float:
        self.step()
        start = time.perf_counter()
        for _ in range(count):
            self.step()
        return (time.perf_counter() - start) / count

    def results(self) -> Arrays:
        found = {name: p for name, p in self.parameters().items() if p.requires_grad}
        found |= {"loss": self.output} if self.dy is None else {"y": self.output, "dx": self.x.grad}
        return {name: value.detach().numpy().flatten() for name, value in found.items()}


def check(case: Case, ours: Popen[str], theirs: dict[str, Theirs], folder: Path) -> float:
    """The largest relative difference, in norm, after each of three steps."""
    worst = 0.0
    for step in range(1, 4):
        ask(ours, "step")
        ask(ours, f"save {folder}")
        found = {file.name: np.fromfile(file, np.float32) for file in folder.iterdir()}
        for name, their in theirs.items():
            their.step()
            for key, value in their.results().items():
                error = float(np.linalg.norm(found[key] - value) / np.linalg.norm(value))
                if not error <= TOLERANCE:
                    sys.exit(f"compare.py: {case}, step {step}: {key} is off {name} by {error:.2g}")
                worst = max(worst, error)
    return worst


def measure(runs: dict[str, Run], pairs: int) -> dict[str, list[float]]:  # of blocks
    steps = {name: max(1, round(BLOCK / run(max(1, round(0.01 / run(1))))))
             for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()  # it is off, see main
    for pair in range(pairs):
        for name in list(runs) if pair % 2 == 0 else reversed(runs):
            time.sleep(SETTLE)
            seconds[name].append(runs[name](steps[name]))
    return seconds


def compare(case: Case, threads: int, ours: Popen[str], options: argparse.Namespace) -> dict:
    variants = EAGER | (COMPILED if options.compile else {})
    arrays = case.arrays()
    torch.set_num_threads(threads)
    torch.compiler.reset()
    folder = options.out / "exchange"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "results").mkdir(parents=True)
    for name, array in arrays.items():
        array.tofile(folder / name)
    load(ours, case, threads, CHECKED, folder)
    theirs = {name: Theirs(case, arrays, CHECKED, **how) for name, how in variants.items()}
    error = check(case, ours, theirs, folder / "results")
    load(ours, case, threads, TIMED, folder)
    shutil.rmtree(folder)
    theirs = {name: Theirs(case, arrays, TIMED, **how) for name, how in variants.items()}
    runs: dict[str, Run] = {"loraplus": lambda count: float(ask(ours, f"run {count}"))}
    seconds = measure(runs | {name: their.run for name, their in theirs.items()}, options.pairs)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    ratios = {name: dict(zip(("median", "p10", "p90"), np.percentile(
        np.divide(seconds[name], seconds["loraplus"]), (50, 10, 90)).tolist())) for name in theirs}
    best = min(EAGER, key=lambda name: medians[name])
    return {"case": str(case), "threads": threads, "difference": error, "ours": medians["loraplus"],
            "theirs": medians[best], "theirs_is": best, "ratio": ratios[best], "ratios": ratios,
            "seconds": seconds}


def environment(ours: Popen[str]) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"date": datetime.date.today().isoformat(), "cpu": cpu[1] if cpu else platform.machine(),
            "cpus": os.cpu_count(), "loraplus": ask(ours, "about"), "torch": torch.__version__,
            "peft": version("peft"), "python": platform.python_version(),
            "load": os.getloadavg()[0], "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY")}


def markdown(report: dict) -> str:
    about = report["environment"]
    extra = [name for name in COMPILED if name in report["rows"][0]["ratios"]]
    head = ["case", "threads", "loraplus, us", "PyTorch + PEFT, us", "which", "ratio", *extra]
    lines = [f"| {' | '.join(head)} |", "|---|--:|--:|--:|---|--:|" + "--:|" * len(extra)]
    for row in report["rows"]:
        times = [f"{1e6 * row[side]:.1f}" for side in ("ours", "theirs")]
        cells = [row["case"], row["threads"], *times, row["theirs_is"]]
        for ratio in [row["ratio"]] + [row["ratios"][name] for name in extra]:
            cells.append(f"{ratio['median']:.2f} ({ratio['p10']:.2f} - {ratio['p90']:.2f})")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + f"""

A LoRA training step, rank 8, float32: forward, backward, AdamW. Medians; ratio: theirs / ours
with the 10th to 90th percentile of {report['pairs']} pairs of blocks; theirs: the faster of AdamW
and AdamW(fused=True), eager. {about['date']}, {about['cpu']}, {about['cpus']} CPUs,
load {about['load']:.1f}; {about['loraplus']}; PyTorch {about['torch']}, PEFT {about['peft']}.
"""


def parse_case(text: str) -> Case:
    width, n = map(int, text.split("x")) if text != "mlp" else (0, NETWORK_SAMPLES)
    return Case((width, width) if width else NETWORK, n)


def main() -> None:
    shapes = ",".join(f"{w}x{n}" for w in (1024, 4096) for n in (1, 8, 32, 128, 512)) + ",mlp"
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--program", type=Path, required=True, help="loraplus_step")
    add("--out", type=Path, required=True, help="folder for compare.json and compare.md")
    add("--threads", default="1,2", metavar="N,...")
    add("--shapes", default=shapes, metavar="WIDTHxN,...,mlp", help=f"default: {shapes}")
    add("--pairs", type=int, default=15, help="blocks of each side (default: 15)")
    add("--compile", action="store_true", help="time torch.compile of the model too")
    options = parser.parse_args()
    if os.getloadavg()[0] > 0.5:
        print("compare.py: a busy machine: 2 threads may mean nothing", file=sys.stderr)
    gc.disable()
    ours = Popen([options.program], stdin=PIPE, stdout=PIPE, text=True)
    report: dict = {"environment": environment(ours), "pairs": options.pairs, "rows": []}
    for case in map(parse_case, options.shapes.split(",")):
        for threads in map(int, options.threads.split(",")):
            row = compare(case, threads, ours, options)
            report["rows"].append(row)
            print(f"{case}, {threads} threads: {1e6 * row['ours']:.1f} us, theirs "
                  f"{1e6 * row['theirs']:.1f} us, {row['ratio']['median']:.2f} times", flush=True)
    files = {"compare.json": json.dumps(report, indent=1), "compare.md": markdown(report)}
    for name, text in files.items():
        (options.out / f"{name}.part").write_text(text)
        (options.out / f"{name}.part").replace(options.out / name)
    print(f"\n{markdown(report)}\nin {options.out}/compare.md and compare.json")


if __name__ == "__main__":
    main()
