#include "tests/trace/small_job.h"

#include <string>
#include <vector>

namespace convoy::trace {
namespace {

constexpr int64_t kUs = 1000;
constexpr uint64_t kActivation = 8 << 20, kGradients = 64 << 20;

// One rank's events of one step, on its host's clock.
class Player {
 public:
  Player(const SmallJob& job, Registry& registry, Sink& to, uint32_t rank)
      : job_(job), registry_(registry), to_(to), state_(job.seed * 7919 + rank) {
    batch_.rank = rank;
    const std::string replica = std::to_string(rank / 4), stage = std::to_string(rank / 2 % 2);
    const uint32_t pair = rank / 2 * 2;
    tp_ = registry.group({"tp[" + std::to_string(pair / 2) + "]", {pair, pair + 1}});
    const uint32_t column = rank % 2 + 4 * (rank / 4);
    pp_ = registry.group({"pp[" + std::to_string(column) + "]", {column, column + 2}});
    GroupInfo dp{"dp[" + std::to_string(rank % 4) + "]", {}};
    for (uint32_t r = rank % 4; r < job.world_size(); r += 4) dp.ranks.push_back(r);
    dp_ = registry.group(dp);
    ahead_ = host() == 1 ? SmallJob::kAhead : 0;
    batch_.host = "node" + std::to_string(host());
    batch_.pid = 4000 + static_cast<int32_t>(rank);
  }

  void step(uint32_t number, int64_t begin) {
    now_ = begin;
    const int64_t data = now_;
    now_ += noisy(300);
    span(names::kData, data, now_, 0);
    for (uint32_t m = 0; m < job_.micro_batches; ++m) pass(false, m);
    flush();
    for (uint32_t m = 0; m < job_.micro_batches; ++m) pass(true, m);
    const bool hung = job_.hangs && number == job_.steps;
    if (hung) return hang(number, begin);
    const int64_t reduce = now_;
    now_ = std::max(now_, reduced_) + 10 * kUs;
    span(names::kReduceGradients, reduce, now_, 0);
    const int64_t optimizer = now_;
    now_ += noisy(400);
    span(names::kOptimizer, optimizer, now_, 0);
    span(names::kStep, begin, now_, number);
    counter(names::kTokens, -1, uint64_t{2048} * number);
    counter(names::kSentBytes, static_cast<int32_t>(peer()), kGradients * number);
    flush();
  }

  int64_t now() const { return now_; }

 private:
  uint32_t host() const { return batch_.rank < job_.world_size() / 2 ? 0 : 1; }
  uint32_t peer() const { return batch_.rank ^ 2; }
  bool last_stage() const { return batch_.rank / 2 % 2 == 1; }

  int64_t noisy(double us) {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    const double noise = 0.97 + 0.06 * static_cast<double>(state_ >> 40) / (1 << 24);
    return static_cast<int64_t>(us * noise * 10) * 100;
  }

  void span(const char* name, int64_t begin, int64_t end, uint64_t value, uint32_t thread = 0) {
    batch_.spans.push_back({registry_.name(name), thread, begin + ahead_, end + ahead_, value});
  }
  void counter(const char* name, int32_t to, uint64_t value) {
    batch_.counters.push_back({registry_.name(name), to, now_ + ahead_, value});
  }
  void operation(const Signature& s, uint32_t sequence, int64_t issued, int64_t started,
                 int64_t completed) {
    batch_.operations.push_back(
        {registry_.signature(s), sequence, issued + ahead_, started + ahead_, completed + ahead_});
  }

  // Forward or backward of a micro-batch: waits for the neighbour, computes, sums over the pair.
  void pass(bool backward, uint32_t m) {
    const int64_t begin = now_;
    const bool receives = last_stage() != backward;
    const auto neighbour = static_cast<int32_t>(peer());
    Signature message{pp_, receives ? "recv" : "send", "bfloat16", "", -1, neighbour, kActivation};
    if (receives) {
      const int64_t until = now_ + noisy(50);
      operation(message, ++received_, now_, now_, until);
      span(names::kAwaitStage, now_, until, 0);
      now_ = until;
    }
    const double slow = backward ? job_.slow * (last_stage() ? job_.slow_last : 1) : 1;
    const int64_t work = now_;
    now_ += noisy((backward ? 800 : 400) * slow);
    if (job_.kernels) span(names::kKernel, work, now_, 0, 100);
    const int64_t sum = now_;
    now_ += noisy(120);
    operation({tp_, "all_reduce", "bfloat16", "sum", -1, -1, kActivation}, ++tensor_sums_, sum,
              sum + 5 * kUs, now_);
    if (!receives) {
      operation(message, ++sent_, now_, now_ + kUs, now_ + 60 * kUs);
    }
    span(backward ? names::kBackward : names::kForward, begin, now_, m);
    if (backward) gradients(m);
  }

  // One bucket a micro-batch, beside the next backward pass; two may overlap.
  void gradients(uint32_t /*m*/) {
    const int64_t started = now_ + 20 * kUs;
    const bool pending = job_.hangs && ++buckets_ == job_.steps * job_.micro_batches;
    reduced_ = started + noisy(1100);
    const Signature s{dp_, "all_reduce", "float32", "avg", -1, -1, kGradients};
    ++gradient_sums_;
    if (!pending) operation(s, gradient_sums_, now_, started, reduced_);
    if (pending) {
      pending_ = {registry_.signature(s), gradient_sums_, now_ + ahead_, started + ahead_, 0};
    }
  }

  void hang(uint32_t number, int64_t begin) {
    RankState state;
    state.life = Life::kRunning;
    state.pending.push_back(pending_);
    const int64_t wait = now_ + ahead_;
    now_ += int64_t{2'000'000} * kUs;
    state.time = now_ + ahead_;
    state.open.push_back({registry_.name(names::kStep), 0, begin + ahead_, 0, number});
    state.open.push_back({registry_.name(names::kReduceGradients), 0, wait, 0, 0});
    batch_.state = state;
    flush();
  }

  void flush() {
    ++batch_.number;
    batch_.received = now_ + 1000 * kUs;
    to_.batch(batch_);
    batch_.host.clear();
    batch_.pid = 0;
    batch_.operations.clear();
    batch_.spans.clear();
    batch_.counters.clear();
    batch_.state.reset();
  }

  const SmallJob& job_;
  Registry& registry_;
  Sink& to_;
  Batch batch_;
  uint64_t state_;
  uint32_t tp_ = 0, pp_ = 0, dp_ = 0;
  int64_t ahead_ = 0, now_ = 0, reduced_ = 0;
  uint32_t received_ = 0, sent_ = 0, tensor_sums_ = 0, gradient_sums_ = 0, buckets_ = 0;
  Operation pending_;
};

}  // namespace

void SmallJob::play(Registry& registry, Sink& to) const {
  to.job({"small", 0, world_size(), {{"tp", 2}, {"pp", 2}, {"dp", replicas}}});
  std::vector<Player> players;
  players.reserve(world_size());
  for (uint32_t r = 0; r < world_size(); ++r) players.emplace_back(*this, registry, to, r);
  int64_t begin = kStart;
  for (uint32_t s = 1; s <= steps; ++s) {
    for (uint32_t host = 0; host < 2; ++host) {
      const int64_t ahead = host == 1 ? kAhead : 0;
      to.clock({"node" + std::to_string(host), begin + ahead, begin, 20 * kUs});
    }
    int64_t end = 0;
    for (Player& player : players) {
      player.step(s, begin);
      end = std::max(end, player.now());
    }
    begin = end + 20 * kUs;
  }
}

}  // namespace convoy::trace
