// SPDX-License-Identifier: MIT
//
// Checkpoints of a training run, in safetensors files: from one the run goes on as if it had never
// stopped, bit for bit.
//
//   model.<parameter>      the trained parameters, as the model shows them
//   gradient.<parameter>   their gradients, where an update of accumulated ones is under way
//   optimizer.<parameter>  their moments, coefficients x moments
//   frozen.<layer>         what is known of a frozen weight: its product with a fixed vector
//   sampler.order          the order of the samples in this epoch
//
// Numbers, the generator's state and the settings of the run are in the metadata.
#pragma once

#include <charconv>
#include <locale>
#include <loraplus/io/run_settings.hpp>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/train/fit.hpp>
#include <sstream>

namespace loraplus::inline v0_1 {

namespace detail {

inline constexpr const char* checkpoint_format = "loraplus checkpoint 2";
inline const std::string note_prefix = "note.";
inline const std::string setting_prefix = "setting.";

template <typename Generator>
std::string generator_text(const Generator& generator) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << generator;
  return text.str();
}

/// A generator in the state that a text tells. @throws FileError if it tells none of this type's
template <typename Generator>
Generator read_generator(const std::string& file, const std::string& state) {
  Generator generator;
  std::istringstream text(state);
  text.imbue(std::locale::classic());
  text >> generator;
  const bool is_read = !text.fail();
  text >> std::ws;
  if (!is_read || !text.eof()) throw FileError(file + " has another generator's state");
  return generator;
}

/// Calls `use` with the value or the gradient of a parameter, `data`, as a matrix in its order.
template <typename Scalar, typename Data, typename Use>
void with_matrix(const Parameter<Scalar>& parameter, Data* data, Use&& use) {
  using Rows =
      std::conditional_t<std::is_const_v<Data>, const TensorMatrix<Scalar>, TensorMatrix<Scalar>>;
  using Columns = std::conditional_t<std::is_const_v<Data>, const Matrix<Scalar>, Matrix<Scalar>>;
  if (parameter.is_row_major) {
    use(Eigen::Map<Rows>(data, parameter.rows, parameter.cols));
  } else {
    use(Eigen::Map<Columns>(data, parameter.rows, parameter.cols));
  }
}

/// The entries of the metadata whose keys have this prefix, without it.
inline std::map<std::string, std::string> metadata_with(const Safetensors& file,
                                                        const std::string& prefix) {
  std::map<std::string, std::string> found;
  for (const auto& [key, text] : file.metadata()) {
    if (key.starts_with(prefix)) found[key.substr(prefix.size())] = text;
  }
  return found;
}

/// The value of a key of the metadata. @throws FileError
inline const std::string& metadata_at(const Safetensors& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    throw FileError(file.name() + " is no checkpoint: its metadata have no '" + key + "'");
  }
  return found->second;
}

/// @throws FileError unless it is a number that is not negative
inline Index count_at(const Safetensors& file, const char* key) {
  const std::string& text = metadata_at(file, key);
  Index number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) {
    throw FileError(file.name() + ": '" + key + "' must be a number of at least 0, found '" + text +
                    "'");
  }
  return number;
}

/// @throws FileError
inline void require_format(const Safetensors& file) {
  const std::string& format = metadata_at(file, "format");
  if (format != checkpoint_format) {
    throw FileError(file.name() + " has the format '" + format + "', expected '" +
                    checkpoint_format + "'");
  }
}

/// All settings of a run under the names they have in a file. @param callers those of the caller
template <typename Scalar, typename Optimizer>
RunSettings settings_of(const ModelFacts<Scalar>& facts, const Optimizer& optimizer,
                        const FitProgress& progress, const RunSettings& callers) {
  RunSettings settings = facts.settings();
  add_settings(optimizer, settings);
  settings["batch"] = std::to_string(progress.sampler.batch());
  for (const auto& [name, value] : callers) {
    settings["run." + name] = value;
  }
  return settings;
}

/// @throws FileError that names the first setting that is not the file's
inline void require_settings(const Safetensors& file, const RunSettings& now) {
  const RunSettings before = metadata_with(file, setting_prefix);
  RunSettings all = before;
  all.insert(now.begin(), now.end());
  const auto text_of = [](const RunSettings& settings, const std::string& name) {
    const auto found = settings.find(name);
    return found == settings.end() ? "nothing" : '\'' + found->second + '\'';
  };
  for (const auto& [name, value] : all) {
    const std::string was = text_of(before, name), is = text_of(now, name);
    if (was == is) continue;
    throw FileError(file.name() + " was made with '" + name + "' set to " + was + ", now it is " +
                    is + ": it is another run's");
  }
}

/// @throws FileError unless the file has just the tensors that the run has, in their shapes
template <typename Scalar, typename Model, typename Optimizer>
void require_tensors(const Safetensors& file, Model& model, Optimizer& optimizer,
                     const ModelFacts<Scalar>& facts, bool with_gradients) {
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
  for (const auto& [name, product] : facts.products()) {
    require("frozen." + name, product.size(), 1);
  }
  if (count != file.size()) {
    throw FileError(file.name() + " has " + std::to_string(file.size()) + " tensors, the run has " +
                    std::to_string(count) + ": it is another run's");
  }
}

/// @throws FileError if a frozen weight is not the one that the run stood on
template <typename Scalar>
void require_products(const Safetensors& file, const ModelFacts<Scalar>& facts) {
  for (const auto& [name, product] : facts.products()) {
    const TensorView tensor = file.at("frozen." + name);
    if (!is_same_product(tensor.in_place<Scalar>(), product)) {
      tensor.fail("was made over another frozen weight");
    }
  }
}

/// @throws FileError if it is not one of as many samples, or a number is out of its range
template <typename Optimizer>
FitProgress read_progress(const Safetensors& file, Optimizer& optimizer,
                          const FitProgress& progress) {
  FitProgress restored = progress;
  restored.step = count_at(file, "step");
  const TensorView order = file.at("sampler.order");
  const auto indices = order.in_place<Index>();
  try {
    restored.sampler.set_progress({indices.data(), static_cast<std::size_t>(indices.size())},
                                  count_at(file, "sampler.dealt"));
    optimizer.set_progress(count_at(file, "optimizer.steps"), count_at(file, "optimizer.pending"));
  } catch (const ArgumentError& error) {
    throw FileError(file.name() + ": " + error.what());
  }
  return restored;
}

/// Sets the parameters, gradients and moments to those of a file, which has them.
template <typename Scalar, typename Model, typename Optimizer>
void set_tensors(const Safetensors& file, Model& model, Optimizer& optimizer) {
  model.visit_parameters([&](Parameter<Scalar> parameter) {
    const std::string name = parameter.name.str();
    const auto set = [&](const char* part, Scalar* data) {
      const TensorView tensor = file.at(part + name);
      with_matrix(parameter, data,
                  [&](auto&& matrix) { copy_tiles(tensor.template in_place<Scalar>(), matrix); });
    };
    set("model.", parameter.value.data());
    parameter.gradient.setZero();
    if (optimizer.pending() > 0) set("gradient.", parameter.gradient.data());
  });
  optimizer.visit_state([&](const std::string& name, auto& state) {
    copy_tiles(file.at("optimizer." + name).template in_place<Scalar>().array(), state);
  });
}

}  // namespace detail

/// Writes all that a run needs to go on: the trained parameters, the moments and counters of the
/// optimizer, the generator, and where fit is; and what it is to be known by. As a whole or not at
/// all (AtomicFile).
/// @param generator one that can be written to a stream, as those of the standard library
/// @param notes what the caller wants to find again beside it
/// @param settings what else makes this run another than others: its data, its loss
/// @throws FileError
template <HasParameters Model, typename Optimizer, RandomBits Generator>
void save_checkpoint(const std::filesystem::path& file, Model& model, Optimizer& optimizer,
                     const Generator& generator, const FitProgress& progress,
                     const std::map<std::string, std::string>& notes = {},
                     const RunSettings& settings = {}) {
  using Scalar = typename Model::Scalar;
  TensorList tensors;
  model.visit_parameters([&](const Parameter<Scalar>& parameter) {
    const std::string name = parameter.name.str();
    const auto add = [&](const char* part, const Scalar* data) {
      detail::with_matrix(parameter, data,
                          [&](const auto& matrix) { tensors.add(part + name, matrix); });
    };
    add("model.", parameter.value.data());
    if (optimizer.pending() > 0) add("gradient.", parameter.gradient.data());
  });
  optimizer.visit_state([&](const std::string& name, const auto& state) {
    tensors.add("optimizer." + name, state.matrix());
  });
  const detail::ModelFacts<Scalar> facts(model);
  for (const auto& [name, product] : facts.products()) {
    tensors.add("frozen." + name, product);
  }
  const auto order = progress.sampler.order();
  tensors.add("sampler.order", Eigen::Map<const Eigen::Matrix<Index, Eigen::Dynamic, 1>>(
                                   order.data(), static_cast<Index>(order.size())));
  std::map<std::string, std::string> metadata = {
      {"format", detail::checkpoint_format},
      {"step", std::to_string(progress.step)},
      {"sampler.dealt", std::to_string(progress.sampler.dealt())},
      {"optimizer.steps", std::to_string(optimizer.steps())},
      {"optimizer.pending", std::to_string(optimizer.pending())},
      {"generator", detail::generator_text(generator)}};
  for (const auto& [name, text] : detail::settings_of(facts, optimizer, progress, settings)) {
    metadata[detail::setting_prefix + name] = text;
  }
  for (const auto& [name, text] : notes) {
    metadata[detail::note_prefix + name] = text;
  }
  write_safetensors(file, tensors, metadata);
}

/// Sets a run, made anew with the same options, to where it was. All is checked first: if this
/// throws, nothing was changed. The number of steps in all may be another; and a layer of your own
/// is known by its parameters alone.
/// @param settings those that save_checkpoint was given
/// @return the notes
/// @throws FileError if the file cannot be read, is no checkpoint or one of another format, or is
/// one of another run, which is told by name: parameters of other names or shapes, another
/// activation, scaling, dropout or frozen weight (a product with it differs by more than 1e-4 of
/// its size), another update rule or settings of it, rates, schedule, clipping, accumulation, size
/// of a batch, number of samples, generator or setting of the caller's
template <HasParameters Model, typename Optimizer, RandomBits Generator>
std::map<std::string, std::string> load_checkpoint(const std::filesystem::path& file, Model& model,
                                                   Optimizer& optimizer, Generator& generator,
                                                   FitProgress& progress,
                                                   const RunSettings& settings = {}) {
  using Scalar = typename Model::Scalar;
  const Safetensors checkpoint(file);
  const detail::ModelFacts<Scalar> facts(model);
  detail::require_format(checkpoint);
  detail::require_settings(checkpoint, detail::settings_of(facts, optimizer, progress, settings));
  detail::require_tensors(checkpoint, model, optimizer, facts,
                          detail::count_at(checkpoint, "optimizer.pending") > 0);
  detail::require_products(checkpoint, facts);
  auto stored = detail::read_generator<Generator>(checkpoint.name(),
                                                  detail::metadata_at(checkpoint, "generator"));
  progress = detail::read_progress(checkpoint, optimizer, progress);
  detail::set_tensors<Scalar>(checkpoint, model, optimizer);
  generator = std::move(stored);
  return detail::metadata_with(checkpoint, detail::note_prefix);
}

}  // namespace loraplus
