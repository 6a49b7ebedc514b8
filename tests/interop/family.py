"""What PEFT's LoRA computes beside linear layers of an Mlp, compared with loraplus; see run.sh.

Layers (embeddings, convolutions in one and two dimensions, linear ones), with DoRA, rank-stabilised scaling,
biases of B and ranks of their own: PEFT saves a random adapter, the C++ program loads it and must compute the
same outputs and gradients (1e-5), and the same outputs merged; what it saves again must compute the same in PEFT,
loaded without a warning. Two adapters at once, and batches with an adapter for each sample are compared on a layer of
each kind. Combinations of adapters are compared as products B A.
"""

import copy
import itertools
import json
import re
import subprocess
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

LIMIT = 1e-5


class Zoo(nn.Module):
    """A layer of each kind; they are used one by one."""

    def __init__(self, groups):
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=2)
        self.fc = nn.Linear(7, 5)
        self.plain = nn.Linear(9, 4, bias=False)
        self.conv1 = nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2)
        self.conv2 = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=groups)
        self.mirror = nn.Conv2d(2, 4, 3, padding=2, padding_mode="circular", bias=False)

    def forward(self, x):
        return x


class Trio(nn.Module):
    """Layers with several adapters."""

    def __init__(self, groups):
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=2)
        self.fc = nn.Linear(7, 5)
        self.conv = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=groups)

    def forward(self, x):
        return x


INPUTS = {"embed": (8,), "fc": (8, 7), "plain": (8, 9), "conv1": (5, 3, 12), "conv2": (3, 4, 5, 6), "mirror": (3, 2, 5, 4)}
NAMES = list(INPUTS)
CASES = {
    "zoo": (2, dict(r=4, lora_alpha=6)),
    "zoo_rslora": (1, dict(r=4, lora_alpha=6, use_rslora=True)),
    "zoo_dora": (1, dict(r=4, lora_alpha=6, use_dora=True)),
    "zoo_ranks": (1, dict(r=2, lora_alpha=3, rank_pattern={"embed": 9, "conv2": 16}, alpha_pattern={"fc": 11, "conv2": 13})),
    "zoo_dora_ranks": (1, dict(r=2, lora_alpha=3, use_dora=True, rank_pattern={"conv1": 5, "fc": 8})),
    "zoo_bias": (2, dict(r=4, lora_alpha=6, bias="lora_only")),
}
LORA_BIAS = ["fc", "conv1", "conv2"]  # PEFT's embeddings have none, and it merges none where there is no bias


def spec(name, module, x):
    if isinstance(module, nn.Embedding):
        return {"name": name, "kind": "embedding", "padding": module.padding_idx}
    if isinstance(module, nn.Linear):
        return {"name": name, "kind": "linear"}
    return {"name": name, "kind": "conv", "dimensions": len(module.kernel_size), "channels": module.in_channels,
            "size": list(x.shape[2:]), "kernel": list(module.kernel_size), "stride": list(module.stride),
            "padding": list(module.padding), "dilation": list(module.dilation), "groups": module.groups,
            "padding_mode": module.padding_mode}


def mend(model):
    """PEFT 0.21 gives the convolution A neither the dilation nor the padding mode of the base."""
    for module in model.modules():
        if hasattr(module, "lora_A") and isinstance(module.base_layer, (nn.Conv1d, nn.Conv2d)):
            for a in module.lora_A.values():
                a.dilation, a.padding_mode = module.base_layer.dilation, module.base_layer.padding_mode
    return model.eval()


def randomize(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3 + (1 if "magnitude" in name else 0))
            elif parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))


def prepare(folder, settings, base, data):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in base.items()}, folder / "base.safetensors")
    save_file({k: v.float().contiguous() for k, v in data.items()}, folder / "data.safetensors")
    settings = {"modules": [], "sets": {}, "combine": [], "initialize": [], "lora_ga": [], "eva": [],
                "convert": []} | settings
    (folder / "family.json").write_text(json.dumps(settings))


def outputs(model, data):
    found = {}
    with torch.no_grad():
        for name, x in data.items():
            y = model.base_model.model.get_submodule(name)(x)
            found[name] = y.reshape(y.shape[0], -1)
    return found


def gradients_of(layer):
    """Those of the trained parameters, named as in C++, where the adapter comes first and "default" has no name."""
    found = {}
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            name = re.sub(r"^(lora_\w+)\.(\w+)", r"\2.\1", name).removesuffix(".weight")
            found[name.removeprefix("default.").removeprefix("base_layer.")] = parameter.grad
    return found


def passed(name, layer, x, given):
    """What a pass there and back yields; the gradient of the outputs that it begins with goes to `given`."""
    x = x.clone().requires_grad_(x.is_floating_point())
    y = layer(x)
    dy = torch.randn_like(y)
    given[name + ".dy"] = dy.flatten(1)
    (y * dy).sum().backward()
    found = gradients_of(layer) | {"y": y.detach()} | ({"dx": x.grad} if x.requires_grad else {})
    return {f"{name}.{key}": value for key, value in found.items()}


def apart(result, name, expected, distance):
    """How far a result is from PEFT's; C++ has blocks of outputs, those of groups, one by one."""
    blocks = [result[key] for key in sorted(result) if re.fullmatch(re.escape(name) + r"(\.\d)?", key)]
    return distance(torch.cat(blocks).flatten(), expected.flatten())


def run_zoo(case, folder, program, failures, distance):
    groups, lora = CASES.get(case, (1, dict(r=3, lora_alpha=5, lora_bias=True)))
    names = LORA_BIAS if case == "zoo_lora_bias" else NAMES
    torch.manual_seed(sum(map(ord, case)))
    base = Zoo(groups)
    data = {n: torch.randint(11, INPUTS[n]) if n == "embed" else torch.randn(INPUTS[n]) for n in names}
    if "embed" in data:
        data["embed"][:2] = base.embed.padding_idx
    model = mend(get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=names, **lora)))
    randomize(model)
    model.save_pretrained(folder / "adapter")
    given, expected = dict(data), {}
    for name, x in data.items():
        expected |= passed(name, model.base_model.model.get_submodule(name), x, given)
    prepare(folder, {"modules": [spec(n, base.get_submodule(n), data[n]) for n in names]}, base.state_dict(), given)
    subprocess.run([program, folder], check=True)
    result = load_file(folder / "result.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*groups > 1.*")  # whatever is loaded
        again = mend(PeftModel.from_pretrained(copy.deepcopy(base), folder / "saved"))
    saved = outputs(again, data)
    for name in names:
        y = expected.pop(name + ".y").flatten(1)
        failures.check(case, f"{name}: PEFT's adapter in C++", distance(result[name + ".y"], y), LIMIT)
        failures.check(case, f"{name}: the same, merged", distance(result[name + ".merged"], y), LIMIT)
        failures.check(case, f"{name}: the saved adapter in PEFT", distance(saved[name], y), LIMIT)
    for name, gradient in expected.items():
        failures.check(case, "gradient " + name, apart(result, name, gradient, distance), LIMIT)


def factors_of(layer, adapter):
    if isinstance(layer.base_layer, nn.Embedding):
        return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def run_sets(groups, folder, program, failures, distance):
    case = folder.name
    torch.manual_seed(5 + groups)
    base = Trio(groups)
    data = {"embed": torch.tensor([2, 7, 0, 2, 10, 7]), "fc": torch.randn(9, 7), "conv": torch.randn(5, 4, 5, 6)}
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, lora_alpha=6, target_modules=list(data)), "first")
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=5, target_modules=list(data)))
    model = mend(model)
    randomize(model)
    model.save_pretrained(folder / "adapter", selected_adapters=["first", "second"])
    active = ["second", "first"]
    model.base_model.set_adapter(active)
    samples = {name: (["second", "__base__", "first", "first"] * 3)[:len(x)] for name, x in data.items()}
    expected, given = {}, dict(data)
    for name, x in data.items():
        layer = model.base_model.model.get_submodule(name)
        expected |= passed(name, layer, x, given)
        with torch.no_grad():
            expected[name + ".mixed"] = layer(x, adapter_names=samples[name])
    specs = [spec(name, base.get_submodule(name), x) for name, x in data.items()]
    settings = {"modules": specs, "active": active, "samples": samples}
    prepare(folder, {"sets": settings}, base.state_dict(), given)
    subprocess.run([program, folder], check=True)
    result = load_file(folder / "result.safetensors")
    for name, value in expected.items():
        failures.check(case, name, apart(result, name, value, distance), LIMIT)


COMBINED = {"two": (["first", "second"], [0.7, -0.4]), "three": (["first", "second", "third"], [-0.9, 1.2, -0.5]),
            "ranks": (["first", "small"], [-1.1, 0.6])}
TYPES = [("linear", 1.0, "total"), ("cat", 1.0, "total"), ("svd", 1.0, "total"), ("ties", 0.5, "total"),
         ("ties", 0.7, "frequency"), ("magnitude_prune", 0.4, "total"), ("ties_svd", 0.5, "total"),
         ("magnitude_prune_svd", 0.6, "total"), ("dare_linear", 1.0, "total"), ("dare_ties", 1.0, "total"),
         ("dare_linear_svd", 1.0, "total"), ("dare_ties_svd", 1.0, "frequency")]


def compute(folder, program, kind, cases, data):
    """What C++ makes of cases that have no network."""
    prepare(folder, {kind: cases}, {"none": torch.zeros(1)}, data)
    subprocess.run([program, folder], check=True)
    return load_file(folder / "result.safetensors")


def combine(model, layers):
    """Adds all combinations to the model. What C++ needs to make them of the layers, and the products B A."""
    cases, expected = [], {}
    for (group, (adapters, weights)), (kind, density, majority) in itertools.product(COMBINED.items(), TYPES):
        if group == "ranks" and kind != "cat" and not kind.endswith("svd"):
            continue  # they combine A with A, and B with B
        combined = f"{kind}_{round(10 * density)}_{majority}_{group}"
        options = {} if kind in ("linear", "cat", "svd") else {"density": density, "majority_sign_method": majority}
        model.add_weighted_adapter(adapters, weights, combined, combination_type=kind, **options)
        for name, layer in layers.items():
            cases.append({"name": f"{name} {combined}", "type": kind, "density": density, "majority": majority,
                          "weights": weights, "adapters": [f"{name}.{adapter}" for adapter in adapters],
                          "scalings": [layer.scaling[adapter] for adapter in adapters]})
            a, b = factors_of(layer, combined)
            expected[f"{name} {combined}"] = (b.flatten(1) @ a.flatten(1)).detach()
    return cases, expected


def run_combinations(folder, program, failures, distance):
    torch.manual_seed(3)
    names = ["embed", "fc", "conv"]
    model = get_peft_model(Trio(1), LoraConfig(r=4, lora_alpha=6, target_modules=names), "first")
    for adapter, rank, alpha in (("second", 4, 10), ("third", 4, 3), ("small", 2, 5)):
        model.add_adapter(adapter, LoraConfig(r=rank, lora_alpha=alpha, target_modules=names))
    randomize(model)
    layers, data = {name: model.base_model.model.get_submodule(name) for name in names}, {}
    for (name, layer), adapter in itertools.product(layers.items(), ("first", "second", "third", "small")):
        a, b = factors_of(layer, adapter)
        data[f"{name}.{adapter}.a"], data[f"{name}.{adapter}.b"] = a.detach(), b.detach()
    cases, expected = combine(model, layers)
    result = compute(folder, program, "combine", cases, data)
    for name, delta in expected.items():
        failures.check("combine", name, distance(result[name], delta), LIMIT)


def run_family(out, program, failures, distance):
    for case in (*CASES, "zoo_lora_bias"):
        run_zoo(case, out / case, program, failures, distance)
    for groups in (1, 2):
        run_sets(groups, out / f"sets_{groups}", program, failures, distance)
    run_combinations(out / "combine", program, failures, distance)
