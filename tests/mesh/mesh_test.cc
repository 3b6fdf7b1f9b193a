// Mesh: texts in, ranks and groups out. Each relation (rank ↔ coordinates, groups partition the
// ranks, text ↔ mesh) is checked exhaustively over all factorisations of small jobs, with the
// default and with explicit orders; errors by their texts, since those are the interface that a
// person meets. Does not check tensors (shard_spec_test).
#include <convoy/mesh/mesh.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

namespace convoy {
namespace {

Mesh mesh_of(std::string_view text, int world_size) {
  return Mesh::parse(text, world_size).value();
}

std::string error_of(std::string_view text, int world_size) {
  const Result<Mesh> mesh = Mesh::parse(text, world_size);
  REQUIRE_FALSE(mesh.ok());
  REQUIRE(mesh.status().code() == Code::kInvalidArgument);
  return mesh.status().message();
}

using Catch::Contains;

TEST_CASE("rank order follows the topology, not the text") {
  for (const char* text : {"tp=2,pp=2,dp=2", "dp=2,pp=2,tp=2", " pp = 2 , tp=2,dp=2 "}) {
    const Mesh mesh = mesh_of(text, 8);
    REQUIRE(mesh.names() == std::vector<std::string>{"tp", "dp", "pp"});
    REQUIRE(mesh.group_of(5, {"tp"}) == std::vector<int>{4, 5});
    REQUIRE(mesh.group_of(5, {"dp"}) == std::vector<int>{5, 7});
    REQUIRE(mesh.group_of(5, {"pp"}) == std::vector<int>{1, 5});
    REQUIRE(mesh.group_of(7, {"pp", "tp"}) == std::vector<int>{2, 3, 6, 7});
    REQUIRE(mesh.group_of(0, {"pp", "tp"}) == std::vector<int>{0, 1, 4, 5});
    REQUIRE(mesh.group_name({"tp"}, 5) == "tp[2]");
    REQUIRE(mesh.group_name({"dp", "tp"}, 5) == "tp×dp[1]");
    REQUIRE(mesh.to_string() == "tp=2,dp=2,pp=2");
  }
  REQUIRE(mesh_of("pp=1,dp=1,zeta=1,alpha=1,ep=1,cp=1,tp=1", 1).names() ==
          std::vector<std::string>{"tp", "cp", "ep", "alpha", "zeta", "dp", "pp"});
}

TEST_CASE("an explicit order wins") {
  const Mesh mesh = mesh_of("tp=2,pp=3,dp=2,order=pp-tp-dp", 12);
  REQUIRE(mesh.group_of(0, {"pp"}) == std::vector<int>{0, 1, 2});
  REQUIRE(mesh.group_of(0, {"tp"}) == std::vector<int>{0, 3});
  REQUIRE(mesh.to_string() == "pp=3,tp=2,dp=2,order=pp-tp-dp");
  REQUIRE(mesh == Mesh::create({{"dp", 2}, {"tp", 2}, {"pp", 3}}, 12, {"pp", "tp", "dp"}).value());
}

TEST_CASE("one size may be inferred") {
  REQUIRE(mesh_of("tp=2,dp=*", 8).size("dp") == 4);
  REQUIRE(mesh_of("dp=*", 7).size("dp") == 7);
  REQUIRE(Mesh::create({{"pp", kInferSize}, {"tp", 4}}, 4).value().size("pp") == 1);
  REQUIRE_THAT(error_of("tp=3,dp=*", 8), Contains("multiply to 3") && Contains("8 ranks"));
  REQUIRE_THAT(error_of("tp=*,dp=*", 8), Contains("Only one"));
}

TEST_CASE("an absent dimension has size 1") {
  const Mesh mesh = mesh_of("tp=4", 4);
  REQUIRE(mesh.size("pp") == 1);
  REQUIRE_FALSE(mesh.has("pp"));
  REQUIRE(mesh.coordinate(3, "pp") == 0);
  REQUIRE(mesh.group_of(3, {"pp"}) == std::vector<int>{3});
  REQUIRE(mesh.group_name({"pp"}, 3) == "pp[3]");
  REQUIRE(mesh.with_coordinate(3, "pp", 0) == 3);
  REQUIRE(Mesh() == mesh_of("", 1));
  REQUIRE(Mesh().group_of(0, {"tp", "dp"}) == std::vector<int>{0});
}

TEST_CASE("sizes that do not multiply to the job name the mend") {
  const std::string wrong = error_of("tp=2,pp=2,dp=3", 8);
  REQUIRE_THAT(wrong, Contains("multiply to 12") && Contains("8 ranks") && Contains("dp=2"));
  REQUIRE_THAT(wrong, Contains("Start 12 ranks"));
  REQUIRE_THAT(error_of("tp=2,pp=2", 8), Contains("dp=2 added"));
  REQUIRE_THAT(error_of("", 8), Contains("dp=8 added"));
  REQUIRE_THAT(error_of("tp=3,dp=5", 8), Contains("(1, 2, 4, 8)"));
  REQUIRE_THAT(error_of("tp=2000000000,dp=2000000000,pp=2000000000", 8), Contains("more than"));
}

TEST_CASE("text that is not a mesh is refused with the right spelling") {
  for (const char* text : {"tp", "tp=", "tp=x", "tp=2x", "=2", "tp=2,,dp=4", "tp=2;dp=4", "tp=2,",
                           "tp=99999999999", "TP=8", "8", "t p=8", "tp=8,order=2=3"}) {
    INFO(text);
    REQUIRE_FALSE(error_of(text, 8).empty());
  }
  REQUIRE_THAT(error_of("tp=2,dp", 8), Contains("name=size") && Contains("tp=2,pp=2,dp=2"));
  REQUIRE_THAT(error_of("tp=2,tp=4", 8), Contains("tp is given twice"));
  REQUIRE_THAT(error_of("tp=0,dp=8", 8), Contains("size 0 of tp"));
  REQUIRE_THAT(error_of("tp=-1,dp=8", 8), Contains("below 1"));
  REQUIRE_THAT(error_of("tp=2,dp=4,order=tp", 8), Contains("1 of 2"));
  REQUIRE_THAT(error_of("tp=2,dp=4,order=tp-tp", 8), Contains("twice"));
  REQUIRE_THAT(error_of("tp=2,dp=4,order=tp-pp", 8), Contains("not a dimension"));
  REQUIRE_THAT(error_of("dp=1", 0), Contains("0 ranks"));
}

// Every mesh over `names` with `world_size` ranks.
void for_each_mesh(std::vector<std::string> names, int world_size, std::vector<MeshDim> dims,
                   const std::function<void(const Mesh&)>& visit) {
  if (names.empty()) {
    const int total = std::accumulate(dims.begin(), dims.end(), 1,
                                      [](int a, const MeshDim& dim) { return a * dim.size; });
    if (total != world_size) return;
    std::vector<std::string> order;
    for (const MeshDim& dim : dims) order.push_back(dim.name);
    std::sort(order.begin(), order.end());
    do {
      visit(Mesh::create(dims, world_size, order).value());
    } while (std::next_permutation(order.begin(), order.end()));
    return;
  }
  const std::string name = names.back();
  names.pop_back();
  for (int size = 1; size <= world_size; ++size) {
    if (world_size % size != 0) continue;
    dims.push_back({name, size});
    for_each_mesh(names, world_size, dims, visit);
    dims.pop_back();
  }
}

// rank ↔ coordinates in every spelling.
void check_ranks(const Mesh& mesh) {
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const std::vector<int> coordinates = mesh.coordinates(rank);
    REQUIRE(mesh.rank_of(coordinates) == rank);
    std::vector<std::pair<std::string_view, int>> named;
    for (size_t i = 0; i < coordinates.size(); ++i) {
      const std::string& name = mesh.dims()[i].name;
      REQUIRE(mesh.coordinate(rank, name) == coordinates[i]);
      named.insert(named.begin(), {name, coordinates[i]});
      const std::vector<int> group = mesh.group_of(rank, {name});
      for (int c = 0; c < mesh.size(name); ++c) {
        REQUIRE(mesh.with_coordinate(rank, name, c) == group[static_cast<size_t>(c)]);
      }
    }
    REQUIRE(mesh.rank_of(named) == rank);
  }
}

// Groups of every subset of dimensions partition the ranks, are sorted, and agree with coordinates.
void check_groups(const Mesh& mesh) {
  const size_t n = mesh.dims().size();
  for (size_t subset = 0; subset < (size_t{1} << n); ++subset) {
    std::vector<std::string_view> names;
    for (size_t i = 0; i < n; ++i) {
      if ((subset >> i & 1) != 0) names.emplace_back(mesh.dims()[i].name);
    }
    const std::vector<std::vector<int>> groups = mesh.groups(names);
    std::set<int> seen;
    std::set<std::string> titles;
    for (size_t g = 0; g < groups.size(); ++g) {
      REQUIRE(std::is_sorted(groups[g].begin(), groups[g].end()));
      titles.insert(mesh.group_name(names, groups[g][0]));
      for (const int rank : groups[g]) {
        REQUIRE(seen.insert(rank).second);
        REQUIRE(mesh.group_of(rank, names) == groups[g]);
        REQUIRE(mesh.group_index(names, rank) == static_cast<int>(g));
        for (size_t i = 0; i < n; ++i) {
          if ((subset >> i & 1) != 0) continue;
          const std::string& other = mesh.dims()[i].name;
          REQUIRE(mesh.coordinate(rank, other) == mesh.coordinate(groups[g][0], other));
        }
      }
    }
    REQUIRE(seen.size() == static_cast<size_t>(mesh.size()));
    REQUIRE(titles.size() == groups.size());
  }
}

TEST_CASE("ranks, coordinates, groups and text agree on every small mesh") {
  int meshes = 0;
  for (const int world_size : {1, 2, 3, 4, 6, 8, 12}) {
    for_each_mesh({"tp", "dp", "pp", "any"}, world_size, {}, [&](const Mesh& mesh) {
      ++meshes;
      INFO(mesh.to_string());
      REQUIRE(Mesh::parse(mesh.to_string(), world_size).value() == mesh);
      check_ranks(mesh);
      check_groups(mesh);
    });
  }
  REQUIRE(meshes > 1000);
}

}  // namespace
}  // namespace convoy
