// SPDX-License-Identifier: MIT
//
// Adapter folders of PEFT: adapter_config.json and adapter_model.safetensors. An adapter trained
// here goes on in Python, and one trained there goes on here.
#pragma once

#include <loraplus/io/peft_load.hpp>
#include <loraplus/io/peft_save.hpp>
