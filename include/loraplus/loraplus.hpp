// SPDX-License-Identifier: MIT
//
// loraplus: fine-tunes frozen networks with LoRA and LoRA+. Includes all that needs Eigen alone.
#pragma once

#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/lora_options.hpp>
#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/adapter/plan.hpp>
#include <loraplus/check/gradient_check.hpp>
#include <loraplus/core/error.hpp>
#include <loraplus/core/matrix.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/nn/activation.hpp>
#include <loraplus/nn/activation_layer.hpp>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/nn/layer.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/loss.hpp>
#include <loraplus/nn/mlp.hpp>
#include <loraplus/nn/one_of.hpp>
#include <loraplus/nn/sequential.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/lora_fa.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/schedule.hpp>
#include <loraplus/optim/sgd.hpp>
#include <loraplus/optim/update_rule.hpp>
#include <loraplus/train/data.hpp>
#include <loraplus/train/evaluate.hpp>
#include <loraplus/train/fit.hpp>
#include <loraplus/train/learning_rates.hpp>
#include <loraplus/train/training_step.hpp>
#include <loraplus/version.hpp>
