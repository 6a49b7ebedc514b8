// Files: a safetensors file written as write_safetensors does it, whole or not at all, beside the
// same bytes written plainly, with and without having them on the disk; and one opened to use one
// of its tensors, beside reading it whole. Files of this program lie in the folder it is run in.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <loraplus/io/safetensors.hpp>

namespace {

namespace fs = std::filesystem;
using loraplus::Matrix;

constexpr int tensors = 16;
const fs::path folder = "file_io.tmp";

/// `megabytes` of 2^20 bytes in 16 tensors.
loraplus::TensorList make_tensors(std::int64_t megabytes) {
  loraplus::TensorList list;
  const Matrix<float> tensor = Matrix<float>::Random(megabytes * (1 << 18) / tensors / 256, 256);
  for (int i = 0; i < tensors; ++i) {
    list.add("layer." + std::to_string(i) + ".weight", tensor);
  }
  return list;
}

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * state.range(0) * (1 << 20));
}

void write_plainly(benchmark::State& state, bool flush) {
  const loraplus::TensorList list = make_tensors(state.range(0));
  fs::create_directory(folder);
  for (auto _ : state) {
    const int file = ::open((folder / "plain").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    for (const loraplus::TensorView& tensor : list.views()) {
      const auto size = static_cast<ssize_t>(tensor.bytes.size());
      if (::write(file, tensor.bytes.data(), tensor.bytes.size()) != size) {
        state.SkipWithError("cannot write");
        break;
      }
    }
    if (flush) ::fsync(file);
    ::close(file);
  }
  count_bytes(state);
  fs::remove_all(folder);
}

void write_plain(benchmark::State& state) {
  write_plainly(state, false);
}
void write_plain_flushed(benchmark::State& state) {
  write_plainly(state, true);
}

void write_atomic(benchmark::State& state) {
  const loraplus::TensorList list = make_tensors(state.range(0));
  fs::create_directory(folder);
  for (auto _ : state) {
    loraplus::write_safetensors(folder / "x.safetensors", list);
  }
  count_bytes(state);
  fs::remove_all(folder);
}

void read_whole(benchmark::State& state) {
  fs::create_directory(folder);
  loraplus::write_safetensors(folder / "x.safetensors", make_tensors(state.range(0)));
  std::string content(static_cast<std::size_t>(fs::file_size(folder / "x.safetensors")), '\0');
  for (auto _ : state) {
    std::ifstream(folder / "x.safetensors", std::ios::binary)
        .read(content.data(), static_cast<std::streamsize>(content.size()));
    benchmark::DoNotOptimize(content.data());
  }
  fs::remove_all(folder);
}

void use_one_tensor(benchmark::State& state) {
  fs::create_directory(folder);
  loraplus::write_safetensors(folder / "x.safetensors", make_tensors(state.range(0)));
  for (auto _ : state) {
    const loraplus::Safetensors file(folder / "x.safetensors");
    const float sum = file.at("layer.7.weight").in_place<float>().sum();
    benchmark::DoNotOptimize(sum);
  }
  fs::remove_all(folder);
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("MiB")->Arg(1)->Arg(64)->Arg(256)->UseRealTime()->Unit(
      benchmark::kMillisecond);
}

BENCHMARK(write_plain)->Apply(sizes);
BENCHMARK(write_plain_flushed)->Apply(sizes);
BENCHMARK(write_atomic)->Apply(sizes);
BENCHMARK(read_whole)->Apply(sizes);
BENCHMARK(use_one_tensor)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
