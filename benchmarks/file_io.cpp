// Files: a safetensors file written as write_safetensors does it, whole or not at all, with and
// without the copying of the matrices into the order of a file, beside the same bytes written
// plainly, with and without having them on the disk; and one opened to use one of its tensors,
// beside reading it whole, into memory or into matrices. Files of this program lie in the folder it
// is run in.
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

std::string name_of(int tensor) {
  return "layer." + std::to_string(tensor) + ".weight";
}

/// One of 16 that have `megabytes` of 2^20 bytes together, column-major as weights are.
Matrix<float> make_matrix(std::int64_t megabytes) {
  return Matrix<float>::Random(megabytes * (1 << 18) / tensors / 256, 256);
}

/// The same matrix 16 times, copied each time.
loraplus::TensorList make_tensors(const Matrix<float>& matrix) {
  loraplus::TensorList list;
  for (int i = 0; i < tensors; ++i) {
    list.add(name_of(i), matrix);
  }
  return list;
}

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * state.range(0) * (1 << 20));
}

void write_plainly(benchmark::State& state, bool flush) {
  const loraplus::TensorList list = make_tensors(make_matrix(state.range(0)));
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
  const loraplus::TensorList list = make_tensors(make_matrix(state.range(0)));
  fs::create_directory(folder);
  for (auto _ : state) {
    loraplus::write_safetensors(folder / "x.safetensors", list);
  }
  count_bytes(state);
  fs::remove_all(folder);
}

void write_copied(benchmark::State& state) {
  const Matrix<float> matrix = make_matrix(state.range(0));
  fs::create_directory(folder);
  for (auto _ : state) {
    loraplus::write_safetensors(folder / "x.safetensors", make_tensors(matrix));
  }
  count_bytes(state);
  fs::remove_all(folder);
}

void read_whole(benchmark::State& state) {
  fs::create_directory(folder);
  loraplus::write_safetensors(folder / "x.safetensors", make_tensors(make_matrix(state.range(0))));
  std::string content(static_cast<std::size_t>(fs::file_size(folder / "x.safetensors")), '\0');
  for (auto _ : state) {
    std::ifstream(folder / "x.safetensors", std::ios::binary)
        .read(content.data(), static_cast<std::streamsize>(content.size()));
    benchmark::DoNotOptimize(content.data());
  }
  fs::remove_all(folder);
}

void read_matrices(benchmark::State& state) {
  fs::create_directory(folder);
  loraplus::write_safetensors(folder / "x.safetensors", make_tensors(make_matrix(state.range(0))));
  for (auto _ : state) {
    const loraplus::Safetensors file(folder / "x.safetensors");
    for (int i = 0; i < tensors; ++i) {
      const Matrix<float> matrix = file.at(name_of(i)).to_matrix<float>();
      benchmark::DoNotOptimize(matrix.data());
    }
  }
  fs::remove_all(folder);
}

void use_one_tensor(benchmark::State& state) {
  fs::create_directory(folder);
  loraplus::write_safetensors(folder / "x.safetensors", make_tensors(make_matrix(state.range(0))));
  for (auto _ : state) {
    const loraplus::Safetensors file(folder / "x.safetensors");
    const float sum = file.at(name_of(7)).in_place<float>().sum();
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
BENCHMARK(write_copied)->Apply(sizes);
BENCHMARK(read_whole)->Apply(sizes);
BENCHMARK(read_matrices)->Apply(sizes);
BENCHMARK(use_one_tensor)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
