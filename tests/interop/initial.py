"""The initialisations of PEFT that follow from the weight or from data, compared with loraplus; see run.sh.

PiSSA, OLoRA and CorDA are compared as products B A and as the weights that are frozen beside them.
"""

import dataclasses
import importlib.util
import sys
import types

import torch
from family import LIMIT, compute
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from torch import nn

if importlib.util.find_spec("attr") is None:  # PEFT's corda asks attrs for its dataclass, and does not install it
    sys.modules["attr"] = types.ModuleType("attr")
    sys.modules["attr"].dataclass = dataclasses.dataclass
from peft.tuners.lora.corda import preprocess_corda  # noqa: E402


def initial_config(kind, rank, **options):
    """An adapter that begins as `kind` says: init_lora_weights, for CorDA with its method behind it."""
    if kind.startswith("corda"):
        options["corda_config"] = CordaConfig(corda_method=kind[-3:])
    return LoraConfig(r=rank, lora_alpha=5, init_lora_weights=kind.removesuffix("_ipm").removesuffix("_kpm"),
                      target_modules=["0"], **options)


def begin(base, config, batches):
    """Gives the base such an adapter. batches: inputs, and gradients of the outputs."""
    if config.corda_config:
        preprocess_corda(base, config, run_model=lambda: [base(x) for x, _ in batches])
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


def run_initial(out, program, failures, distance):
    run_initializations(out / "initialize", program, failures, distance)
