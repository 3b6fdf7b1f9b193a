// Rounds: read mine of the next round in the background, exchange this one, take apart what came.
// Every rank plans all rounds alone from what all have said, so messages carry bytes and no lists.
#include "ckpt/restore/chunk_reader.h"
#include "ckpt/restore/share_reads.h"
#include "ckpt/restore/staging.h"
#include <convoy/base/checksum.h>
#include <convoy/ckpt/load_together.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <system_error>
#include <utility>

namespace convoy::ckpt {
namespace {

using Bytes = Exchange::Bytes;

// Shares of staging_bytes_max: two rounds that are read, one that is sent, one that is received,
// and a reader's own.
constexpr size_t kShares = 6;

void put(Bytes& out, uint64_t number) {
  const size_t at = out.size();
  out.resize(at + sizeof(number));
  std::memcpy(&out[at], &number, sizeof(number));
}

// Numbers from a peer, none if they end early.
class Numbers {
 public:
  explicit Numbers(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool next(uint64_t& number) {
    if (bytes_.size() < sizeof(number)) return false;
    std::memcpy(&number, bytes_.data(), sizeof(number));
    bytes_ = bytes_.subspan(sizeof(number));
    return true;
  }
  std::span<const std::byte> rest() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// A message begins with how its sender is; behind a failure there is its text and nothing else.
Bytes message(const Status& status) {
  Bytes out;
  put(out, static_cast<uint64_t>(status.code()));
  const std::string& text = status.message();
  if (status.ok() || text.empty()) return out;
  out.resize(sizeof(uint64_t) + text.size());
  std::memcpy(&out[sizeof(uint64_t)], text.data(), text.size());
  return out;
}

Status status_of(const Bytes& bytes, int rank, std::span<const std::byte>& body) {
  Numbers numbers(bytes);
  uint64_t code = 0;
  const std::string who = "rank " + std::to_string(rank);
  if (!numbers.next(code) || code > static_cast<uint64_t>(Code::kInternal)) {
    return {Code::kInternal, who + " sent a message that is none"};
  }
  body = numbers.rest();
  if (code == 0) return ok_status();
  const std::string text(reinterpret_cast<const char*>(body.data()), body.size());
  return {static_cast<Code>(code), who + " of a load of several ranks failed: " + text};
}

// What says that two ranks read the same thing.
uint64_t identity(const Commit& commit) {
  Xxh3Stream sum;
  const auto add = [&](uint64_t number) { sum.update(std::as_bytes(std::span(&number, 1))); };
  add(commit.step);
  add(commit.claim);
  for (const PartRef& part : commit.parts) {
    add(part.node);
    add(part.checksum);
    sum.update(std::as_bytes(std::span(part.path)));
  }
  return sum.digest();
}

class Together {
 public:
  Together(StepSource& source, Exchange& exchange, const LoadOptions& options, LoadReport& report)
      : exchange_(exchange),
        options_(options),
        report_(report),
        homes_(source, options.other_sources) {}

  Status run(const State& wanted) {
    // What one rank can't do, all must hear of: so it says so in place of its wishes.
    const Status planned = plan(wanted);
    CONVOY_RETURN_IF_ERROR(tell_wishes(planned));
    const Status done = rounds();
    fill_report();
    return done;
  }

 private:
  // A round that was read: this rank's chunks of it, and where they lie.
  struct Round {
    std::vector<std::pair<uint32_t, const std::byte*>> chunks;  // as in the round's runs
    Status status;
  };

  Status plan(const State& wanted) {
    CONVOY_ASSIGN_OR_RETURN(plan_, plan_load(homes_, wanted, options_, report_));
    scatter_ = std::make_unique<Scatter>(plan_);
    part_options_ = options_;
    part_options_.staging_bytes_max = options_.staging_bytes_max / kShares;
    part_options_.progress = nullptr;  // told after each round
    CONVOY_ASSIGN_OR_RETURN(
        reader_, ChunkReader::create(homes_, plan_, part_options_, read_report_, *scatter_));
    CONVOY_ASSIGN_OR_RETURN(
        taker_, ChunkReader::create(homes_, plan_, part_options_, taken_report_, *scatter_));
    for (uint32_t i = 0; i < plan_.chunks.size(); ++i) order_.push_back(i);
    std::ranges::sort(
        order_, [&](uint32_t a, uint32_t b) { return plan_.chunks[a].id < plan_.chunks[b].id; });
    return ok_status();
  }

  std::vector<ChunkRun> wishes() const {
    std::vector<ChunkRun> runs;
    for (const uint32_t i : order_) {
      const ChunkId& id = plan_.chunks[i].id;
      if (!runs.empty() && runs.back().part == id.part && runs.back().stream == id.stream &&
          runs.back().first + runs.back().count == id.chunk) {
        ++runs.back().count;
        continue;
      }
      const uint64_t bytes = plan_.stream_of(plan_.chunks[i]).record->chunk_bytes;
      runs.push_back({id.part, id.stream, id.chunk, 1, bytes});
    }
    return runs;
  }

  Status tell_wishes(const Status& planned) {
    Bytes mine = message(planned);
    if (planned.ok()) {
      put(mine, identity(homes_.source().commit()));
      put(mine, options_.staging_bytes_max);
      for (const ChunkRun& run : wishes()) {
        for (const uint64_t n :
             {uint64_t{run.part}, uint64_t{run.stream}, run.first, run.count, run.chunk_bytes}) {
          put(mine, n);
        }
      }
    }
    CONVOY_ASSIGN_OR_RETURN(const std::vector<Bytes> all, exchange_.all_gather(std::move(mine)));
    std::vector<std::vector<ChunkRun>> wants;
    uint64_t staging = options_.staging_bytes_max;
    for (int r = 0; r < exchange_.size(); ++r) {
      CONVOY_ASSIGN_OR_RETURN(auto heard, wishes_of(all.at(static_cast<size_t>(r)), r));
      staging = std::min(staging, heard.first);
      wants.push_back(std::move(heard.second));
    }
    rounds_ = plan_rounds(share_reads(wants), wants.size(),
                          std::min<uint64_t>(staging / kShares, kRoundBytesMax));
    return ok_status();
  }

  Result<std::pair<uint64_t, std::vector<ChunkRun>>> wishes_of(const Bytes& bytes, int rank) {
    std::span<const std::byte> body;
    CONVOY_RETURN_IF_ERROR(status_of(bytes, rank, body));
    Numbers numbers(body);
    uint64_t same = 0, staging = 0, part = 0, stream = 0;
    if (!numbers.next(same) || !numbers.next(staging)) {
      return Status(Code::kInternal, "rank " + std::to_string(rank) + " sent a cut message");
    }
    if (same != identity(homes_.source().commit())) {
      return Status(Code::kMismatch, "rank " + std::to_string(rank) + " loads another step than " +
                                         homes_.source().name() + " of rank " +
                                         std::to_string(exchange_.rank()) +
                                         ", or one with other parts; give all ranks the same");
    }
    std::vector<ChunkRun> runs;
    for (ChunkRun run; numbers.next(part);) {
      run.part = static_cast<uint32_t>(part);
      const bool whole = numbers.next(stream) && numbers.next(run.first) &&
                         numbers.next(run.count) && numbers.next(run.chunk_bytes);
      if (!whole || run.chunk_bytes == 0) {
        return Status(Code::kInternal, "rank " + std::to_string(rank) + " sent a cut message");
      }
      run.stream = static_cast<uint32_t>(stream);
      runs.push_back(run);
    }
    return std::pair(staging, std::move(runs));
  }

  bool is_reader(const SharedRun& run) const {
    return static_cast<int>(run.reader) == exchange_.rank();
  }
  bool is_taker(const SharedRun& run) const {
    return std::ranges::binary_search(run.takers, static_cast<uint32_t>(exchange_.rank()));
  }

  // Calls `what` with this rank's number of each chunk, which it wants.
  template <class F>
  void each_chunk(const SharedRun& run, F what) {
    auto at = std::ranges::lower_bound(
        order_, ChunkId{run.chunks.part, run.chunks.stream, run.chunks.first}, {},
        [&](uint32_t i) { return plan_.chunks[i].id; });
    for (uint64_t i = 0; i < run.chunks.count; ++i, ++at) {
      CONVOY_CHECK(at != order_.end() && plan_.chunks[*at].id.chunk == run.chunks.first + i,
                   "a chunk that this rank has not wished for");
      what(*at);
    }
  }

  // This rank's chunks of a round, and their places in memory; the bytes that takes.
  size_t lay_out_round(const std::vector<SharedRun>& runs, std::vector<uint32_t>& chunks,
                       std::vector<size_t>& places) {
    size_t bytes = 0;
    for (const SharedRun& run : runs) {
      if (!is_reader(run)) continue;
      each_chunk(run, [&](uint32_t i) {
        const size_t size = plan_.size_of(plan_.chunks[i]);
        if (size % kDiskAlign == 0) bytes = round_up(bytes, kDiskAlign);  // for direct reads
        chunks.push_back(i);
        places.push_back(bytes);
        bytes += size;
      });
    }
    return bytes;
  }

  // Memory for two rounds, made once: the first touch of a page costs more than its copy.
  void make_memory() {
    for (const std::vector<SharedRun>& round : rounds_) {
      std::vector<uint32_t> chunks;
      std::vector<size_t> places;
      memory_bytes_ = std::max(memory_bytes_, lay_out_round(round, chunks, places));
    }
    const size_t count = std::min<size_t>(2, rounds_.size());
    for (size_t i = 0; i < count; ++i) {
      memory_.push_back(std::make_shared<const Staging>(memory_bytes_));
    }
  }

  // Reads this rank's part of a round; what nobody shares is the last round.
  Round read_round(size_t index) {
    Round round;
    if (index == rounds_.size()) {
      round.status = read_own();
      return round;
    }
    std::vector<uint32_t> chunks;
    std::vector<size_t> places;
    lay_out_round(rounds_[index], chunks, places);
    const std::shared_ptr<const Staging>& memory = memory_[index % 2];
    std::vector<ChunkJob> jobs;
    for (size_t i = 0; i < chunks.size(); ++i) {
      jobs.push_back({chunks[i], memory->data() + places[i]});
      round.chunks.emplace_back(chunks[i], jobs.back().keep);
    }
    round.status = reader_->run(jobs, memory);
    return round;
  }

  std::future<Round> read_ahead(size_t index) {
    const auto read = [this, index] { return read_round(index); };
    try {
      return std::async(std::launch::async, read);
    } catch (const std::system_error&) {
      return std::async(std::launch::deferred, read);
    }
  }

  // A vector whose memory was used before, if there is one.
  Bytes used() {
    if (spare_.empty()) return {};
    Bytes bytes = std::move(spare_.back());
    spare_.pop_back();
    return bytes;
  }

  // Messages of a round: each taker gets its chunks in the order of the round.
  std::vector<Bytes> messages(size_t index, const Round& round) {
    std::vector<Bytes> out(static_cast<size_t>(exchange_.size()));
    std::vector<size_t> sizes(out.size(), sizeof(uint64_t));
    for (const SharedRun& run : rounds_[index]) {
      if (!is_reader(run)) continue;
      for (const uint32_t taker : run.takers) sizes[taker] += run.chunks.bytes();
    }
    const Bytes head = message(round.status);
    for (size_t r = 0; r < out.size(); ++r) {
      if (static_cast<int>(r) == exchange_.rank()) continue;
      if (sizes[r] > sizeof(uint64_t)) out[r] = used();
      out[r].reserve(round.status.ok() ? sizes[r] : head.size());
      out[r].assign(head.begin(), head.end());
    }
    auto chunk = round.chunks.begin();
    for (const SharedRun& run : rounds_[index]) {
      if (!is_reader(run) || !round.status.ok()) continue;
      for (uint64_t i = 0; i < run.chunks.count; ++i, ++chunk) {
        const size_t bytes = plan_.size_of(plan_.chunks[chunk->first]);
        for (const uint32_t taker : run.takers) {
          out[taker].insert(out[taker].end(), chunk->second, chunk->second + bytes);
          report_.bytes_sent += bytes;
        }
      }
    }
    return out;
  }

  // A failure that a message tells of ends the load here, as it does on all ranks in this round.
  // One of this rank's own is told with the next message.
  Status take(size_t index, const Round& round, const std::vector<Bytes>& came) {
    std::vector<std::span<const std::byte>> bodies(came.size());
    for (int r = 0; r < exchange_.size(); ++r) {
      const auto i = static_cast<size_t>(r);
      CONVOY_RETURN_IF_ERROR(r == exchange_.rank() ? status_of(message(round.status), r, bodies[i])
                                                   : status_of(came[i], r, bodies[i]));
    }
    std::vector<ChunkJob> jobs;
    for (const SharedRun& run : rounds_[index]) {
      if (!is_taker(run)) continue;
      std::span<const std::byte>& body = bodies[run.reader];
      each_chunk(run, [&](uint32_t i) {
        const size_t bytes = plan_.size_of(plan_.chunks[i]);
        if (body.size() < bytes) {
          failure_ = Status(Code::kInternal,
                            "rank " + std::to_string(run.reader) + " sent fewer bytes than agreed");
          return;
        }
        jobs.push_back({i, nullptr, body.data()});
        body = body.subspan(bytes);
        report_.bytes_received += bytes;
      });
    }
    const Status taken = taker_->run(jobs);
    if (failure_.ok()) failure_ = taken;
    return ok_status();
  }

  Status rounds() {
    make_memory();
    std::future<Round> ahead = read_ahead(0);
    for (size_t i = 0; i < rounds_.size(); ++i) {
      Round round = ahead.get();
      if (round.status.ok()) round.status = failure_;
      if (round.status.ok()) ahead = read_ahead(i + 1);
      Result<std::vector<Bytes>> came = exchange_.all_to_all(messages(i, round));
      if (!came.ok()) return came.status();
      if (came->size() != static_cast<size_t>(exchange_.size())) {
        return {Code::kInternal, "an exchange gave messages of too few ranks"};
      }
      note_peak(i, *came);
      CONVOY_RETURN_IF_ERROR(take(i, round, *came));
      for (Bytes& bytes : *came) {
        if (bytes.capacity() > kChunkBytes) spare_.push_back(std::move(bytes));
      }
      if (failure_.ok() && stopped()) failure_ = Status(Code::kAborted, "the load was stopped");
    }
    const Status own = ahead.get().status;
    return finish(failure_.ok() ? own : failure_);
  }

  // The rest: what nobody else wants.
  Status read_own() {
    std::vector<bool> shared(plan_.chunks.size(), false);
    for (const std::vector<SharedRun>& round : rounds_) {
      for (const SharedRun& run : round) {
        if (!is_reader(run) && !is_taker(run)) continue;
        each_chunk(run, [&](uint32_t i) { shared[i] = true; });
      }
    }
    std::vector<ChunkJob> jobs;
    for (uint32_t i = 0; i < plan_.chunks.size(); ++i) {
      if (!shared[i]) jobs.push_back({i});
    }
    const Status status = reader_->run(jobs);
    if (status.ok() && stopped()) return {Code::kAborted, "the load was stopped"};
    return status;
  }

  Status finish(const Status& mine) {
    CONVOY_ASSIGN_OR_RETURN(const std::vector<Bytes> all, exchange_.all_gather(message(mine)));
    std::span<const std::byte> body;
    for (int r = 0; r < exchange_.size(); ++r) {
      CONVOY_RETURN_IF_ERROR(status_of(all.at(static_cast<size_t>(r)), r, body));
    }
    return ok_status();
  }

  // Tells how far the load is; true if it is to stop.
  bool stopped() {
    if (!options_.progress) return false;
    const std::lock_guard lock(progress_mutex_);  // the last round is read beside an exchange
    LoadProgress now = reader_->progress();
    const LoadProgress taken = taker_->progress();
    now.chunks += taken.chunks;
    now.bytes += taken.bytes;
    return !options_.progress(now);
  }

  void note_peak(size_t index, const std::vector<Bytes>& came) {
    uint64_t bytes = memory_bytes_ * memory_.size();
    for (const SharedRun& run : rounds_[index]) {
      if (is_reader(run)) bytes += run.chunks.bytes() * run.takers.size();
    }
    for (const Bytes& b : came) bytes += b.size();
    for (const Bytes& b : spare_) bytes += b.capacity();
    peak_ = std::max(peak_, bytes);
  }

  void fill_report() {
    report_.bytes_read = read_report_.bytes_read;
    report_.chunks = read_report_.chunks;
    report_.chunks_in_place = read_report_.chunks_in_place;
    report_.mended = read_report_.mended;
    report_.staging_peak = peak_ + read_report_.staging_peak + taken_report_.staging_peak;
  }

  Exchange& exchange_;
  const LoadOptions& options_;
  LoadReport& report_;
  PartHomes homes_;
  LoadPlan plan_;
  LoadOptions part_options_;
  LoadReport read_report_, taken_report_;
  std::unique_ptr<Scatter> scatter_;
  std::unique_ptr<ChunkReader> reader_, taker_;
  std::vector<uint32_t> order_;  // the plan's chunks by id
  std::vector<std::vector<SharedRun>> rounds_;
  std::vector<std::shared_ptr<const Staging>> memory_;  // round i is read to memory_[i % 2]
  size_t memory_bytes_ = 0;
  std::vector<Bytes> spare_;
  uint64_t peak_ = 0;
  std::mutex progress_mutex_;
  Status failure_;  // this rank's own, that others don't know of yet
};

}  // namespace

Status load_together(StepSource& source, const State& wanted, Exchange& exchange,
                     const LoadOptions& options, LoadReport* report) {
  LoadReport own;
  LoadReport& out = report != nullptr ? *report : own;
  out = LoadReport();
  out.step = source.commit().step;
  return Together(source, exchange, options, out).run(wanted);
}

}  // namespace convoy::ckpt
