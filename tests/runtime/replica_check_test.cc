// Proves, over meshes, piece counts, types and seeds, without processes: replicas that are equal
// are never told to differ; one flipped bit anywhere in the state of one of them is seen by all
// ranks within `pieces` steps, by its own set and no other. (What real jobs do then:
// recover_test.py.)
#include "src/runtime/replica_check.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <catch2/catch.hpp>

#include <map>
#include <random>

namespace convoy::runtime {
namespace {

using State = std::vector<at::Tensor>;

State random_state(at::ScalarType type) {
  State state;
  for (const int64_t elements : {1, 7, 33, 258}) {
    state.push_back(at::rand({elements}, at::kFloat).to(type));
  }
  return state;
}

State copy_of(const State& state) {
  State copy;
  for (const at::Tensor& tensor : state) copy.push_back(tensor.clone());
  return copy;
}

// All ranks of a job, and what their collective would say.
struct Ranks {
  Ranks(const std::string& text, int64_t pieces, at::ScalarType type)
      : mesh(Mesh::parse(text, text == "dp=2" ? 2 : 8).value()) {
    std::map<int, State> of_set;
    for (int rank = 0; rank < mesh.size(); ++rank) {
      const int first = mesh.group_of(rank, {"dp"}).front();
      if (!of_set.contains(first)) of_set[first] = random_state(type);
      states.push_back(copy_of(of_set[first]));
      checks.emplace_back(mesh, rank, pieces);
    }
  }
  std::vector<double> sums(int64_t step) {
    std::vector<double> sums;
    for (size_t r = 0; r < checks.size(); ++r) {
      const std::vector<double> numbers = checks[r].numbers(step, states[r]);
      sums.resize(numbers.size());
      for (size_t i = 0; i < numbers.size(); ++i) sums[i] += numbers[i];
    }
    return sums;
  }
  Mesh mesh;
  std::vector<State> states;
  std::vector<ReplicaCheck> checks;
};

void flip_a_bit(State& state, std::mt19937_64& random) {
  at::Tensor& tensor = state[random() % state.size()];
  auto* bytes = static_cast<unsigned char*>(tensor.mutable_data_ptr());
  bytes[random() % tensor.nbytes()] ^= static_cast<unsigned char>(1U << (random() % 8));
}

}  // namespace

TEST_CASE("a flipped bit is found within as many steps as there are pieces, and nothing else is") {
  std::mt19937_64 random(7);
  for (const char* mesh : {"dp=2", "dp=8", "tp=2,dp=4", "tp=2,pp=2,dp=2"}) {
    for (const int64_t pieces : {1, 3, 16}) {
      for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
        Ranks ranks(mesh, pieces, type);
        for (int64_t step = 0; step < pieces; ++step) {
          REQUIRE_FALSE(ranks.checks[0].differs(ranks.sums(step)));
        }
        const size_t odd = random() % ranks.states.size();
        flip_a_bit(ranks.states[odd], random);
        int64_t found = 0;
        const auto begin = static_cast<int64_t>(random() % 1000);
        for (int64_t step = begin; step < begin + pieces; ++step) {
          const std::vector<double> sums = ranks.sums(step);
          if (!ranks.checks[0].differs(sums)) continue;
          ++found;
          const std::vector<int> set = ranks.mesh.group_of(static_cast<int>(odd), {"dp"});
          for (int r = 0; r < ranks.mesh.size(); ++r) {
            const auto& check = ranks.checks[static_cast<size_t>(r)];
            REQUIRE(check.differs(sums));
            REQUIRE(check.own_differs(sums) == (std::find(set.begin(), set.end(), r) != set.end()));
          }
        }
        INFO(mesh << ", " << pieces << " pieces, rank " << odd);
        REQUIRE(found == 1);  // one piece holds the bit
      }
    }
  }
}

TEST_CASE("nothing is checked without replicas, or when it is switched off") {
  for (const auto& [mesh, pieces] : {std::pair("tp=2,pp=4", 16), std::pair("dp=8", 0)}) {
    Ranks ranks(mesh, pieces, at::kFloat);
    CHECK_FALSE(ranks.checks[0].is_on());
    CHECK_FALSE(ranks.checks[0].differs(ranks.sums(3)));
    CHECK_FALSE(ranks.checks[0].own_differs(ranks.sums(3)));
  }
}

}  // namespace convoy::runtime
