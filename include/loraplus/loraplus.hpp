// SPDX-License-Identifier: MIT
//
// loraplus: fine-tunes frozen networks with LoRA and LoRA+. Includes all that needs Eigen alone,
// but for what is computed from trained weights or data before or after training, which costs a
// second to compile: add_weighted, combine, decompose and initialize*.hpp in adapter/,
// nn/adapt_initialized.hpp.
#pragma once

#include <loraplus/adapter/adapter.hpp>
#include <loraplus/adapter/adapter_table.hpp>
#include <loraplus/adapter/conv_layer.hpp>
#include <loraplus/adapter/factors.hpp>
#include <loraplus/adapter/lora_conv.hpp>
#include <loraplus/adapter/lora_conv_set.hpp>
#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/lora_options.hpp>
#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/adapter/magnitude.hpp>
#include <loraplus/adapter/output_blocks.hpp>
#include <loraplus/adapter/plan.hpp>
#include <loraplus/adapter/set_input.hpp>
#include <loraplus/adapter/set_scopes.hpp>
#include <loraplus/adapter/set_state.hpp>
#include <loraplus/adapter/set_terms.hpp>
#include <loraplus/check/gradient_check.hpp>
#include <loraplus/core/error.hpp>
#include <loraplus/core/fused_multiply_add.hpp>
#include <loraplus/core/matrix.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/row_norms.hpp>
#include <loraplus/frozen/same_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/kernels/patches.hpp>
#include <loraplus/nn/activation.hpp>
#include <loraplus/nn/activation_layer.hpp>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/nn/layer.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/loss.hpp>
#include <loraplus/nn/mlp.hpp>
#include <loraplus/nn/multi_adapter.hpp>
#include <loraplus/nn/one_of.hpp>
#include <loraplus/nn/sequential.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/lora_fa.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/regularized_rule.hpp>
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
