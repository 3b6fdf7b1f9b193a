// Method: ranks are threads with one folder of random tensors. They load together, and what they
// get is compared with the global tensors. Not here: steps in an agent's memory
// (tests/runtime/train_resume_test.py), reading itself (restore_together_test.cc).
#include "tests/ckpt/saved_step.h"
#include "tests/ckpt/thread_exchange.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/load_nearest.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

namespace convoy::ckpt {
namespace {

constexpr int kRanks = 3;
using Loaded = Result<std::optional<NearestStep>>;

// A folder with steps 1 and 2, of other content and layout.
struct Saved {
  Saved() {
    Random random(17);
    for (int i = 0; i < 3; ++i) shapes.push_back(random_global(random, "t" + std::to_string(i)));
    auto store = open_local_store(folder.path()).value();
    Catalog catalog(*store);
    REQUIRE(catalog.take_over({"job", 1, "test"}).ok());
    for (uint64_t step = 1; step <= 2; ++step) {
      std::vector<Global> content = shapes;
      for (Global& tensor : content) tensor.bytes = random_bytes(random, tensor.bytes.size());
      const Layouts layouts = random_layouts(random, content, 4);
      std::vector<Local> ranks;
      for (int r = 0; r < layouts.mesh.size(); ++r) {
        ranks.push_back(local_of(content, layouts, r, true));
      }
      SaveOptions options;
      options.chunk_bytes = 64;
      commits.push_back(save_step(catalog, *store, step, ranks, options).value());
      contents.push_back(std::move(content));
    }
    target = random_layouts(random, shapes, kRanks);
  }
  // Changes a byte of each data file of the step.
  void damage(uint64_t step) const {
    int files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
      const std::string path = entry.path().string();
      if (!path.ends_with(".chunks") ||
          path.find("s00000000000" + std::to_string(step)) == std::string::npos) {
        continue;
      }
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      const char byte = static_cast<char>(file.get() ^ 1);
      file.seekp(0);
      file.put(byte);
      ++files;
    }
    REQUIRE(files > 0);
  }

  TempFolder folder;
  std::vector<Global> shapes;
  std::vector<std::vector<Global>> contents;  // by step - 1
  std::vector<Commit> commits;
  Layouts target;
};

// On all ranks of the target layout; `places` by rank.
std::vector<Loaded> load(const Saved& saved, std::vector<Local>& ranks,
                         const std::function<LoadPlaces(int)>& places) {
  const int size = saved.target.mesh.size();
  ranks.clear();
  for (int r = 0; r < size; ++r) ranks.push_back(local_of(saved.shapes, saved.target, r, false));
  Hub hub(size);
  std::vector<Loaded> out(static_cast<size_t>(size), Loaded(std::optional<NearestStep>()));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      ThreadExchange exchange(hub, r, size);
      const auto i = static_cast<size_t>(r);
      out[i] = load_nearest(places(r), ranks[i].state, exchange);
    });
  }
  for (std::thread& t : threads) t.join();
  return out;
}

TEST_CASE("all ranks load the newest step, or the one before if it is damaged") {
  const Saved saved;
  std::vector<Local> ranks;
  const auto places = [&](int) { return LoadPlaces{"", saved.folder.path()}; };
  for (const uint64_t expected : {2, 1}) {
    for (const Loaded& loaded : load(saved, ranks, places)) {
      INFO(loaded.status().to_string());
      REQUIRE(loaded.ok());
      REQUIRE(loaded->has_value());
      CHECK((*loaded)->step == expected);
      CHECK((*loaded)->tier == Tier::kLocalDurable);
      CHECK((*loaded)->world_size == saved.commits[expected - 1].world_size);
      CHECK((*loaded)->report.passed_over.size() == 2 - expected);
    }
    for (const Local& rank : ranks) {
      CHECK(difference(saved.contents[expected - 1], rank) == "");
    }
    saved.damage(expected);
  }
  // Neither is whole now, and the text names both.
  for (const Loaded& loaded : load(saved, ranks, places)) {
    REQUIRE(loaded.status().code() == Code::kDataLoss);
    CHECK(loaded.status().message().find("step 2") != std::string::npos);
    CHECK(loaded.status().message().find("step 1") != std::string::npos);
  }
}

TEST_CASE("no step is no failure; a rank that doesn't see the folder is, for all") {
  const Saved saved;
  std::vector<Local> ranks;
  const TempFolder empty;
  for (const std::string& folder : {empty.path(), empty.path() + "/missing", std::string()}) {
    for (const Loaded& loaded : load(saved, ranks, [&](int) { return LoadPlaces{"", folder}; })) {
      REQUIRE(loaded.ok());
      CHECK_FALSE(loaded->has_value());
    }
  }
  if (saved.target.mesh.size() == 1) return;
  const auto outcomes = load(saved, ranks, [&](int r) {
    return LoadPlaces{"", r == 1 ? empty.path() + "/missing" : saved.folder.path()};
  });
  for (const Loaded& loaded : outcomes) {
    REQUIRE(loaded.status().code() == Code::kNotFound);
    CHECK(loaded.status().message().find("rank 1") != std::string::npos);
  }
}

TEST_CASE("an agent that is not there is no failure") {
  const Saved saved;
  std::vector<Local> ranks;
  for (const Loaded& loaded : load(saved, ranks, [&](int) {
         return LoadPlaces{"convoy-test-nobody-has-this-name", saved.folder.path()};
       })) {
    REQUIRE(loaded.ok());
    CHECK((*loaded)->step == 2);
  }
}

}  // namespace
}  // namespace convoy::ckpt
