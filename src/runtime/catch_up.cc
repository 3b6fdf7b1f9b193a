#include "src/runtime/catch_up.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <vector>

namespace convoy::runtime {
namespace {

// A standing, and whether the next step lacks only its update, as numbers of a collective.
constexpr int64_t kNumbers = 16;
using Numbers = std::array<int64_t, kNumbers>;

struct Row {
  Standing standing;
  bool has_gradients = false;
};

Numbers numbers_of(const Row& row) {
  const Standing& s = row.standing;
  const auto bits = [](double value) { return std::bit_cast<int64_t>(value); };
  return {s.is_valid ? 1 : 0,
          s.steps,
          row.has_gradients ? 1 : 0,
          s.after,
          s.total,
          bits(s.elapsed),
          bits(s.last.loss),
          bits(s.last.grad_norm),
          bits(s.last.lr),
          static_cast<int64_t>(s.position.samples),
          static_cast<int64_t>(s.position.seed),
          static_cast<int64_t>(s.position.epoch),
          static_cast<int64_t>(s.position.offset),
          s.is_sound ? 1 : 0,
          s.trusted,
          s.is_resized ? 1 : 0};
}

Row row_of(const int64_t* n) {
  const auto real = [&](int i) { return std::bit_cast<double>(n[i]); };
  Row row;
  Standing& s = row.standing;
  s.is_valid = n[0] != 0;
  s.steps = n[1];
  row.has_gradients = n[2] != 0;
  s.after = n[3];
  s.total = n[4];
  s.elapsed = real(5);
  s.last = {real(6), real(7), real(8)};
  s.position.samples = static_cast<uint64_t>(n[9]);
  s.position.seed = static_cast<uint64_t>(n[10]);
  s.position.epoch = static_cast<uint64_t>(n[11]);
  s.position.offset = static_cast<uint64_t>(n[12]);
  s.is_sound = n[13] != 0;
  s.trusted = n[14];
  s.is_resized = n[15] != 0;
  return row;
}

std::vector<Row> gather(const comm::Group& world, const Row& mine) {
  if (world.alone()) return {mine};
  const Numbers numbers = numbers_of(mine);
  at::Tensor sent = at::empty({1, kNumbers}, at::kLong);
  std::copy(numbers.begin(), numbers.end(), sent.mutable_data_ptr<int64_t>());
  const at::Tensor all = world.all_gather(sent.to(world.device())).cpu();
  std::vector<Row> rows;
  for (int64_t r = 0; r < all.size(0); ++r) {
    rows.push_back(row_of(all.const_data_ptr<int64_t>() + r * kNumbers));
  }
  return rows;
}

// Whose state each rank takes; nullopt: a part of the model is on no rank any more.
std::optional<std::vector<int>> sources(const Mesh& mesh, const std::vector<Row>& rows) {
  std::vector<int> from(rows.size());
  for (int rank = 0; rank < mesh.size(); ++rank) {
    from[static_cast<size_t>(rank)] = rank;
    if (rows[static_cast<size_t>(rank)].standing.is_valid) continue;
    std::vector<int> holders = mesh.group_of(rank, {"dp"});
    std::erase_if(holders, [&](int r) { return !rows[static_cast<size_t>(r)].standing.is_valid; });
    if (holders.empty()) return std::nullopt;
    // Several that lack it take it from different ones.
    from[static_cast<size_t>(rank)] = holders[static_cast<size_t>(rank) % holders.size()];
  }
  return from;
}

// Who lacks a state receives it from a replica. All transfers of a group go on side by side.
void copy_replicas(Runtime& runtime, Trainer& trainer, const std::vector<int>& from) {
  const Mesh& mesh = runtime.mesh();
  const std::vector<int> ranks = mesh.group_of(runtime.rank(), {"dp"});
  const comm::Group dp = runtime.group("dp");
  std::vector<comm::Message> messages;
  for (size_t place = 0; place < ranks.size(); ++place) {
    const int rank = ranks[place], source = from[static_cast<size_t>(rank)];
    if (rank == source || (runtime.rank() != rank && runtime.rank() != source)) continue;
    const bool sends = runtime.rank() == source;
    const int peer = mesh.coordinate(sends ? rank : source, "dp");
    for (const at::Tensor& part : trainer.replica_state()) messages.push_back({sends, part, peer});
  }
  for (comm::Pending& message : dp.start_exchange(messages)) message.wait();
}

}  // namespace

CaughtUp catch_up(Runtime& runtime, Trainer& trainer, const Standing& mine,
                  const std::function<void()>& before_update) {
  std::vector<Row> rows = gather(runtime.groups().world(), {mine, trainer.has_gradients()});
  CaughtUp out;
  for (const Row& row : rows) {
    if (!row.standing.is_valid) continue;
    out.is_resized = out.is_resized || row.standing.is_resized;
    if (!out.now.is_valid || row.standing.steps > out.now.steps) out.now = row.standing;
  }
  if (!out.now.is_valid) return out;
  int64_t after = out.now.steps, trusted = INT64_MAX;
  bool any_lacks = false;
  for (Row& row : rows) {
    if (!row.standing.is_valid) {
      any_lacks = true;
      continue;
    }
    after = std::min(after, row.standing.after);
    trusted = std::min(trusted, row.standing.trusted);
    out.now.elapsed = std::max(out.now.elapsed, row.standing.elapsed);
    const bool can_finish = row.standing.steps + 1 == out.now.steps && row.has_gradients;
    const bool is_behind = row.standing.steps != out.now.steps && !can_finish;
    if (is_behind || !row.standing.is_sound) row.standing.is_valid = false;
    any_lacks = any_lacks || !row.standing.is_valid;
  }
  out.now.after = after;
  out.now.trusted = trusted;
  // A sharded optimizer's parts have no replicas.
  const auto from =
      trainer.is_sharded() && any_lacks ? std::nullopt : sources(runtime.mesh(), rows);
  if (!from) return out;
  out.is_whole = true;
  out.source = "its own memory";
  const Row& own = rows[static_cast<size_t>(runtime.rank())];
  before_update();
  if (own.standing.is_valid && own.standing.steps < out.now.steps) {
    StepResult result = out.now.last;
    trainer.update(result);
    out.source = "its own memory, with the update made up for";
  }
  if (any_lacks) copy_replicas(runtime, trainer, *from);
  if (!own.standing.is_valid) {
    trainer.restored(out.now.steps);
    out.source = "rank " + std::to_string((*from)[static_cast<size_t>(runtime.rank())]);
  }
  return out;
}

}  // namespace convoy::runtime
