// Makes a checkpoint folder for tests of the command line: make_checkpoint FOLDER [NAME=VALUE …]
// [STEP …]. Names: job, generation, ranks, cut, width, freeze, replicas, compress, release (0: the
// job does not say that it has ended), force, incremental, wall (seconds since 1970 of the claim;
// each step is committed so many seconds later as its number says). Steps without incremental=1
// are full.
#include "tests/ckpt/small_model.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace convoy::ckpt {
namespace {

struct Job {
  std::map<std::string, std::string> settings = {
      {"job", "demo"},  {"generation", "1"}, {"ranks", "4"},       {"cut", "0"},
      {"width", "64"},  {"freeze", "0"},     {"replicas", "0"},    {"compress", "0"},
      {"release", "1"}, {"force", "0"},      {"incremental", "0"}, {"wall", "1764110674"},
      {"forgets", "-1"}};
  std::vector<uint64_t> steps;

  uint64_t number(const std::string& name) const {
    return std::strtoull(settings.at(name).c_str(), nullptr, 10);
  }
};

Status run(const std::string& path, const Job& job) {
  std::filesystem::create_directories(path);
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, open_local_store(path));
  SmallModel model;
  model.ranks = static_cast<uint32_t>(job.number("ranks"));
  model.cut = static_cast<int>(job.number("cut"));
  model.width = static_cast<int64_t>(job.number("width"));
  model.freeze = job.number("freeze");
  model.replicas = job.number("replicas") != 0;
  model.forgets = std::atoi(job.settings.at("forgets").c_str());
  model.compress = job.number("compress") != 0;
  uint64_t step_now = 0;
  Catalog catalog(*store, [&] {
    return static_cast<int64_t>((job.number("wall") + step_now) * 1'000'000'000);
  });
  CONVOY_RETURN_IF_ERROR(catalog.take_over(
      {job.settings.at("job"), job.number("generation"), "node-0:4711"}, job.number("force") != 0));
  uint64_t base = 0;
  for (const uint64_t step : job.steps) {
    step_now = step;
    CONVOY_RETURN_IF_ERROR(save_small_model(model, catalog, *store, step, base));
    if (job.number("incremental") != 0) base = step;
  }
  return job.number("release") != 0 ? catalog.release() : ok_status();
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  if (argc < 2) return 64;
  convoy::ckpt::Job job;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals == std::string::npos) {
      job.steps.push_back(std::strtoull(word.c_str(), nullptr, 10));
    } else if (job.settings.contains(word.substr(0, equals))) {
      job.settings[word.substr(0, equals)] = word.substr(equals + 1);
    } else {
      std::fprintf(stderr, "make_checkpoint knows no %s\n", word.c_str());
      return 64;
    }
  }
  const convoy::Status status = convoy::ckpt::run(argv[1], job);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  return status.ok() ? 0 : 1;
}
