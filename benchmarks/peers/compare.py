#!/usr/bin/env python3
"""Times one LoRA training step of loraplus beside the same step of PyTorch with PEFT, in float32.

A layer gets a given dy and computes dx too; the network has a cross-entropy loss. PyTorch runs in
this process, loraplus in one driven through pipes. Blocks of steps of each alternate, there and
back. Before anything is timed both make three steps from the same numbers, and must agree.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

Arrays = dict[str, np.ndarray]
Variants = dict[str, dict[str, bool]]
RANK, ALPHA, NETWORK, NETWORK_SAMPLES = 8, 16, (784, 256, 256, 10), 64
EAGER: Variants = {"AdamW": {"fused": False}, "AdamW, fused": {"fused": True}}
COMPILED: Variants = {"compiled": {"fused": True, "compiled": True}}
BLOCK, SETTLE = 0.06, 0.03  # seconds: of a block of steps, and for idle threads to fall asleep
TOLERANCE = 1e-4
# Learning rate and epsilon. With the usual epsilon the first update of a coefficient is the sign of
# its gradient, which rounding decides if that is nearly zero. Timed numbers must hardly move.
CHECKED, TIMED = (1e-2, 1e-3), (1e-6, 1e-8)


@dataclass(frozen=True)
class Case:
    """A layer of width x width, or the network, with a batch of n samples."""

    widths: tuple[int, ...]
    n: int

    @property
    def is_layer(self) -> bool:
        return len(self.widths) == 2

    def __str__(self) -> str:
        return ("x" if self.is_layer else "-").join(map(str, self.widths)) + f", n = {self.n}"

    def arrays(self) -> Arrays:
        """W, A, B of each layer, the biases of the network, x, and dy for a layer."""
        random = np.random.default_rng(1)

        def normal(rows: int, cols: int, scale: float) -> np.ndarray:
            return random.standard_normal((rows, cols), dtype=np.float32) * np.float32(scale)

        made = {"x": normal(self.n, self.widths[0], 1)}
        for i, (inner, outer) in enumerate(zip(self.widths, self.widths[1:]), 1):
            made[f"w{i}"] = normal(outer, inner, inner**-0.5)
            made[f"a{i}"] = normal(RANK, inner, inner**-0.5)
            made[f"b{i}"] = normal(outer, RANK, 0.1)
            if not self.is_layer:
                made[f"bias{i}"] = normal(1, outer, 0.1)
        if self.is_layer:
            made["dy"] = normal(self.n, self.widths[-1], 0.1 * (self.n * self.widths[-1]) ** -0.5)
        return made


class Ours:
    """The program loraplus_step."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"compare.py: loraplus_step ended at '{line}'")
        return answer.strip()

    def load(self, case: Case, threads: int, rule: tuple[float, float], folder: Path) -> None:
        model = f"layer {case.widths[0]}" if case.is_layer else "mlp"
        self.ask(f"{model} {case.n} {threads} {rule[0]} {rule[1]} {folder}")

    def run(self, count: int) -> float:
        return float(self.ask(f"run {count}"))

    def results(self, folder: Path) -> Arrays:
        self.ask(f"save {folder}")
        return {file.name: np.fromfile(file, np.float32) for file in folder.iterdir()}


class Theirs:
    """A PyTorch model under PEFT with its optimizer and batch."""

    def __init__(self, case: Case, arrays: Arrays, rule: tuple[float, float], fused: bool,
                 compiled: bool = False) -> None:
        net = nn.Sequential()
        for i, (inner, outer) in enumerate(zip(case.widths, case.widths[1:]), 1):
            if i > 1:
                net.add_module(f"relu{i - 1}", nn.ReLU())
            net.add_module(f"fc{i}", nn.Linear(inner, outer, bias=not case.is_layer))
        self.adapted = [name for name, _ in net.named_children() if name.startswith("fc")]
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
        self.dy = tensors.get("dy")
        self.labels = torch.arange(case.n) % case.widths[-1]
        self.output: torch.Tensor | None = None

    def parameters(self) -> dict[str, torch.Tensor]:
        """All of them by the names of Case.arrays."""
        named = {}
        for i, name in enumerate(self.adapted, 1):
            layer = self.peft.base_model.model.get_submodule(name)
            named[f"w{i}"] = layer.base_layer.weight
            named[f"a{i}"] = layer.lora_A["default"].weight
            named[f"b{i}"] = layer.lora_B["default"].weight
            if layer.base_layer.bias is not None:
                named[f"bias{i}"] = layer.base_layer.bias
        return named

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
        assert self.output is not None
        found = {name: p for name, p in self.parameters().items() if p.requires_grad}
        found["loss" if self.dy is None else "y"] = self.output
        if self.x.grad is not None:
            found["dx"] = self.x.grad
        return {name: value.detach().numpy().flatten() for name, value in found.items()}


def check(case: Case, ours: Ours, theirs: dict[str, Theirs], folder: Path) -> float:
    """The largest relative difference, in norm, after each of three steps."""
    folder.mkdir()
    worst = 0.0
    for step in range(1, 4):
        ours.ask("step")
        found = ours.results(folder)
        for name, their in theirs.items():
            their.step()
            expected = their.results()
            if found.keys() != expected.keys():
                sys.exit(f"compare.py: results {found.keys()} and {expected.keys()}")
            for key, value in expected.items():
                error = float(np.linalg.norm(found[key] - value) / np.linalg.norm(value))
                if not error <= TOLERANCE:
                    sys.exit(f"compare.py: {case}, step {step}: {key} differs by {error:.2g} from "
                             f"PyTorch ({name})")
                worst = max(worst, error)
    return worst


def measure(runs: dict[str, Callable[[int], float]], pairs: int) -> dict[str, list[float]]:
    """The seconds a step of each block, for each side."""
    steps = {name: max(1, round(BLOCK / run(max(1, round(0.01 / run(1))))))
             for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    for pair in range(pairs):
        for name in list(runs) if pair % 2 == 0 else reversed(runs):
            time.sleep(SETTLE)
            seconds[name].append(runs[name](steps[name]))
    gc.enable()
    return seconds


def compare(case: Case, threads: int, ours: Ours, options: argparse.Namespace) -> dict:
    variants = EAGER | (COMPILED if options.compile else {})
    arrays = case.arrays()

    def make_theirs(rule: tuple[float, float]) -> dict[str, Theirs]:
        return {name: Theirs(case, arrays, rule, **options) for name, options in variants.items()}

    torch.set_num_threads(threads)
    torch.compiler.reset()
    with TemporaryDirectory(prefix="exchange", dir=options.out) as made:
        folder = Path(made)
        for name, array in arrays.items():
            array.tofile(folder / name)
        ours.load(case, threads, CHECKED, folder)
        error = check(case, ours, make_theirs(CHECKED), folder / "results")
        ours.load(case, threads, TIMED, folder)
    theirs = make_theirs(TIMED)
    seconds = measure({"loraplus": ours.run} | {n: t.run for n, t in theirs.items()}, options.pairs)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    ratios = {name: dict(zip(("median", "p10", "p90"), np.percentile(
        np.divide(seconds[name], seconds["loraplus"]), (50, 10, 90)).tolist())) for name in theirs}
    best = min(EAGER, key=lambda name: medians[name])
    return {"case": str(case), "threads": threads, "difference": error, "ours": medians["loraplus"],
            "theirs": medians[best], "theirs_is": best, "ratio": ratios[best],
            "medians": medians, "ratios": ratios, "seconds": seconds}


def environment(ours: Ours) -> dict[str, str | int | None]:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return {"date": datetime.date.today().isoformat(), "cpu": (names or [platform.machine()])[0],
            "cpus": os.cpu_count(), "loraplus": ours.ask("about"), "torch": torch.__version__,
            "peft": version("peft"), "python": platform.python_version(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY")}


def markdown(report: dict) -> str:
    about = report["environment"]
    extra = [name for name in COMPILED if name in report["rows"][0]["ratios"]]
    head = ["case", "threads", "loraplus, us", "PyTorch + PEFT, us", "which", "ratio"]
    lines = [f"| {' | '.join(head + extra)} |", f"|---|--:|--:|--:|---|--:|{'--:|' * len(extra)}"]
    for row in report["rows"]:
        cells = [row["case"], row["threads"], f"{1e6 * row['ours']:.1f}",
                 f"{1e6 * row['theirs']:.1f}", row["theirs_is"]]
        for ratio in [row["ratio"]] + [row["ratios"][name] for name in extra]:
            cells.append(f"{ratio['median']:.2f} ({ratio['p10']:.2f} - {ratio['p90']:.2f})")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + f"""

A LoRA training step, rank 8, float32: forward, backward, AdamW. Medians; the ratio is theirs / ours,
with the 10th to 90th percentile of {report['pairs']} pairs of blocks. Theirs is the faster of AdamW
and AdamW(fused=True), in eager mode.

{about['date']}, {about['cpu']}, {about['cpus']} CPUs; {about['loraplus']}; PyTorch {about['torch']},
PEFT {about['peft']}, Python {about['python']}.
"""


def write(file: Path, text: str) -> None:
    beside = file.with_name(file.name + ".part")
    beside.write_text(text)
    os.replace(beside, file)


def parse_case(text: str) -> Case:
    if text == "mlp":
        return Case(NETWORK, NETWORK_SAMPLES)
    width, n = map(int, text.split("x"))
    return Case((width, width), n)


def main() -> None:
    shapes = ",".join(f"{w}x{n}" for w in (1024, 4096) for n in (1, 8, 32, 128, 512)) + ",mlp"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--program", type=Path, required=True, help="loraplus_step")
    add("--out", type=Path, required=True, help="folder for compare.json and compare.md")
    add("--threads", type=lambda t: list(map(int, t.split(","))), default="1,2", metavar="N,...")
    add("--shapes", type=lambda t: list(map(parse_case, t.split(","))), default=shapes, metavar="WIDTHxN,...,mlp",
        help=f"a layer of WIDTH x WIDTH with N samples, or the network (default: {shapes})")
    add("--pairs", type=int, default=15, help="blocks of each side (default: 15)")
    add("--compile", action="store_true", help="time torch.compile of the model too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ours = Ours(options.program)
    report: dict = {"environment": environment(ours), "pairs": options.pairs, "rows": []}
    for case in options.shapes:
        for threads in options.threads:
            row = compare(case, threads, ours, options)
            report["rows"].append(row)
            print(f"{case}, {threads} threads: {1e6 * row['ours']:.1f} us, theirs "
                  f"{1e6 * row['theirs']:.1f} us, {row['ratio']['median']:.2f} times", flush=True)
    write(options.out / "compare.json", json.dumps(report, indent=1) + "\n")
    write(options.out / "compare.md", markdown(report))
    print(f"\n{markdown(report)}\nin {options.out}/compare.md and compare.json")


if __name__ == "__main__":
    main()
