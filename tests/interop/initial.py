"""The initialisations of PEFT that follow from the weight or from data, compared with loraplus; see run.sh.

PiSSA, OLoRA and CorDA are compared as products B A and as the weights that are frozen beside them; LoRA-GA and EVA,
of which PEFT only approximates the decompositions, on data of which its approximation is exact in float; the conversion
of what changes the weight to a plain adapter as the product B A.
"""

import copy
import dataclasses
import importlib.util
import itertools
import sys
import types

import torch
from family import LIMIT, compute, factors_of, randomize
from peft import EvaConfig, LoraConfig, LoraGAConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn

if importlib.util.find_spec("attr") is None:  # PEFT's corda asks attrs for its dataclass, and does not install it
    sys.modules["attr"] = types.ModuleType("attr")
    sys.modules["attr"].dataclass = dataclasses.dataclass
from peft.tuners.lora.corda import preprocess_corda  # noqa: E402


def initial_config(kind, rank, **options):
    """An adapter that begins as `kind` says: init_lora_weights, for CorDA with its method behind it."""
    if kind.startswith("corda"):
        options["corda_config"] = CordaConfig(corda_method=kind[-3:])
    if kind == "lora_ga":
        options.setdefault("lora_ga_config", LoraGAConfig())
    return LoraConfig(r=rank, lora_alpha=5, init_lora_weights=kind.removesuffix("_ipm").removesuffix("_kpm"),
                      target_modules=["0"], **options)


def begin(base, config, batches):
    """Gives the base such an adapter. batches: inputs, and gradients of the outputs."""
    if config.corda_config:
        preprocess_corda(base, config, run_model=lambda: [base(x) for x, _ in batches])
    if config.lora_ga_config:
        preprocess_loraga(base, config, lambda: [(base(x) * dy).sum().backward() for x, dy in batches])
    model = get_peft_model(base, config)
    return model, model.base_model.model[0]


def run_initializations(folder, program, failures, distance):
    torch.manual_seed(4)
    cases, data, expected = [], {}, {}
    for kind in ("pissa", "olora", "corda_ipm", "corda_kpm"):
        for out, inner, rank in ((10, 14, 3), (14, 10, 4)):
            name = f"{kind}_{out}_{inner}"
            base = nn.Sequential(nn.Linear(inner, out))
            data[name + ".w"] = base[0].weight.detach().clone()
            data[name + ".x"] = torch.randn(40, inner)
            _, layer = begin(base, initial_config(kind, rank), [(data[name + ".x"], None)])
            expected[name + ".delta"] = layer.get_delta_weight("default").detach()
            expected[name + ".base"] = layer.base_layer.weight.detach()
            cases.append({"name": name, "kind": kind, "rank": rank, "scaling": 5 / rank})
    result = compute(folder, program, "initialize", cases, data)
    for name, value in expected.items():
        failures.check("initialize", name, distance(result[name], value), LIMIT)


def gradient_batches(out, inner):
    """Two batches of inputs and gradients of the outputs that give W a gradient whose singular values are 0.6^i.

    PEFT decomposes the gradient by svd_lowrank with q = 4 r random directions and 4 iterations. Of component k that
    leaves an error of about (s_(q + 1) / s_k)^9: with k up to 2 r, and r = 2, 0.6^45 = 1e-10, less than it rounds
    away. For r = 3 of 10 x 14 the directions are all there are.
    """
    u, v = (torch.linalg.qr(torch.randn(side, min(out, inner))).Q for side in (out, inner))
    dy = (u * 2 * 0.6 ** torch.arange(min(out, inner))).T
    return list(zip(v.T.chunk(2), dy.chunk(2)))


def with_signs(found, expected, dim):
    """The components with the signs that PEFT's have: a decomposition leaves them open, each for itself."""
    return found * (found * expected).sum(dim, keepdim=True).sign()


def check_lora_ga(name, layer, a, b, base, failures, distance):
    their_a, their_b = (factor.detach() for factor in factors_of(layer, "default"))
    signed_a, signed_b = with_signs(a, their_a, 1), with_signs(b, their_b, 0)
    base += layer.scaling["default"] * (b @ a - signed_b @ signed_a)
    failures.check("lora_ga", name + ".a", distance(signed_a, their_a), LIMIT)
    failures.check("lora_ga", name + ".b", distance(signed_b, their_b), LIMIT)
    failures.check("lora_ga", name + ".base", distance(base, layer.base_layer.weight.detach()), LIMIT)


def run_lora_ga(folder, program, failures, distance):
    torch.manual_seed(7)
    cases, data, layers = [], {}, {}
    for direction, scale, (out, inner, rank) in itertools.product(
            ("ArB2r", "A2rBr", "ArBr"), ("stable", "weight_svd", "gd_scale", "unit"), ((10, 14, 3), (24, 20, 2))):
        name = f"{direction}_{scale}_{out}_{inner}"
        base, batches = nn.Sequential(nn.Linear(inner, out)), gradient_batches(out, inner)
        # of rank r: PEFT's weight_svd looks for the largest singular value in r random directions
        base[0].weight.data = data[name + ".w"] = torch.randn(out, rank) @ torch.randn(rank, inner) / inner
        for i, (x, dy) in enumerate(batches):
            data[f"{name}.x.{i}"], data[f"{name}.dy.{i}"] = x, dy
        config = initial_config("lora_ga", rank, lora_ga_config=LoraGAConfig(direction=direction, scale=scale))
        _, layers[name] = begin(base, config, batches)
        cases.append({"name": name, "direction": direction, "scale": scale, "rank": rank, "scaling": 5 / rank,
                      "batches": len(batches)})
    result = compute(folder, program, "lora_ga", cases, data)
    for name, layer in layers.items():
        check_lora_ga(name, layer, *(result[f"{name}.{part}"] for part in ("a", "b", "base")), failures, distance)


def inputs_of_layer(samples, inner, directions, decay):
    """Inputs with a mean, whose spread falls by `decay` from one of the directions in which they vary to the next."""
    basis = torch.linalg.qr(torch.randn(inner, directions)).Q.T
    return (torch.randn(samples, directions) * decay ** torch.arange(directions) + 0.5) @ basis


# PEFT keeps r rho components from batch to batch, and finds them in twice as many random directions with 4 iterations.
# In layers of 12 and of 6 inputs these are all there are; in those of 16, as above, (0.6^7)^9 is lost. One batch, taken
# again until nothing changes, loses nothing by what is not kept, nor do batches that vary in no more directions.
EVA = {  # name: (rho, whiten, batches, {layer: (inputs, directions, decay)})
    "ranks": (2, False, 1, {"wide": (12, 12, 0.9), "steep": (16, 16, 0.6), "middle": (12, 12, 0.75)}),
    "whiten": (2, True, 1, {"wide": (12, 12, 0.9), "steep": (16, 16, 0.6)}),
    "batches": (1, False, 2, {"flat": (6, 3, 0.8)}),
}


def begin_eva(config, batches):
    """The layers of PEFT's model, begun from batches of inputs of each, and the batches that PEFT took."""
    model = get_peft_model(nn.ModuleDict({name: nn.Linear(x.shape[1], 5) for name, x in batches[0].items()}), config)
    layers, taken = model.base_model.model, []

    def forward(_, batch):
        taken.append(batch)
        for name, x in batch.items():
            layers[name](x)

    initialize_lora_eva_weights(model, batches, forward_fn=forward, prepare_model_inputs_fn=None,
                                prepare_layer_inputs_fn=None, show_progress_bar=False)
    return layers, taken[1:]  # the first time PEFT only looks for layers with equal inputs


def run_eva(folder, program, failures, distance):
    torch.manual_seed(8)
    cases, data, expected = [], {}, {}
    for case, (rho, whiten, count, shapes) in EVA.items():
        inputs = {name: inputs_of_layer(40 * count, *shape).chunk(count) for name, shape in shapes.items()}
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights="eva", target_modules=list(shapes),
                            eva_config=EvaConfig(rho=rho, whiten=whiten))
        layers, taken = begin_eva(config, [{name: x[i] for name, x in inputs.items()} for i in range(count)])
        for name in shapes:
            scaling, a = layers[name].scaling["default"], factors_of(layers[name], "default")[0]
            expected[f"{case}.{name}"] = scaling * a.detach()
            data |= {f"{case}.{name}.{i}": batch[name].clone() for i, batch in enumerate(taken)}
        cases.append({"name": case, "layers": list(shapes), "rank": 3, "alpha": 5, "rho": rho, "whiten": whiten,
                      "batches": len(taken)})
    result = compute(folder, program, "eva", cases, data)
    for name, value in expected.items():
        failures.check("eva", f"{name}: ranks apart", abs(len(result[name]) - len(value)), 0)
        failures.check("eva", f"{name}: s A", distance(result[name], value), LIMIT)


def convert(model, folder):
    """Changes the adapter as training would, and has PEFT save it as a plain one. Its factors before and after."""

    def factors():
        return [factor.detach().clone() for factor in factors_of(model.base_model.model[0], "default")]

    config, before = model.peft_config["default"], factors()
    config.init_lora_weights = True  # else loading them would change the weight again
    model.save_pretrained(folder / "initial")
    randomize(model)
    model.save_pretrained(folder / "plain", path_initial_model_for_weight_conversion=folder / "initial")
    return before, factors()


def run_conversions(folder, program, failures, distance):
    torch.manual_seed(9)
    cases, data, expected = [], {}, {}
    for kind, rslora in itertools.product(("pissa", "olora", "corda_ipm", "corda_kpm", "lora_ga"), (False, True)):
        name = kind + ("_rslora" if rslora else "")
        base, batches = nn.Sequential(nn.Linear(14, 10)), gradient_batches(10, 14)
        untouched = copy.deepcopy(base)
        model, layer = begin(base, initial_config(kind, 3, use_rslora=rslora), batches)
        cases.append({"name": name, "scaling": layer.scaling["default"]})
        for when, (a, b) in zip(("initial", "trained"), convert(model, folder / name)):
            data[f"{name}.{when}.a"], data[f"{name}.{when}.b"] = a, b
        with torch.no_grad():
            change = layer.base_layer.weight - untouched[0].weight + layer.get_delta_weight("default")
        plain = PeftModel.from_pretrained(untouched, folder / name / "plain").base_model.model[0]
        expected[name] = {"PEFT's plain adapter": plain.get_delta_weight("default").detach(),
                          "what training changed": change}
    result = compute(folder, program, "convert", cases, data)
    for name, values in expected.items():
        for what, value in values.items():
            failures.check("convert", f"{name}: {what}", distance(result[name], value), LIMIT)


def run_initial(out, program, failures, distance):
    run_initializations(out / "initialize", program, failures, distance)
    run_lora_ga(out / "lora_ga", program, failures, distance)
    run_eva(out / "eva", program, failures, distance)
    run_conversions(out / "convert", program, failures, distance)
