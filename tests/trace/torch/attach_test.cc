// What attach() records of every kind of operation on the backend `convoy`.
//
// Method: ranks are forked, issue the same operations, and read their own segment. A rank compares
// every record with what it has just called: order, numbers, names, bytes, roots, peers, times.
// Does not check other backends (tests/python/trace_attach.py) nor costs (trace.hook).
#include "tests/comm/forked_ranks.h"
#include "tests/temp_folder.h"
#include <convoy/comm/backend.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/torch/attach.h>

#include <ATen/ATen.h>
#include <catch2/catch.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <map>
#include <sstream>
#include <thread>
#include <tuple>

namespace convoy::trace {
namespace {

using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;
using Tensors = std::vector<at::Tensor>;

constexpr int kRanks = 4;

void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// The operations of this process's segment in the order in which they were issued, as text:
// "world 3 reduce/float32/sum 24B root 2 issued started completed".
std::vector<std::string> recorded(const std::shared_ptr<Segment>& segment) {
  std::vector<Record> all;
  for (uint32_t i = 0; i < segment->rings(); ++i) RingReader(segment, i).read(all);
  std::ranges::stable_sort(all, {}, &Record::time);
  using Key = std::tuple<uint16_t, uint16_t, uint32_t, uint32_t>;
  std::map<Key, size_t> at;
  std::vector<std::string> texts;
  for (const Record& r : all) {
    const Key key{r.group, r.name, r.sequence, r.extra};
    if (r.kind == Kind::kIssued) {
      std::ostringstream text;
      text << parse_group(segment->name(r.group)).name << ' ' << r.sequence << ' '
           << segment->name(r.name) << ' ' << r.value << 'B';
      if (r.extra != 0) text << " rank " << r.extra - 1;
      expect(at.emplace(key, texts.size()).second, "issued twice: " + text.str());
      texts.push_back(text.str());
    } else if (r.kind == Kind::kStarted || r.kind == Kind::kCompleted) {
      expect(at.contains(key), "an operation goes on that was not issued");
      texts[at[key]] += r.kind == Kind::kStarted ? " started" : " completed";
    }
  }
  return texts;
}

// Waits a moment for hooks that are on their way.
void expect_records(const std::shared_ptr<Segment>& segment, std::vector<std::string> wanted) {
  std::vector<std::string> got;
  for (int i = 0; i < 100; ++i) {
    got = recorded(segment);
    if (got == wanted) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::string text = "records differ:";
  for (size_t i = 0; i < std::max(got.size(), wanted.size()); ++i) {
    const std::string g = i < got.size() ? got[i] : "-", w = i < wanted.size() ? wanted[i] : "-";
    text += (g == w ? "\n    " : "\n !  ") + g + (g == w ? "" : "   | wanted: " + w);
  }
  throw std::runtime_error(text);
}

GroupPtr make_group(const std::string& file, int rank, int size, const std::string& name) {
  const auto store = c10::make_intrusive<c10d::FileStore>(file, -1);
  auto options = c10::make_intrusive<comm::Backend::Options>();
  options->group_name = name;
  options->timeout = std::chrono::seconds(60);
  const auto type = c10d::ProcessGroup::BackendType::CUSTOM;
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  group->setDefaultBackend(type);
  group->setBackend(c10::DeviceType::CPU, type,
                    c10::make_intrusive<comm::Backend>(store, rank, size, std::move(options)));
  group->setGroupName(name);
  return group;
}

std::shared_ptr<Segment> open(int rank) {
  return open_recorder({.rank = rank, .world_size = kRanks}, Level::kCollectives).value();
}

template <class Options>
Options synchronous() {
  Options options;
  options.asyncOp = false;
  return options;
}

Tensors parts(int count, int64_t size) {
  Tensors all;
  for (int i = 0; i < count; ++i) all.push_back(at::ones({size}));
  return all;
}

// --- Collectives.

std::vector<std::string> call_reductions(const GroupPtr& group) {
  Tensors a = {at::ones({6})}, b = {at::ones({3}, at::kLong), at::ones({2}, at::kLong)};
  group->allreduce(a, synchronous<c10d::AllreduceOptions>());
  c10d::AllreduceOptions maximum;
  maximum.reduceOp = c10d::ReduceOp::MAX;
  Tensors half = {at::ones({4}, at::kBFloat16)};
  group->allreduce(half, maximum)->wait();
  c10d::AllreduceCoalescedOptions coalesced;
  group->allreduce_coalesced(b, coalesced)->wait();
  c10d::ReduceOptions reduce;
  reduce.rootRank = 1;
  reduce.reduceOp = c10d::ReduceOp::PRODUCT;
  group->reduce(a, reduce)->wait();
  Tensors out = {at::ones({2})};
  std::vector<Tensors> lists = {parts(kRanks, 2)};
  group->reduce_scatter(out, lists, c10d::ReduceScatterOptions{})->wait();
  at::Tensor whole = at::ones({kRanks * 2});
  group->reduce_scatter_single(out[0], whole, c10d::ReduceScatterOptions{})->wait();
  return {"world 1 all_reduce/float32/sum 24B started completed",
          "world 2 all_reduce/bfloat16/max 8B started completed",
          "world 3 all_reduce/int64/sum 40B started completed",
          "world 4 reduce/float32/product 24B rank 1 started completed",
          "world 5 reduce_scatter/float32/sum 32B started completed",
          "world 6 reduce_scatter/float32/sum 32B started completed"};
}

std::vector<std::string> call_moves(const GroupPtr& group, int rank) {
  Tensors in = {at::ones({3}, at::kInt)};
  c10d::BroadcastOptions broadcast;
  broadcast.rootRank = 2;
  group->broadcast(in, broadcast)->wait();
  std::vector<Tensors> lists = {Tensors{}};
  for (int i = 0; i < kRanks; ++i) lists[0].push_back(at::ones({3}, at::kInt));
  group->allgather(lists, in)->wait();
  at::Tensor whole = at::ones({kRanks * 3}, at::kInt);
  group->all_gather_single(whole, in[0])->wait();
  std::vector<Tensors> none, gathered = rank == 3 ? lists : none;
  c10d::GatherOptions gather;
  gather.rootRank = 3;
  group->gather(gathered, in, gather)->wait();
  std::vector<Tensors> scattered = rank == 0 ? lists : none;
  c10d::ScatterOptions scatter;
  scatter.rootRank = 0;
  group->scatter(in, scattered, scatter)->wait();
  Tensors out = parts(kRanks, 5), given = parts(kRanks, 5);
  group->alltoall(out, given)->wait();
  std::vector<int64_t> even, to(kRanks, 1), from(kRanks, 1);
  at::Tensor output = at::ones({kRanks}), input = at::ones({kRanks});
  group->all_to_all_single(output, input, even, even)->wait();
  group->all_to_all_single(output, input, from, to)->wait();
  group->barrier()->wait();
  return {"world 7 broadcast/int32/ 12B rank 2 started completed",
          "world 8 all_gather/int32/ 12B started completed",
          "world 9 all_gather/int32/ 12B started completed",
          "world 10 gather/int32/ 12B rank 3 started completed",
          "world 11 scatter/int32/ 12B rank 0 started completed",
          "world 12 all_to_all/float32//uneven 80B started completed",
          "world 13 all_to_all/float32/ 16B started completed",
          "world 14 all_to_all/float32//uneven 16B started completed",
          "world 15 barrier// 0B started completed"};
}

void check_collectives(int rank, const std::string& file) {
  const auto segment = open(rank);
  const GroupPtr group = make_group(file, rank, kRanks, "world");
  expect(attach(group).ok() && attach(group).ok(), "attach");
  std::vector<std::string> wanted = call_reductions(group);
  std::ranges::copy(call_moves(group, rank), std::back_inserter(wanted));
  expect_records(segment, wanted);
  // Counted while it is off, since the other ranks may be recording.
  segment->set_level(Level::kOff);
  group->barrier()->wait();
  segment->set_level(Level::kCollectives);
  group->barrier()->wait();
  wanted.emplace_back("world 17 barrier// 0B started completed");
  expect_records(segment, wanted);
  group->barrier()->wait();
}

// --- Messages and batches.

void check_messages(int rank, const std::string& file) {
  const auto segment = open(rank);
  const GroupPtr group = make_group(file, rank, kRanks, "world");
  expect(attach(group).ok(), "attach");
  const int next = (rank + 1) % kRanks, before = (rank + kRanks - 1) % kRanks;
  Tensors out = {at::ones({7})}, in = {at::ones({7})};
  for (int i = 0; i < 2; ++i) {
    const auto sent = group->send(out, next, 0);
    group->recv(in, before, 0)->wait();
    sent->wait();
  }
  const auto sent = group->send(out, next, 0);
  group->recvAnysource(in, 0)->wait();
  sent->wait();
  const std::string to = std::to_string(next), from = std::to_string(before);
  std::vector<std::string> wanted;
  for (const char* number : {"1", "2", "3"}) {
    wanted.push_back("world " + std::string(number) + " send/float32/ 28B rank " + to +
                     " completed");
    wanted.push_back("world " + std::string(number) + " recv/float32/ 28B rank " + from +
                     " completed");
  }
  expect_records(segment, wanted);

  group->startCoalescing(c10::DeviceType::CPU);
  group->send(out, next, 0);
  group->recv(in, before, 0);
  Tensors sum = {at::ones({2})};
  group->allreduce(sum);
  group->allreduce(sum);
  const auto batch = group->endCoalescing(c10::DeviceType::CPU);
  batch->wait();
  wanted.push_back("world 4 send/float32/ 28B rank " + to + " completed");
  wanted.push_back("world 4 recv/float32/ 28B rank " + from + " completed");
  wanted.emplace_back("world 1 all_reduce/float32/sum 8B started completed");
  wanted.emplace_back("world 2 all_reduce/float32/sum 8B started completed");
  expect_records(segment, wanted);
  group->barrier()->wait();
}

// --- Groups of a mesh: roots and peers are ranks of the job.

void check_mesh(int rank, const std::string& file) {
  const auto segment = open(rank);
  comm::MeshGroupsOptions options;
  options.timeout = std::chrono::seconds(60);
  comm::MeshGroups groups(Mesh::parse("tp=2,dp=2", kRanks).value(), rank,
                          c10::make_intrusive<c10d::FileStore>(file, -1), options);
  const comm::Group dp = groups.group({"dp"});
  expect(attach(dp.process_group(), {.name = "data"}).ok(), "attach");
  const at::Tensor tensor = at::ones({2}, at::kDouble);
  dp.broadcast_(tensor, 1);
  const auto group_text_of = [&] {
    std::vector<Record> all;
    for (uint32_t i = 0; i < segment->rings(); ++i) RingReader(segment, i).read(all);
    for (const Record& r : all) {
      if (r.kind == Kind::kIssued) return segment->name(r.group);
    }
    return std::string();
  };
  const auto mine = static_cast<uint32_t>(rank % 2);
  const GroupInfo wanted{"data", {mine, mine + 2}};
  expect(parse_group(group_text_of()) == wanted, "group " + group_text_of());
  expect_records(segment, {"data 1 broadcast/float64/ 16B rank " + std::to_string(mine + 2) +
                           " started completed"});
  dp.barrier();
}

// --- What goes wrong.

void check_hang(int rank, const std::string& file) {
  const auto segment = open(rank);
  const GroupPtr group = make_group(file, rank, 2, "world");
  expect(attach(group).ok(), "attach");
  Tensors tensor = {at::ones({2})};
  c10d::AllreduceOptions options;
  // Rank 1 adds up, rank 0 wants the maximum: each says what it called, and nothing completes.
  options.reduceOp = rank == 0 ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
  options.timeout = std::chrono::milliseconds(2000);
  bool failed = false;
  try {
    group->allreduce(tensor, options)->wait();
  } catch (const c10::Error&) {
    failed = true;
  }
  expect(failed, "a mismatch was not found");
  expect_records(segment, {rank == 0 ? "world 1 all_reduce/float32/max 8B started"
                                     : "world 1 all_reduce/float32/sum 8B started"});
}

}  // namespace

TEST_CASE("every collective is recorded") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 100, [&](int rank) { check_collectives(rank, folder / "store"); }));
}

TEST_CASE("messages and batches are recorded") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 100, [&](int rank) { check_messages(rank, folder / "store"); }));
}

TEST_CASE("roots and groups are told in ranks of the job") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 100, [&](int rank) { check_mesh(rank, folder / "store"); }));
}

TEST_CASE("ranks that disagree are seen to, and don't complete") {
  const TempFolder folder;
  CHECK(all_pass(2, 100, [&](int rank) { check_hang(rank, folder / "store"); }));
}

TEST_CASE("without a recorder nothing is attached") {
  const TempFolder folder;
  CHECK(all_pass(1, 60, [&](int rank) {
    const GroupPtr group = make_group(folder / "store", rank, 1, "alone");
    expect(attach(group).code() == Code::kFailedPrecondition, "no recorder");
    open(rank);
    expect(attach(group, {.ranks = {0, 1}}).code() == Code::kInvalidArgument, "two ranks of one");
    expect(attach(group).ok(), "later it is");
  }));
}

}  // namespace convoy::trace
