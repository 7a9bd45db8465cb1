// Drives a libFuzzer target where there is no libFuzzer: random inputs, of which those that reach new
// branches are kept and changed further. Coverage needs code compiled with -fsanitize-coverage=trace-pc
// (CMake option EDAD_FAST_FUZZ); without it inputs are random only.
//
//   fuzz_encode [--runs N] [--seconds S] [--seed N] [FOLDER]
//
// FOLDER keeps inputs from run to run. The input at work is in FOLDER/running: after a crash, hand that file
// to `fuzz_encode --replay FILE`.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "hostile.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMapSize = std::size_t{1} << 16;
constexpr std::size_t kLongest = 300;          // bytes of most inputs
constexpr std::size_t kLongestOfAll = 20'000;  // of the few that are to fill whole buffers
std::uint8_t hits[kMapSize];
std::uintptr_t previous_block = 0;

}  // namespace

// Called by instrumented code at every basic block. An edge is a pair of blocks.
extern "C" __attribute__((no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc() {
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) -
                    reinterpret_cast<std::uintptr_t>(&LLVMFuzzerTestOneInput);
  const std::uintptr_t block = here * 0x9E3779B97F4A7C15U >> 32;
  std::uint8_t& count = hits[(block ^ previous_block) % kMapSize];
  count = static_cast<std::uint8_t>(count + (count != 255));
  previous_block = block >> 1;
}

namespace {

using Input = std::vector<std::uint8_t>;

class Fuzzer {
 public:
  Fuzzer(std::uint64_t seed, std::filesystem::path folder) : random_(seed), folder_(std::move(folder)) {
    for (const char* start : {"", "the treatment", "[MASK] na\u00efve", "\uac01\u4e2d \u03a3\u0391\u03a3.",
                              "\xff\xc3 \xed\xa0\x80"}) {
      Input input{static_cast<std::uint8_t>(random_()), 0};
      input.insert(input.end(), start, start + std::strlen(start));
      run(input);
    }
    if (!folder_.empty()) {
      std::filesystem::create_directories(folder_);
      std::vector<std::filesystem::path> files;
      for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
        if (entry.path().filename() != "running") {
          files.push_back(entry.path());
        }
      }
      for (const auto& file : files) {
        run(read(file));
      }
    }
  }

  static Input read(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

  void step() { run(change(corpus_[random_() % corpus_.size()])); }

  void report() const {
    std::fprintf(stderr, "%zu runs, %zu inputs kept, %zu edges\n", runs_, corpus_.size(), edges_);
  }

  std::size_t runs() const { return runs_; }

 private:
  void run(const Input& input) {
    if (!folder_.empty()) {
      note(input);
    }
    std::memset(hits, 0, sizeof(hits));
    previous_block = 0;
    LLVMFuzzerTestOneInput(input.data(), input.size());
    ++runs_;
    if (is_new() || (edges_ == 0 && corpus_.size() < 64)) {  // all are as good without coverage
      corpus_.push_back(input);
      if (!folder_.empty()) {
        write(folder_ / (std::to_string(seed_of(input)) + ".bin"), input);
      }
    }
  }

  // True if an edge was taken for the first time, or a new order of magnitude of times.
  bool is_new() {
    bool found = false;
    for (std::size_t word = 0; word < kMapSize; word += 8) {
      std::uint64_t any;
      std::memcpy(&any, hits + word, 8);
      if (any == 0) {
        continue;
      }
      for (std::size_t i = word; i < word + 8; ++i) {
        const int n = hits[i];
        const int bucket = n == 0    ? 0
                           : n < 4   ? 1 << (n - 1)
                           : n < 8   ? 8
                           : n < 16  ? 16
                           : n < 32  ? 32
                           : n < 128 ? 64
                                     : 128;
        if (bucket & ~seen_[i]) {
          edges_ += seen_[i] == 0;
          seen_[i] = static_cast<std::uint8_t>(seen_[i] | bucket);
          found = true;
        }
      }
    }
    return found;
  }

  Input change(Input input) {
    const std::size_t longest = random_() % 128 == 0 ? kLongestOfAll : kLongest;
    for (std::uint64_t left = 1 + random_() % 6; left > 0; --left) {
      const std::size_t at = input.empty() ? 0 : random_() % input.size();
      const std::size_t length =
          input.empty() ? 0 : random_() % std::min<std::size_t>(input.size() - at, 24) + 1;
      const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
      switch (random_() % 9) {
        case 0:
          if (!input.empty()) {
            *place = static_cast<std::uint8_t>(random_());
          }
          break;
        case 1:
          if (!input.empty()) {
            *place = static_cast<std::uint8_t>(*place ^ (1u << random_() % 8));
          }
          break;
        case 2:
          input.erase(place, place + static_cast<std::ptrdiff_t>(length));
          break;
        case 3: {
          const Input part(place, place + static_cast<std::ptrdiff_t>(length));
          const std::uint64_t most = longest == kLongest ? 4 : 400;
          for (std::uint64_t times = random_() % most; times > 0 && input.size() < longest; --times) {
            input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), part.begin(), part.end());
          }
          break;
        }
        case 4: {
          const Input& other = corpus_[random_() % corpus_.size()];
          input.insert(place,
                       other.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(2, other.size())),
                       other.end());
          break;
        }
        case 5:
          insert(input, at, edad_fast::tests::hostile_text(random_, 2));
          break;
        default: {
          std::string text;
          for (std::uint64_t count = 1 + random_() % 3; count > 0; --count) {
            edad_fast::tests::append_utf8(text, edad_fast::tests::hostile_code(random_));
          }
          insert(input, at, text);
          break;
        }
      }
    }
    if (input.size() > longest) {
      input.resize(longest);
    }
    for (std::size_t i = 0; i < 2 && i < input.size() && random_() % 2 == 0; ++i) {
      input[i] = static_cast<std::uint8_t>(random_());  // options
    }
    return input;
  }

  static void insert(Input& input, std::size_t at, const std::string& text) {
    input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), text.begin(), text.end());
  }

  static std::uint64_t seed_of(const Input& input) {
    std::uint64_t hash = 0xCBF29CE484222325U;
    for (const std::uint8_t byte : input) {
      hash = (hash ^ byte) * 0x100000001B3U;
    }
    return hash;
  }

  static void write(const std::filesystem::path& file, const Input& input) {
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
  }

  // One write a run: opening the file each time would take longer than the run.
  void note(const Input& input) {
    const std::filesystem::path file = folder_ / "running";
    if (running_ == nullptr) {
      running_ = std::fopen(file.string().c_str(), "wb");
    }
    if (running_ == nullptr) {
      throw std::runtime_error(file.string() + ": cannot be written");
    }
    std::rewind(running_);
    std::fwrite(input.data(), 1, input.size(), running_);
    std::fflush(running_);
    if (input.size() < noted_) {
      std::filesystem::resize_file(file, input.size());
    }
    noted_ = input.size();
  }

  std::mt19937_64 random_;
  std::filesystem::path folder_;
  std::vector<Input> corpus_;
  std::uint8_t seen_[kMapSize] = {};
  std::size_t runs_ = 0;
  std::size_t edges_ = 0;
  std::FILE* running_ = nullptr;
  std::size_t noted_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t seed = 1;
  std::size_t runs = 0;
  double seconds = 0;
  std::string folder;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (name.starts_with("--") && value == nullptr) {
      std::fprintf(stderr, "%s needs a value\n", name.c_str());
      return EXIT_FAILURE;
    }
    if (name == "--replay") {
      const Input input = Fuzzer::read(value);
      return LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    if (name == "--seed") {
      seed = std::strtoull(value, nullptr, 10);
    } else if (name == "--runs") {
      runs = std::strtoull(value, nullptr, 10);
    } else if (name == "--seconds") {
      seconds = std::strtod(value, nullptr);
    } else {
      folder = name;
      continue;
    }
    ++i;
  }
  using Clock = std::chrono::steady_clock;
  const auto passed = [begin = Clock::now()] {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  Fuzzer fuzzer(seed, folder);
  double next_report = 60;
  while (runs != 0 ? fuzzer.runs() < runs : seconds == 0 || passed() < seconds) {
    fuzzer.step();
    if (passed() > next_report) {
      fuzzer.report();
      next_report += 60;
    }
  }
  fuzzer.report();
  return EXIT_SUCCESS;
}
