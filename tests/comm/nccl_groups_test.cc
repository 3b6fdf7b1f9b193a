// MeshGroups and comm::Group on NCCL: four processes on the mesh tp=2, dp=2, each with a GPU of its
// own.
//
// Method: runs on the stand-in for CUDA and NCCL (tests/python/rehearse.py), without which the
// ranks find no GPU and fail. Ranks are forked before anything of torch runs, meet in a file store,
// and compare what every call of comm::Group gives on CUDA tensors with what they work out on the
// CPU. Then one rank stays away from a collective, all abort, and the next generation of groups in
// the same processes must pass the same checks. Inputs are small integers, so sums are exact in any
// order. A rank reports through its exit code. Does not check dtypes and sizes (conformance.py) nor
// NCCL's own failures (nccl_faults.py).
#include "tests/comm/forked_ranks.h"
#include "tests/temp_folder.h"
#include <convoy/comm/mesh_groups.h>
#include <convoy/comm/nccl.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include <functional>
#include <iostream>
#include <numeric>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::comm {
namespace {

constexpr int kRanks = 4;
constexpr int64_t kColumns = 3;

void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// What global rank `rank` gives: known to everybody.
at::Tensor values(int rank, int64_t rows, int64_t salt = 0) {
  const at::Tensor x = at::arange(rows * kColumns).mul(7).add(rank * 13 + salt * 5);
  return x.remainder(11).sub(5).to(at::kFloat).view({rows, kColumns});
}

// One rank's checks of one group.
class Checks {
 public:
  Checks(Group group, std::vector<int> members, at::Device device)
      : group_(std::move(group)), members_(std::move(members)), device_(device) {}

  void all() {
    all_reduce();
    broadcast();
    for (const int64_t rows : {int64_t{1}, int64_t{500}}) {
      const std::vector<int64_t> even(members_.size(), rows);
      std::vector<int64_t> uneven(members_.size());
      std::iota(uneven.begin(), uneven.end(), rows);
      std::vector<int64_t> with_none = uneven;
      with_none[0] = 0;
      gather(even), gather(uneven), gather(with_none);
      reduce_scatter(even), reduce_scatter(uneven), reduce_scatter(with_none);
    }
    in_place();
    messages();
    exchange();
    group_.barrier();
  }

 private:
  int me() const { return members_[static_cast<size_t>(group_.rank())]; }
  at::Tensor on_gpu(const at::Tensor& t) const { return t.to(device_); }

  void same(const at::Tensor& got, const at::Tensor& want, const std::string& what) const {
    expect(got.device() == device_, what + " in " + group_.name() + ": another device");
    expect(at::equal(got.cpu(), want), what + " in " + group_.name() + ": other values");
  }

  at::Tensor sum(int64_t rows, int64_t salt = 0) const {
    at::Tensor total = at::zeros({rows, kColumns});
    for (const int member : members_) total += values(member, rows, salt);
    return total;
  }

  void all_reduce() {
    const at::Tensor blocking = on_gpu(values(me(), 100));
    group_.all_reduce_(blocking);
    same(blocking, sum(100), "all_reduce");
    at::Tensor most = values(members_[0], 100, 1);
    for (const int member : members_) most = at::maximum(most, values(member, 100, 1));
    const at::Tensor max = on_gpu(values(me(), 100, 1));
    group_.all_reduce_(max, c10d::ReduceOp::MAX);
    same(max, most, "all_reduce of the maximum");
    // Several under way, waited for in another order.
    std::vector<at::Tensor> tensors;
    std::vector<Pending> pending;
    for (int i = 0; i < 4; ++i) {
      tensors.push_back(on_gpu(values(me(), 50, i)));
      pending.push_back(group_.start_all_reduce_(tensors.back()));
    }
    for (size_t i = tensors.size(); i-- > 0;) {
      pending[i].wait();
      same(tensors[i], sum(50, static_cast<int64_t>(i)), "started all_reduce");
    }
  }

  void broadcast() {
    for (int root = 0; root < group_.size(); ++root) {
      const at::Tensor t = on_gpu(values(me(), 70));
      group_.broadcast_(t, root);
      same(t, values(members_[static_cast<size_t>(root)], 70), "broadcast");
    }
  }

  void gather(const std::vector<int64_t>& rows) {
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < members_.size(); ++i) parts.push_back(values(members_[i], rows[i]));
    const at::Tensor mine = on_gpu(parts[static_cast<size_t>(group_.rank())]);
    same(group_.all_gather(mine, rows), at::cat(parts), "all_gather");
  }

  void reduce_scatter(const std::vector<int64_t>& rows) {
    const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    const auto before = rows.begin() + group_.rank();
    const int64_t begin = std::accumulate(rows.begin(), before, int64_t{0});
    const at::Tensor want = sum(total, 2).narrow(0, begin, *before);
    const at::Tensor full = on_gpu(values(me(), total, 2));
    same(group_.reduce_scatter(full, rows), want, "reduce_scatter");
    at::Tensor shard;
    Pending pending = group_.start_reduce_scatter(full, rows, &shard);
    pending.wait();
    same(shard, want, "started reduce_scatter");
  }

  // Flat buffers, of which a rank's shard is a part.
  void in_place() {
    const int64_t rows = 40;
    std::vector<at::Tensor> parts;
    for (const int member : members_) parts.push_back(values(member, rows, 3));
    const at::Tensor full = on_gpu(at::zeros({rows * group_.size(), kColumns}));
    const at::Tensor shard = full.narrow(0, rows * group_.rank(), rows);
    shard.copy_(parts[static_cast<size_t>(group_.rank())]);
    group_.all_gather_into(full, shard);
    same(full, at::cat(parts), "all_gather in place");
    const at::Tensor other = at::empty_like(full);
    Pending gathering = group_.start_all_gather_into(other, shard);
    gathering.wait();
    same(other, at::cat(parts), "started all_gather");
    const at::Tensor grads = on_gpu(values(me(), rows * group_.size(), 4));
    const at::Tensor kept = grads.narrow(0, rows * group_.rank(), rows);
    const at::Tensor want = sum(rows * group_.size(), 4).narrow(0, rows * group_.rank(), rows);
    group_.reduce_scatter_into(kept, grads);
    same(kept, want, "reduce_scatter in place");
    const at::Tensor again = on_gpu(values(me(), rows * group_.size(), 4));
    const at::Tensor out = at::empty_like(kept);
    Pending reducing = group_.start_reduce_scatter_into(out, again);
    reducing.wait();
    same(out, want, "started reduce_scatter into");
  }

  // Around the ring. Messages of a NCCL group follow each other, so somebody has to receive first.
  void messages() {
    const int to = (group_.rank() + 1) % group_.size();
    const int from = (group_.rank() + group_.size() - 1) % group_.size();
    const at::Tensor mine = on_gpu(values(me(), 60));
    const at::Tensor got = at::empty_like(mine);
    std::vector<Pending> pending;
    const auto send = [&] { pending.push_back(group_.start_send(mine, to)); };
    const auto receive = [&] { pending.push_back(group_.start_recv(got, from)); };
    if (group_.rank() == 0) {
      receive(), send();
    } else {
      send(), receive();
    }
    for (Pending& p : pending) p.wait();
    same(got, values(members_[static_cast<size_t>(from)], 60), "message");
  }

  // To both neighbours and from both, started by all ranks in the same order.
  void exchange() {
    const int next = (group_.rank() + 1) % group_.size();
    const int previous = (group_.rank() + group_.size() - 1) % group_.size();
    const at::Tensor up = on_gpu(values(me(), 60, 5));
    const at::Tensor down = on_gpu(values(me(), 30, 6));
    const at::Tensor from_previous = at::empty_like(up);
    const at::Tensor from_next = at::empty_like(down);
    const Message messages[] = {{false, from_previous, previous},
                                {false, from_next, next},
                                {true, up, next},
                                {true, down, previous}};
    auto pending = group_.start_exchange(messages);
    expect(pending.size() == 4, "one for each message");
    for (Pending& p : pending) p.wait();
    same(from_previous, values(members_[static_cast<size_t>(previous)], 60, 5), "exchange");
    same(from_next, values(members_[static_cast<size_t>(next)], 30, 6), "exchange, backwards");
    expect(group_.start_exchange({}).empty(), "nothing to exchange");
  }

  const Group group_;
  const std::vector<int> members_;
  const at::Device device_;
};

MeshGroups groups_of(int rank, const std::string& file, const std::string& prefix) {
  MeshGroupsOptions options;
  options.device = c10::DeviceType::CUDA;
  options.device_index = rank;
  options.timeout = std::chrono::seconds(60);
  options.prefix = prefix;
  return {Mesh::parse("tp=2,dp=2", kRanks).value(), rank,
          c10::make_intrusive<c10d::FileStore>(file, -1), options};
}

const std::vector<std::vector<std::string_view>> kSets = {{"tp"}, {"dp"}, {"tp", "dp"}};

at::Device device_of(int rank) {
  return {at::kCUDA, static_cast<c10::DeviceIndex>(rank)};
}

void expect_failure(const std::function<void()>& call, const std::string& what) {
  bool failed = false;
  try {
    call();
  } catch (const std::exception&) {
    failed = true;
  }
  expect(failed, what + " should have failed");
}

// A group that is merely let go of is aborted, also for ranks that aren't through with it.
void shut_down(MeshGroups& groups) {
  for (const auto& names : kSets) groups.group(names).process_group()->shutdown();
}

void check_groups(MeshGroups& groups, int rank) {
  for (const auto& names : kSets) {
    Checks(groups.group(names), groups.mesh().group_of(rank, names), device_of(rank)).all();
  }
  expect(groups.group({"pp"}).alone(), "an absent dimension is a group of one");
}

}  // namespace

TEST_CASE("every call of a group on CUDA tensors") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 200, [&](int rank) {
    MeshGroups groups = groups_of(rank, folder / "store", "gen0/");
    check_groups(groups, rank);
    shut_down(groups);
  }));
}

// As after a failure: everybody aborts all groups, and the next generation is made of the same
// processes.
TEST_CASE("groups of the next generation after an abort") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 200, [&](int rank) {
    const std::string file = folder / "store";
    {
      MeshGroups groups = groups_of(rank, file, "gen0/");
      check_groups(groups, rank);
      const at::Tensor t = at::full({1000}, 1.0F).to(device_of(rank));
      Pending hanging;
      if (rank != 2) hanging = groups.world().start_all_reduce_(t);
      std::this_thread::sleep_for(std::chrono::seconds(1));
      expect(rank == 2 || !hanging.done(), "rank 2 stays away, so nobody gets through");
      groups.abort();
      if (rank != 2) expect_failure([&] { hanging.wait(); }, "what hung");
      expect_failure([&] { groups.world().all_reduce_(t); }, "an operation of an aborted group");
    }
    MeshGroups groups = groups_of(rank, file, "gen1/");
    check_groups(groups, rank);
    shut_down(groups);
  }));
}

}  // namespace convoy::comm
