// Writes the stream file of a small job (small_job.h), for the tests of what reads such files:
//   trace_make_stream FILE [KEY=NUMBER…]
// with the keys replicas, steps, micro_batches, slow, slow_last, kernels, hangs, seed, json.
#include "tests/trace/small_job.h"
#include <convoy/trace/stream.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

int main(int argc, char** argv) {
  using namespace convoy::trace;
  std::map<std::string, double> given;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals == std::string::npos) return std::fputs("KEY=NUMBER is expected\n", stderr), 64;
    given[word.substr(0, equals)] = std::atof(word.c_str() + equals + 1);
  }
  const auto get = [&](const char* key, double value) {
    const auto at = given.find(key);
    return at == given.end() ? value : at->second;
  };
  SmallJob job;
  job.replicas = static_cast<uint32_t>(get("replicas", job.replicas));
  job.steps = static_cast<uint32_t>(get("steps", job.steps));
  job.micro_batches = static_cast<uint32_t>(get("micro_batches", job.micro_batches));
  job.slow = get("slow", job.slow);
  job.slow_last = get("slow_last", job.slow_last);
  job.kernels = get("kernels", 0) != 0;
  job.hangs = get("hangs", 0) != 0;
  job.seed = static_cast<uint64_t>(get("seed", 1));
  if (argc < 2) return std::fputs("a file is expected\n", stderr), 64;
  Registry registry;
  const auto write = [&](auto created) {
    if (!created.ok()) return std::fprintf(stderr, "%s\n", created.status().to_string().c_str()), 1;
    job.play(registry, **created);
    return (*created)->close().ok() ? 0 : 1;
  };
  return get("json", 0) != 0 ? write(JsonStreamWriter::create(argv[1], registry))
                             : write(StreamWriter::create(argv[1], registry));
}
