// A thousand users, each with an adapter of their own, over one frozen network: every row of a
// batch goes through its user's. The weights are held once, where merging would hold them for each
// user.
//
//   serve_many [adapters [batches]]
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <loraplus/loraplus.hpp>

using loraplus::Index;
using loraplus::Matrix;
using Weight = loraplus::PackedWeight<float>;

namespace {

constexpr Index features = 512, hidden = 1024, outputs = 64, batch = 64, rank = 8;

std::string user(Index i) {
  return "user" + std::to_string(i);
}

/// An adapter as training would leave it: neither factor is zero.
loraplus::AdaptedMlp<Weight> adapted_for(const loraplus::FrozenMlp<Weight>& base,
                                         std::mt19937_64& rng) {
  const loraplus::LoraOptions options{
      .rank = rank, .alpha = 16, .initialization = loraplus::Initialization::both_uniform};
  return adapt(base, {.lora = options, .targets = {"fc1", "fc2"}}, rng);
}

double mebibytes(double bytes) {
  return bytes / (1024 * 1024);
}

/// Rows per second of `serve`, called for so many batches.
template <typename Serve>
double rows_per_second(int batches, Serve&& serve) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < batches; ++i) {
    serve();
  }
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return static_cast<double>(batches * batch) / time.count();
}

/// How far row `i` of y is from what its user's network computes by itself.
double distance(const Matrix<float>& y, const Matrix<float>& x, Index i,
                const loraplus::AdaptedMlp<Weight>& alone) {
  const Matrix<float> expected = predict(alone, Matrix<float>(x.col(i)));
  return (y.col(i) - expected.col(0)).norm() / expected.norm();
}

}  // namespace

int main(int argc, char** argv) {
  const Index adapters = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int batches = argc > 2 ? std::atoi(argv[2]) : 200;
  if (adapters < 1 || batches < 1) {
    std::cerr << "serve_many [adapters [batches]], both at least 1\n";
    return 2;
  }
  std::mt19937_64 rng(1);
  const auto base = freeze(loraplus::make_mlp<float>({features, hidden, hidden, outputs},
                                                     loraplus::Activation::relu, rng));
  loraplus::MultiAdapterMlp network(base);
  for (Index i = 0; i < adapters; ++i) {
    network.add(user(i), adapted_for(base, rng));
  }

  Matrix<float> x(features, batch), y(outputs, batch);
  loraplus::fill_normal(x, rng, 1);
  auto cache = network.make_cache(batch);
  std::vector<std::string> users(batch);
  const auto serve = [&] {
    for (std::string& name : users) {
      name = user(loraplus::uniform_index(rng, adapters));
    }
    network.assign(cache, users);
    network.forward(x, y, cache);
  };
  const double mixed = rows_per_second(batches, serve);
  network.assign(cache, {});
  network.set_active({user(0)});
  const double single = rows_per_second(batches, [&] { network.forward(x, y, cache); });

  double base_bytes = 0, adapter_bytes = 0;
  for (const auto& stage : network.layers().stages()) {
    base_bytes += static_cast<double>(stage.layer.weight().bytes());
    if (!stage.layer.contains(user(0))) continue;
    const auto& factors = stage.layer.at(user(0))->factors();
    adapter_bytes += sizeof(float) * static_cast<double>(factors.a().size() + factors.b().size());
  }
  const auto count = static_cast<double>(adapters);
  std::cout << adapters << " adapters of rank " << rank << " over one network\n"
            << "rows per second, each through its user's adapter: " << std::llround(mixed) << '\n'
            << "rows per second, all through one:                 " << std::llround(single) << '\n'
            << "memory, MiB: " << mebibytes(base_bytes + count * adapter_bytes) << " (adapters "
            << mebibytes(count * adapter_bytes) << "), of " << adapters
            << " merged copies: " << mebibytes(count * base_bytes) << '\n';

  // The proof: the last batch again, row by row through networks with the one adapter.
  std::mt19937_64 again(2);
  const auto own = adapted_for(base, again);
  network.replace(user(0), own);
  users.assign(batch, user(0));
  users[1] = std::string(loraplus::base_adapter);
  network.assign(cache, users);
  network.forward(x, y, cache);
  const double error = distance(y, x, 5, own);
  std::cout << "a row beside its user's network alone: relative distance " << error << '\n';
  return error < 1e-5 ? 0 : 1;
}
