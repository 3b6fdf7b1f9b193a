// Sharing out by sweeping over the ends of runs: cost grows with runs, not with chunks.
#include "ckpt/restore/share_reads.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace convoy::ckpt {
namespace {

// A place where a rank's wish begins or ends.
struct End {
  uint64_t at;
  bool begins;
  uint32_t rank;
};

// The largest pieces of equal wishes, in order; `takers` has all that want it.
std::vector<SharedRun> sweep(const std::vector<std::vector<ChunkRun>>& wants) {
  std::map<std::tuple<uint32_t, uint32_t>, std::pair<uint64_t, std::vector<End>>> streams;
  for (uint32_t rank = 0; rank < wants.size(); ++rank) {
    for (const ChunkRun& run : wants[rank]) {
      auto& [bytes, ends] = streams[{run.part, run.stream}];
      bytes = run.chunk_bytes;
      ends.push_back({run.first, true, rank});
      ends.push_back({run.first + run.count, false, rank});
    }
  }
  std::vector<SharedRun> out;
  for (auto& [stream, wishes] : streams) {
    auto& [bytes, ends] = wishes;
    std::ranges::sort(ends, [](const End& a, const End& b) {
      return std::tie(a.at, a.begins, a.rank) < std::tie(b.at, b.begins, b.rank);
    });
    std::set<uint32_t> want;
    uint64_t at = 0;
    for (const End& end : ends) {
      if (!want.empty() && end.at > at) {
        const auto [part, index] = stream;
        out.push_back({{part, index, at, end.at - at, bytes}, 0, {want.begin(), want.end()}});
      }
      at = end.at;
      if (end.begins) {
        want.insert(end.rank);
      } else {
        want.erase(end.rank);
      }
    }
  }
  return out;
}

}  // namespace

std::vector<SharedRun> share_reads(const std::vector<std::vector<ChunkRun>>& wants) {
  const std::vector<SharedRun> pieces = sweep(wants);
  std::vector<uint64_t> load(wants.size(), 0);
  uint64_t shared = 0;
  for (const SharedRun& piece : pieces) {
    if (piece.takers.size() > 1) {
      shared += piece.chunks.bytes();
    } else {
      load[piece.takers[0]] += piece.chunks.bytes();
    }
  }
  const uint64_t most = std::min(kSharedRunBytes, shared / (wants.size() * 16 + 1));
  std::vector<SharedRun> out;
  for (const SharedRun& piece : pieces) {
    if (piece.takers.size() < 2) continue;
    const uint64_t step = std::max<uint64_t>(1, most / piece.chunks.chunk_bytes);
    for (uint64_t done = 0; done < piece.chunks.count; done += step) {
      SharedRun run = piece;
      run.chunks.first += done;
      run.chunks.count = std::min(step, piece.chunks.count - done);
      run.reader = *std::ranges::min_element(
          run.takers, [&](uint32_t a, uint32_t b) { return load[a] < load[b]; });
      load[run.reader] += run.chunks.bytes();
      std::erase(run.takers, run.reader);
      out.push_back(std::move(run));
    }
  }
  return out;
}

std::vector<std::vector<SharedRun>> plan_rounds(std::vector<SharedRun> runs, size_t ranks,
                                                uint64_t most) {
  std::vector<std::vector<SharedRun>> rounds;
  std::vector<std::vector<SharedRun>> queues(ranks);  // by reader
  for (SharedRun& run : runs) queues[run.reader].push_back(std::move(run));
  std::vector<size_t> next(ranks, 0);
  for (;;) {
    std::vector<SharedRun> round;
    std::vector<uint64_t> sent(ranks, 0), received(ranks, 0);
    for (size_t r = 0; r < ranks; ++r) {
      while (next[r] < queues[r].size()) {
        SharedRun& run = queues[r][next[r]];
        uint64_t room = (most - std::min(most, sent[r])) / run.takers.size();
        for (const uint32_t taker : run.takers) {
          room = std::min(room, most - std::min(most, received[taker]));
        }
        uint64_t count = std::min(run.chunks.count, room / run.chunks.chunk_bytes);
        if (count == 0 && round.empty()) count = 1;
        if (count == 0) break;
        SharedRun part = run;
        part.chunks.count = count;
        sent[r] += part.chunks.bytes() * run.takers.size();
        for (const uint32_t taker : run.takers) received[taker] += part.chunks.bytes();
        round.push_back(std::move(part));
        run.chunks.first += count;
        run.chunks.count -= count;
        if (run.chunks.count == 0) ++next[r];
      }
    }
    if (round.empty()) return rounds;
    rounds.push_back(std::move(round));
  }
}

}  // namespace convoy::ckpt
