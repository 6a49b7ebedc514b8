// SPDX-License-Identifier: MIT
//
// Checkpoints of a training run, in safetensors files: from one the run goes on as if it had never
// stopped, bit for bit.
//
//   model.<parameter>      the trained parameters, as the model shows them
//   gradient.<parameter>   their gradients, where an update of accumulated ones is under way
//   optimizer.<parameter>  their moments, coefficients x moments
//   sampler.order          the order of the samples in this epoch
//
// Numbers, the generator's state and the learning rates are in the metadata.
#pragma once

#include <charconv>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/train/fit.hpp>
#include <sstream>

namespace loraplus {

namespace detail {

inline constexpr const char* checkpoint_format = "loraplus checkpoint 1";
inline const std::string note_prefix = "note.";

template <typename Generator>
std::string generator_text(const Generator& generator) {
  std::ostringstream text;
  text << generator;
  return text.str();
}

/// The groups and the schedule as text: a run that goes on with others would be another run.
template <typename Optimizer>
std::string rates_text(const Optimizer& optimizer) {
  nlohmann::json json = {{"decay", static_cast<int>(optimizer.schedule().decay)},
                         {"warmup_steps", optimizer.schedule().warmup_steps},
                         {"total_steps", optimizer.schedule().total_steps},
                         {"groups", nlohmann::json::array()}};
  for (const ParameterGroup& group : optimizer.groups()) {
    json["groups"].push_back({{"name", group.name},
                              {"learning_rate", group.learning_rate},
                              {"weight_decay", group.weight_decay},
                              {"parameters", group.parameters}});
  }
  return json.dump();
}

/// The value or the gradient of a parameter as a file has it: row by row.
template <typename Scalar>
TensorMatrix<Scalar> rows_of(const Parameter<Scalar>& parameter, const Scalar* data) {
  if (parameter.is_row_major) {
    return Eigen::Map<const TensorMatrix<Scalar>>(data, parameter.rows, parameter.cols);
  }
  return Eigen::Map<const Matrix<Scalar>>(data, parameter.rows, parameter.cols);
}

template <typename Scalar>
void set_rows(const Parameter<Scalar>& parameter, Scalar* data,
              const Eigen::Map<const TensorMatrix<Scalar>>& rows) {
  if (parameter.is_row_major) {
    Eigen::Map<TensorMatrix<Scalar>>(data, parameter.rows, parameter.cols) = rows;
  } else {
    Eigen::Map<Matrix<Scalar>>(data, parameter.rows, parameter.cols) = rows;
  }
}

/// The value of a key of the metadata. @throws FileError
inline const std::string& metadata_at(const Safetensors& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    throw FileError(file.name() + " is no checkpoint: its metadata have no '" + key + "'");
  }
  return found->second;
}

inline Index number_at(const Safetensors& file, const char* key) {
  const std::string& text = metadata_at(file, key);
  Index number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw FileError(file.name() + ": '" + key + "' must be a number, found '" + text + "'");
  }
  return number;
}

/// @throws FileError unless the file has just the tensors that the run has, in their shapes
template <typename Scalar, typename Model, typename Optimizer>
void require_tensors(const Safetensors& file, Model& model, Optimizer& optimizer,
                     bool with_gradients) {
  std::size_t count = 1;  // the order of the samples
  const auto require = [&](const std::string& name, Index rows, Index cols) {
    const TensorView tensor = file.at(name);
    const auto matrix = tensor.in_place<Scalar>();
    if (matrix.rows() != rows || matrix.cols() != cols) {
      tensor.fail("must be " + shape_text(rows, cols));
    }
    ++count;
  };
  model.visit_parameters([&](const Parameter<Scalar>& parameter) {
    const std::string name = parameter.name.str();
    require("model." + name, parameter.rows, parameter.cols);
    if (with_gradients) require("gradient." + name, parameter.rows, parameter.cols);
  });
  optimizer.visit_state([&](const std::string& name, const auto& state) {
    require("optimizer." + name, state.rows(), state.cols());
  });
  if (count != file.size()) {
    throw FileError(file.name() + " has " + std::to_string(file.size()) + " tensors, the run has " +
                    std::to_string(count) + ": it is another run's");
  }
}

}  // namespace detail

/// Writes all that a run needs to go on: the trained parameters, the moments and counters of the
/// optimizer, the generator, and where fit is. As a whole or not at all (AtomicFile).
/// @param generator one that can be written to a stream, as those of <random>
/// @param notes what the caller wants to find again beside it
/// @throws FileError
template <HasParameters Model, typename Optimizer, RandomBits Generator>
void save_checkpoint(const std::filesystem::path& file, Model& model, Optimizer& optimizer,
                     const Generator& generator, const FitProgress& progress,
                     const std::map<std::string, std::string>& notes = {}) {
  using Scalar = typename Model::Scalar;
  TensorList tensors;
  model.visit_parameters([&](const Parameter<Scalar>& parameter) {
    const std::string name = parameter.name.str();
    tensors.add("model." + name, detail::rows_of(parameter, parameter.value.data()));
    if (optimizer.pending() == 0) return;
    tensors.add("gradient." + name, detail::rows_of(parameter, parameter.gradient.data()));
  });
  optimizer.visit_state([&](const std::string& name, const auto& state) {
    tensors.add("optimizer." + name, state.matrix());
  });
  const auto order = progress.sampler.order();
  tensors.add("sampler.order", Eigen::Map<const Eigen::Matrix<Index, Eigen::Dynamic, 1>>(
                                   order.data(), static_cast<Index>(order.size())));
  std::map<std::string, std::string> metadata = {
      {"format", detail::checkpoint_format},
      {"step", std::to_string(progress.step)},
      {"sampler.dealt", std::to_string(progress.sampler.dealt())},
      {"optimizer.steps", std::to_string(optimizer.steps())},
      {"optimizer.pending", std::to_string(optimizer.pending())},
      {"optimizer.rates", detail::rates_text(optimizer)},
      {"generator", detail::generator_text(generator)}};
  for (const auto& [name, text] : notes) {
    metadata[detail::note_prefix + name] = text;
  }
  write_safetensors(file, tensors, metadata);
}

/// Sets a run, made anew with the same options, to where it was. All is checked first: if this
/// throws, nothing was changed.
/// @return the notes
/// @throws FileError if the file cannot be read or is no checkpoint, or is one of another model,
/// optimizer, schedule, generator or number of samples
template <HasParameters Model, typename Optimizer, RandomBits Generator>
std::map<std::string, std::string> load_checkpoint(const std::filesystem::path& file, Model& model,
                                                   Optimizer& optimizer, Generator& generator,
                                                   FitProgress& progress) {
  using Scalar = typename Model::Scalar;
  const Safetensors checkpoint(file);
  if (detail::metadata_at(checkpoint, "format") != detail::checkpoint_format) {
    throw FileError(checkpoint.name() + " has the format '" +
                    detail::metadata_at(checkpoint, "format") + "', expected '" +
                    detail::checkpoint_format + "'");
  }
  if (detail::metadata_at(checkpoint, "optimizer.rates") != detail::rates_text(optimizer)) {
    throw FileError(checkpoint.name() + " was made with the rates " +
                    detail::metadata_at(checkpoint, "optimizer.rates") + ", now they are " +
                    detail::rates_text(optimizer));
  }
  const Index pending = detail::number_at(checkpoint, "optimizer.pending");
  detail::require_tensors<Scalar>(checkpoint, model, optimizer, pending > 0);
  Generator stored = generator;
  std::istringstream text(detail::metadata_at(checkpoint, "generator"));
  if (!(text >> stored)) throw FileError(checkpoint.name() + " has another generator's state");
  FitProgress restored = progress;
  restored.step = detail::number_at(checkpoint, "step");
  const TensorView order = checkpoint.at("sampler.order");
  try {
    const auto indices = order.in_place<Index>();
    restored.sampler.set_progress({indices.data(), static_cast<std::size_t>(indices.size())},
                                  detail::number_at(checkpoint, "sampler.dealt"));
    optimizer.set_progress(detail::number_at(checkpoint, "optimizer.steps"), pending);
  } catch (const ArgumentError& error) {
    throw FileError(checkpoint.name() + ": " + error.what());
  }

  model.visit_parameters([&](Parameter<Scalar> parameter) {
    const std::string name = parameter.name.str();
    const auto rows = [&](const char* part) {
      return checkpoint.at(part + name).template in_place<Scalar>();
    };
    detail::set_rows(parameter, parameter.value.data(), rows("model."));
    parameter.gradient.setZero();
    if (pending > 0) detail::set_rows(parameter, parameter.gradient.data(), rows("gradient."));
  });
  optimizer.visit_state([&](const std::string& name, auto& state) {
    state = checkpoint.at("optimizer." + name).template in_place<Scalar>().array();
  });
  generator = std::move(stored);
  progress = std::move(restored);
  std::map<std::string, std::string> notes;
  for (const auto& [key, note] : checkpoint.metadata()) {
    if (key.starts_with(detail::note_prefix)) notes[key.substr(detail::note_prefix.size())] = note;
  }
  return notes;
}

}  // namespace loraplus
