"""Adapters go from PyTorch with PEFT to loraplus and back; see run.sh.

For each case a random network is saved by PyTorch, and an adapter with random factors by PEFT. The
C++ program loads both and must compute the same outputs (1e-5), train with the same losses for 20
steps (1e-4), and save an adapter that PEFT loads without a warning, that computes the same outputs, and
that PyTorch trains on with the losses of a run that was never interrupted. Without an adapter from
PEFT the C++ program makes one.

The example personalise then learns from two tables, and its predict.py must print the same predictions
of its adapters (1e-5). What docs/python.md shows of Python is run as it stands.
"""

import argparse
import contextlib
import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import torch
from family import run_family
from initial import run_initial
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "personalise"
STEPS = 20
RATE = 1e-2
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


class Named(nn.Module):
    """Three linear layers with names of their own."""

    def __init__(self, widths, activation, first_bias=True):
        super().__init__()
        self.fc1 = nn.Linear(widths[0], widths[1], bias=first_bias)
        self.fc2 = nn.Linear(widths[1], widths[2])
        self.fc10 = nn.Linear(widths[2], widths[3])
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x):
        return self.fc10(self.activation(self.fc2(self.activation(self.fc1(x)))))


class Nested(nn.Module):
    """A Sequential within a module: net.0, net.2, net.4."""

    def __init__(self, widths, activation):
        super().__init__()
        layers = []
        for i in range(3):
            layers += [nn.Linear(widths[i], widths[i + 1]), ACTIVATIONS[activation]()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.net(x)


def half_biased(widths, activation):
    """Named, whose first layer has no bias."""
    return Named(widths, activation, first_bias=False)


def numbered(widths, activation):
    """A Sequential whose linear layers are 0, 2 and 10: the first one's name ends the last one's."""
    layers = [nn.Identity() for _ in range(11)]
    for i, place in enumerate((0, 2, 10)):
        layers[place] = nn.Linear(widths[i], widths[i + 1])
    layers[1], layers[3] = ACTIVATIONS[activation](), ACTIVATIONS[activation]()
    return nn.Sequential(*layers)


class Headed(nn.Module):
    """Layers of which one name ends the other."""

    def __init__(self, widths, activation):
        super().__init__()
        self.fc = nn.Linear(widths[0], widths[1])
        self.head = nn.Linear(widths[1], widths[2])
        self.subhead = nn.Linear(widths[2], widths[3])
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x):
        return self.subhead(self.activation(self.head(self.activation(self.fc(x)))))


class Twins(nn.Module):
    """Layers of which one name is another's end after a dot: fc, net.0, net.fc."""

    def __init__(self, widths, activation):
        super().__init__()
        self.fc = nn.Linear(widths[0], widths[1])
        self.activation = ACTIVATIONS[activation]()
        self.net = nn.Sequential()
        self.net.add_module("0", nn.Linear(widths[1], widths[2]))
        self.net.add_module("1", ACTIVATIONS[activation]())
        self.net.add_module("fc", nn.Linear(widths[2], widths[3]))

    def forward(self, x):
        return self.net(self.activation(self.fc(x)))


# name: (kind, activation, widths, arguments of LoraConfig, dtype of the saved base)
CASES = {
    "plain": (Named, "relu", (7, 16, 12, 3), dict(r=4, lora_alpha=8, target_modules=["fc1", "fc2"]), None),
    "sequential": (Nested, "tanh", (5, 9, 9, 2), dict(r=1, lora_alpha=3, target_modules=r"net\.[024]"), None),
    "rslora": (Named, "gelu", (6, 11, 8, 4), dict(r=9, lora_alpha=4, use_rslora=True, target_modules=["fc2", "fc10"]), None),
    "bias": (Named, "silu", (6, 10, 10, 3), dict(r=3, lora_alpha=6, bias="lora_only", target_modules=["fc1", "fc10"]), None),
    "all_biases": (Named, "relu", (6, 10, 10, 3), dict(r=3, lora_alpha=6, bias="all", target_modules=["fc2"]), None),
    "head": (Named, "tanh", (6, 10, 10, 3), dict(r=2, lora_alpha=2, target_modules=["fc1", "fc2"], modules_to_save=["fc10"]), None),
    "patterns": (Named, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules=["fc1", "fc2", "fc10"],
                 rank_pattern={"^fc2": 5}, alpha_pattern={"fc10": 1}), None),
    "excluded": (Nested, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules=["0", "2", "4"], exclude_modules=["2"]), None),
    "suffix": (numbered, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules=["2"], modules_to_save=["0"]), None),
    "subhead": (Headed, "tanh", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules=["fc"], modules_to_save=["head"],
                bias="all"), None),
    "all_linear": (Named, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules="all-linear"), None),
    "All_Linear": (Named, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules="All-Linear",
                   modules_to_save=["fc10"], exclude_modules=["fc2"]), None),
    "head_biases": (Named, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, bias="all", target_modules=["fc1"],
                    modules_to_save=["fc10"]), None),
    "net_biases": (Twins, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, bias="all", target_modules=["fc"],
                   modules_to_save=["net"]), None),
    "mixed_bias": (half_biased, "silu", (6, 10, 10, 3), dict(r=7, lora_alpha=22.5, bias="all", target_modules=["fc1"]), None),
    "ambiguous": (Twins, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, target_modules="fc|net.0"), None),
    "config": (Named, "relu", (6, 10, 10, 3), dict(r=2, lora_alpha=4, use_rslora=True, target_modules=r"fc\d", exclude_modules=["fc2"],
               init_lora_weights="gaussian", rank_pattern={"fc1": 5}), None),
    "dora": (Named, "relu", (7, 16, 12, 3), dict(r=4, lora_alpha=8, use_dora=True, target_modules=["fc1", "fc2"]), None),
    "dora_rslora": (Nested, "tanh", (5, 9, 9, 2), dict(r=3, lora_alpha=3, use_dora=True, use_rslora=True, bias="lora_only",
                    target_modules=r"net\.[04]"), None),
    "lora_bias": (Named, "gelu", (6, 11, 8, 4), dict(r=2, lora_alpha=4, lora_bias=True, target_modules=["fc1", "fc10"]), None),
    "half": (Named, "relu", (7, 16, 12, 3), dict(r=4, lora_alpha=8, target_modules=["fc1", "fc2"]), torch.float16),
    "bfloat": (Named, "relu", (7, 16, 12, 3), dict(r=4, lora_alpha=8, target_modules=["fc1", "fc2"]), torch.bfloat16),
}


def randomize_factors(model):
    """B = 0 would hide much."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def train(model, x, y):
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.01)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def targets_of(base, lora):
    """The names that an adapter is on, for what makes one without PEFT."""
    targets = lora["target_modules"]
    return [name for name, module in base.named_modules() if isinstance(module, nn.Linear)
            and (re.fullmatch(targets, name) if isinstance(targets, str) else name in targets)]


def set_target_modules(folder, targets):
    """PEFT saves names instead of "all-linear", other programs need not."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target_modules": targets}, indent=2, sort_keys=True))


def changed_keys(model, folder):
    """How many keys of PEFT's configuration C++ did not keep."""
    before = model.peft_config["default"].to_dict()
    after = json.loads((folder / "adapter_config.json").read_text())

    def comparable(value):
        return sorted(value) if isinstance(value, (list, set)) else value

    kept = ("base_model_name_or_path", "task_type", "init_lora_weights", "use_rslora", "fan_in_fan_out", "r", "lora_alpha",
            "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save")
    return sum(comparable(before[key]) != comparable(after[key]) for key in kept)


def distance(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


def load_adapter(base, folder):
    """PEFT's, where a warning is an error, to be trained on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return PeftModel.from_pretrained(copy.deepcopy(base), folder, is_trainable=True)


class Failures:
    def __init__(self):
        self.count = 0

    def check(self, case, what, found, limit):
        good = found <= limit
        self.count += not good
        print(f"{case:12} {what:44} {found:9.2e} {'ok' if good else f'ABOVE {limit:g}'}")


def run_case(name, folder, program, failures, with_adapter):
    kind, activation, widths, lora, dtype = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    base = kind(widths, activation)
    if dtype is not None:
        base = base.to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in base.state_dict().items()}, folder / "base.safetensors")
    base = base.float()
    x, y = torch.randn(24, widths[0]), torch.randn(24, widths[-1])
    save_file({"x": x, "y": y}, folder / "data.safetensors")
    described = {"rank": lora["r"], "alpha": lora["lora_alpha"], "bias": lora.get("bias", "none"),
                 "rslora": lora.get("use_rslora", False),
                 "targets": [], "train": lora.get("modules_to_save", [])}
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**lora))
    if with_adapter:
        randomize_factors(model)
        model.save_pretrained(folder / "adapter")
        if str(lora["target_modules"]).lower() == "all-linear":
            set_target_modules(folder / "adapter", lora["target_modules"])
    else:
        described["targets"] = targets_of(base, lora)
    (folder / "case.json").write_text(json.dumps(
        {"activation": activation, "steps": STEPS, "learning_rate": RATE, "lora": described}))

    subprocess.run([program, folder], check=True)
    result = load_file(folder / "result.safetensors")
    trained = load_adapter(base, folder / "trained")
    label = name if with_adapter else name + "*"
    failures.check(label, "outputs of the trained adapter in PEFT", distance(trained(x), result["after"]), 1e-5)
    if with_adapter:
        failures.check(label, "keys of the configuration not kept", changed_keys(model, folder / "trained"), 0)
        failures.check(label, "outputs of PEFT's adapter in C++", distance(result["before"], model(x)), 1e-5)
        failures.check(label, "losses of 20 steps in C++", distance(result["losses"], train(model, x, y)), 1e-4)
        failures.check(label, "both trained adapters", distance(result["after"], model(x)), 1e-4)
        # on from here, each in its own system
        again = folder / "again"
        again.mkdir(exist_ok=True)
        for file in ("base.safetensors", "data.safetensors", "case.json"):
            (again / file).write_bytes((folder / file).read_bytes())
        trained.save_pretrained(again / "adapter")
        subprocess.run([program, again], check=True)
        failures.check(label, "losses of 20 more, C++ and PyTorch",
                       distance(load_file(again / "result.safetensors")["losses"], train(trained, x, y)), 1e-4)


def run_page(folder, program, failures):
    """The blocks of docs/python.md, letter by letter, and between them an adapter that is made and trained in C++."""
    save_model, load_model = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    torch.manual_seed(4)
    names = {"model": Named((6, 10, 10, 3), "relu")}
    x, y = torch.randn(24, 6), torch.randn(24, 3)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        exec(save_model, names)
        pathlib.Path("model.safetensors").rename("base.safetensors")
        save_file({"x": x, "y": y}, "data.safetensors")
        lora = {"rank": 4, "alpha": 8, "bias": "none", "rslora": False, "targets": [], "train": []}
        pathlib.Path("case.json").write_text(json.dumps(
            {"activation": "relu", "steps": STEPS, "learning_rate": RATE, "lora": lora}))
        subprocess.run([program, "."], check=True)
        pathlib.Path("trained").rename("adapter")
        exec(load_model, names)
        failures.check("docs", "outputs of the page's model in PEFT",
                       distance(names["model"](x), load_file("result.safetensors")["after"]), 1e-5)


def write_golden(name, folder, golden):
    """What the C++ tests read: the case as PEFT made it, and what PyTorch computes of it."""
    kind, activation, widths, lora, _ = CASES[name]
    base = kind(widths, activation)
    base.load_state_dict(load_file(folder / "base.safetensors"))
    data = load_file(folder / "data.safetensors")
    model = load_adapter(base, folder / "adapter")
    before = model(data["x"]).detach()
    losses = train(model, data["x"], data["y"])
    golden.mkdir(parents=True, exist_ok=True)
    save_file({"before": before, "losses": losses, "after": model(data["x"]).detach()},
              golden / "expected.safetensors")
    for file in ("base.safetensors", "data.safetensors", "case.json", "adapter/adapter_config.json",
                 "adapter/adapter_model.safetensors"):
        (golden / file).parent.mkdir(exist_ok=True)
        (golden / file).write_bytes((folder / file).read_bytes())


def make_classes(folder):
    """A network with three classes, and a table as a user may have one: a byte order mark, signs, gaps."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(Nested((3, 8, 8, 3), "gelu").state_dict(), folder / "model.safetensors")
    rows = [[f"{i % 3}", "" if i % 7 == 0 else f"{a:+.3f}", f"{b:.3f}", "NA" if i % 11 == 0 else f"{c:.3f}"]
            for i, (a, b, c) in enumerate(torch.randn(60, 3).tolist())]
    rows[1][0] = ""  # a row without a target
    (folder / "rows.csv").write_text("\n".join(map(",".join, [["kind", "a", "b", "c"], *rows])) + "\n",
                                     encoding="utf-8-sig")


def predictions(text):
    return torch.tensor([[float(value) for value in line.split()] for line in text.splitlines()])


def run_personalise(label, data, folder, program, failures, *options):
    files = [data / "model.safetensors", data / "rows.csv"]
    adapter = folder / "adapter"
    learned = subprocess.run([program, *files, "--out", adapter, "--steps", "50", *options],
                             check=True, capture_output=True, text=True).stdout
    script = EXAMPLE / "predict.py"
    shown = subprocess.run([sys.executable, "-W", "error", script, *files, adapter, *options],
                           check=True, capture_output=True, text=True).stdout
    failures.check(label, "predictions of predict.py",
                   distance(predictions(learned.split("predicted as\n")[1]), predictions(shown)), 1e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--family", required=True, type=pathlib.Path, help="the C++ side of family.py, initial.py")
    parser.add_argument("--personalise", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--golden", type=pathlib.Path, help="write the golden files of the C++ tests here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failures = Failures()
    for name in CASES:
        run_case(name, options.out / name, options.program.resolve(), failures, True)
    for name in ("plain", "rslora", "bias", "all_biases", "head", "suffix", "subhead", "head_biases", "mixed_bias", "ambiguous"):
        run_case(name, options.out / (name + "-made"), options.program.resolve(), failures, False)
    run_page(options.out / "page", options.program.resolve(), failures)
    run_family(options.out, options.family.resolve(), failures, distance)
    run_initial(options.out, options.family.resolve(), failures, distance)
    personalise = options.personalise.resolve()
    run_personalise("personalise", EXAMPLE / "data", options.out / "rows", personalise, failures)
    make_classes(options.out / "classes")
    run_personalise("personalise", options.out / "classes", options.out / "classes", personalise, failures,
                    "--target", "kind", "--activation", "gelu")
    for name in ("plain", "sequential", "bias", "all_biases", "head", "patterns", "suffix") if options.golden else ():
        write_golden(name, options.out / name, options.golden / name)
    print(f"{failures.count} failures" if failures.count else "PEFT and loraplus agree")
    sys.exit(1 if failures.count else 0)


if __name__ == "__main__":
    main()
