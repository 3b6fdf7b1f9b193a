// MeshGroups and comm::Group over the backend `convoy`: eight processes on the mesh tp=2, dp=2,
// pp=2.
//
// Method: ranks are forked before anything of torch runs, meet in a file store, and compare what
// each group's collectives give with what the mesh says its members are. A rank reports through its
// exit code. Does not check the collectives themselves (conformance.py) nor CUDA groups beyond
// their refusal.
#include "tests/comm/forked_ranks.h"
#include "tests/temp_folder.h"
#include <convoy/comm/allocator.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/comm/nccl.h>

#include <catch2/catch.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <numeric>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::comm {
namespace {

constexpr int kRanks = 8;

void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

void check_groups(int rank, const std::string& file) {
  const Mesh mesh = Mesh::parse("tp=2,dp=2,pp=2", kRanks).value();
  MeshGroupsOptions options;
  options.timeout = std::chrono::seconds(60);
  options.prefix = "gen0/";
  MeshGroups groups(mesh, rank, c10::make_intrusive<c10d::FileStore>(file, -1), options);
  const std::vector<std::vector<std::string_view>> sets = {{"tp"}, {"dp"}, {"pp"}, {"tp", "dp"}};
  for (const auto& names : sets) {
    const Group group = groups.group(names);
    const std::vector<int> members = mesh.group_of(rank, names);
    expect(group.size() == static_cast<int>(members.size()), "size of " + group.name());
    expect(group.name() == "gen0/" + mesh.group_name(names, rank), "name " + group.name());
    expect(members[group.rank()] == rank, "rank in " + group.name());
    const at::Tensor sum = empty_shared({3}, at::kFloat).fill_(rank);
    group.all_reduce_(sum);
    const int want = std::accumulate(members.begin(), members.end(), 0);
    expect(sum.eq(want).all().item<bool>(), "sum over " + group.name());
    expect(groups.group(names).process_group() == group.process_group(), "groups are kept");
    // Row counts that differ: member i gives i + 1 rows of its rank.
    std::vector<int64_t> rows(members.size());
    std::iota(rows.begin(), rows.end(), 1);
    const at::Tensor mine =
        empty_shared({rows[group.rank()], 2}, at::kFloat).fill_(static_cast<double>(rank));
    const at::Tensor all = group.all_gather(mine, rows);
    expect(all.select(1, 0).sum().item<float>() ==
               std::inner_product(members.begin(), members.end(), rows.begin(), 0.0F),
           "uneven all_gather in " + group.name());
  }
  const Group world = groups.world();
  const int next = (rank + 1) % kRanks;
  const int previous = (rank + kRanks - 1) % kRanks;
  const at::Tensor got = at::empty({5});
  const Message around[] = {{false, got, previous},
                            {true, at::full({5}, static_cast<float>(rank)), next}};
  for (Pending& p : world.start_exchange(around)) p.wait();
  expect(got.eq(previous).all().item<bool>(), "exchange around the ring");
  expect(groups.group({"cp"}).alone(), "an absent dimension is a group of one");
  expect(groups.world().size() == kRanks, "world");
  groups.world().barrier();
}

}  // namespace

TEST_CASE("groups along the dimensions of a mesh") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 100, [&](int rank) { check_groups(rank, folder / "store"); }));
}

TEST_CASE("a mesh of one rank needs no store") {
  MeshGroups groups(Mesh(), 0, nullptr);
  CHECK(groups.group({"tp"}).alone());
  CHECK(groups.world().alone());
  CHECK_THROWS(MeshGroups(Mesh(), 1, nullptr));
}

TEST_CASE("without a store groups are handed over") {
  MeshGroups groups(Mesh::parse("tp=2", 2).value(), 0, nullptr);
  CHECK_THROWS_WITH(groups.group({"tp"}), Catch::Contains("tp[0] was not handed over"));
  const auto given = [](int rank, int size) {
    return c10::make_intrusive<c10d::ProcessGroup>(nullptr, rank, size);
  };
  CHECK_THROWS_WITH(groups.adopt({"tp"}, nullptr), Catch::Contains("tp[0]"));
  CHECK_THROWS_WITH(groups.adopt({"tp"}, given(1, 2)), Catch::Contains("rank 1 of 2"));
  CHECK_THROWS_WITH(groups.adopt({"tp"}, given(0, 3)), Catch::Contains("rank 0 of 3"));
  const auto tp = given(0, 2);
  groups.adopt({"tp"}, tp);
  CHECK(groups.group({"tp"}).process_group() == tp);
  CHECK(groups.world().process_group() == tp);
  CHECK_THROWS_WITH(groups.adopt({"tp"}, tp), Catch::Contains("already"));
}

TEST_CASE("a build without NCCL says so") {
  if (built_with_nccl()) return;  // then it takes a GPU to get further
  CHECK_THROWS_WITH(make_nccl_group(nullptr, 0, 1, {}), Catch::Contains("CONVOY_CUDA=ON"));
}

}  // namespace convoy::comm
