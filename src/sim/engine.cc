// Steps and single instructions of ranks. What joins ranks is in engine_join.cc.
#include "src/sim/engine.h"

#include <convoy/base/check.h>

#include <algorithm>
#include <bit>

namespace convoy::sim {
namespace {

constexpr Time kLaunchLatency = 10'000;  // from the host's call to the device
constexpr uint32_t kStepsAhead = 2;      // of others that a rank may be, while these are stuck

}  // namespace

Engine::Engine(const Cluster& cluster, const Layout& layout, Catalog& catalog,
               const ProgramBuilder& builder, Faults& faults, const Fabric& fabric,
               trace::Registry& registry, Time begin)
    : cluster_(cluster),
      layout_(layout),
      catalog_(catalog),
      builder_(builder),
      faults_(faults),
      fabric_(fabric),
      registry_(registry),
      compute_jitter_(cluster.compute_jitter),
      network_jitter_(cluster.network_jitter),
      host_jitter_(0.05),
      ranks_(layout.ranks) {
  const Jitter static_jitter(cluster.static_jitter);
  for (uint32_t rank = 0; rank < layout.ranks; ++rank) {
    Rank& r = ranks_[rank];
    r.random = Random(mix(cluster.seed, rank));
    r.speed = static_jitter.draw(r.random);
    r.host = r.device = begin + static_cast<Time>(r.random.uniform(0, 5e6));
    if (layout.stages == 1) continue;
    for (uint8_t c = 0; c < 2; ++c) {
      trace::Signature signature{.group = layout.pipeline[rank],
                                 .operation = "send",
                                 .dtype = "bfloat16",
                                 .reduction = "",
                                 .peer = static_cast<int32_t>(peer_of(rank, c)),
                                 .bytes = builder.message_bytes()};
      r.send_signature[c] = registry.signature(signature);
      signature.operation = "recv";
      r.receive_signature[c] = registry.signature(signature);
    }
  }
  prepare_groups();
}

void Engine::prepare_groups() {
  std::array<uint32_t, kSlots> most{};
  uint32_t messages = 1;
  for (uint32_t stage = 0; stage < layout_.stages; ++stage) {
    const Program program = builder_.build(stage, {cluster_.more_work_from > 0, true, true, false});
    std::array<uint32_t, kSlots> calls{};
    uint32_t sends = 0;
    for (const Instruction& i : program) {
      if (i.op == Op::kSend) ++sends;
      if (i.op == Op::kCollective || i.op == Op::kAsync) ++calls[catalog_[i.collective].slot];
    }
    for (size_t s = 0; s < kSlots; ++s) most[s] = std::max(most[s], calls[s]);
    messages = std::max(messages, sends);
  }
  groups_.resize(layout_.groups.size());
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const Group& group = layout_.groups[g];
    groups_[g].size = group.size();
    groups_[g].instances.resize(std::bit_ceil((kStepsAhead + 2) * (most[group.slot] + 1)));
    groups_[g].random = Random(mix(cluster_.seed, 1'000'000'007ULL + g));
  }
  if (layout_.stages > 1) channels_.resize(size_t{2} * layout_.ranks);
  for (size_t c = 0; c < channels_.size(); ++c) {
    channels_[c].messages.resize(std::bit_ceil((kStepsAhead + 2) * messages));
    channels_[c].random = Random(mix(cluster_.seed, 2'000'000'011ULL + c));
  }
}

const Program* Engine::program_of(uint32_t rank, const Rank& r) {
  const auto every = [&](uint32_t n) { return n != 0 && r.step % n == 0; };
  const StepKind kind{
      .more_work = cluster_.more_work_from != 0 && r.step >= cluster_.more_work_from,
      .evaluate = every(cluster_.evaluate_every),
      .save = every(cluster_.checkpoint_every),
      .busy_experts = r.effects.busy_experts,
  };
  const uint32_t stage = layout_.stage[rank];
  const uint32_t key = stage * 16 + kind.more_work * 8U + kind.evaluate * 4U + kind.save * 2U +
                       static_cast<uint32_t>(kind.busy_experts);
  std::unique_ptr<Program>& program = programs_[key];
  if (program == nullptr) program = std::make_unique<Program>(builder_.build(stage, kind));
  if (!faults_.changes_program(rank, r.step)) return program.get();
  changed_.push_back(std::make_unique<Program>(*program));
  faults_.change_program(*changed_.back(), rank, r.step, catalog_);
  return changed_.back().get();
}

void Engine::begin_step(uint32_t rank) {
  Rank& r = ranks_[rank];
  ++r.step;
  r.counter = r.computations = 0;
  r.finished = false;
  faults_.note_begin(rank, r.step, r.host);
  r.effects = faults_.effects(rank, r.step);
  r.received_before = r.received;
  r.program = program_of(rank, r);
  ready_.push_back(rank);
}

bool Engine::run_step(uint32_t step) {
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    if (ranks_[rank].finished && ranks_[rank].step < step) begin_step(rank);
  }
  if (drain(step)) return true;
  // Those who have finished go on for a while: whoever is stuck may be waiting for their next step.
  for (uint32_t ahead = 1; ahead <= kStepsAhead; ++ahead) {
    for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
      if (ranks_[rank].finished && ranks_[rank].step < step + ahead) begin_step(rank);
    }
    if (drain(step)) return true;
  }
  return false;
}

bool Engine::drain(uint32_t step) {
  while (!ready_.empty()) {
    awake_.clear();
    std::swap(ready_, awake_);
    for (const uint32_t rank : awake_) run(rank);
  }
  return std::ranges::all_of(
      ranks_, [&](const Rank& r) { return r.step > step || (r.step == step && r.finished); });
}

void Engine::run(uint32_t rank) {
  Rank& r = ranks_[rank];
  while (execute(rank, (*r.program)[r.counter])) ++r.counter;
}

void Engine::end_span(Rank& r, Name name) {
  CONVOY_CHECK(!r.open_spans.empty() && r.open_spans.back().name == name, "spans nest");
  r.open_spans.back().end = r.host;
  r.spans.push_back(r.open_spans.back());
  r.open_spans.pop_back();
}

void Engine::compute(uint32_t rank, const Instruction& i) {
  Rank& r = ranks_[rank];
  const Effects& e = r.effects;
  if (e.pause != 0 && r.computations == e.pause_at) {
    r.spans.push_back({kNameGarbage, 0, r.host, r.host + e.pause, 0});
    r.host += e.pause;
  }
  if (e.warm_up != 0 && r.computations == 0) {
    r.spans.push_back({kNameWarmUp, 0, r.host, r.host + e.warm_up, 0});
    r.host += e.warm_up;
  }
  ++r.computations;
  double scale = static_cast<double>(r.speed) * e.compute * compute_jitter_.draw(r.random);
  if (i.expert) scale *= e.expert;
  if (e.periodic) scale *= faults_.periodic(rank, r.step, r.device);
  const auto work = to_time(i.cost * scale);
  const auto launch =
      to_time(i.cost * cluster_.model.launch_share * e.launch * host_jitter_.draw(r.random));
  const Time begin = std::max(r.device, r.host + kLaunchLatency);
  const Time host_end = r.host + launch;
  // The last kernel can't run before it is handed over.
  r.device = std::max(begin + work, host_end + kLaunchLatency + work / 16);
  if (cluster_.telemetry.details) {
    r.spans.push_back({kNameLaunch, 0, r.host, host_end, 0});
    r.spans.push_back({kNameKernel, 1, r.device - work, r.device, 0});
  }
  r.host = host_end;
}

bool Engine::execute(uint32_t rank, const Instruction& i) {
  Rank& r = ranks_[rank];
  if (i.trap) faults_.note_trap(rank, r.step, r.host);
  switch (i.op) {
    case Op::kBegin:
      r.open_spans.push_back({i.name, 0, r.host, 0, i.name == kNameStep ? r.step : i.value});
      return true;
    case Op::kEnd:
      end_span(r, i.name);
      return true;
    case Op::kData:
      r.tokens += static_cast<uint64_t>(static_cast<double>(cluster_.model.sequence) *
                                        cluster_.model.micro_batch_size *
                                        cluster_.model.micro_batches * r.effects.tokens);
      r.host += to_time(cluster_.model.data_ms * 1e6 * host_jitter_.draw(r.random)) +
                r.effects.data_stall;
      return true;
    case Op::kCompute:
      compute(rank, i);
      return true;
    case Op::kCollective:
    case Op::kAsync:
      return collective(rank, i);
    case Op::kAwaitAsync:
      return await_async(rank);
    case Op::kSend:
      send(rank, i.channel, i.breaks);
      return true;
    case Op::kReceive:
      receive(rank, i.channel);
      return true;
    case Op::kAwait:
      return await_message(rank, i);
    case Op::kAwaitSends:
      return await_sends(rank);
    case Op::kSync:
      r.host = r.device = std::max(r.host, r.device);
      return true;
    case Op::kSave:
      r.host += to_time(cluster_.model.checkpoint_s * 1e9 * host_jitter_.draw(r.random)) +
                r.effects.save_stall;
      return true;
    case Op::kFinish:
      r.finished = true;
      return false;
    case Op::kHalt:
      r.halted = true;
      return false;
    case Op::kStick:
      r.device = kNever;
      return true;
    case Op::kDie:
      r.halted = true;
      return false;
  }
  return false;
}

Time Engine::known_until() const {
  Time least = kNever;
  for (const Rank& r : ranks_) least = std::min(least, r.host);
  return least;
}

// The host of a rank whose device waits goes on to the next point at which it waits for it.
void Engine::settle(uint32_t rank) {
  Rank& r = ranks_[rank];
  if (r.halted || r.finished || r.program == nullptr) return;
  const Op at = (*r.program)[r.counter].op;
  if (at != Op::kCollective && r.device != kNever) return;
  for (uint32_t c = r.counter + (at == Op::kCollective ? 1 : 0); c < r.program->size(); ++c) {
    const Instruction& i = (*r.program)[c];
    switch (i.op) {
      case Op::kBegin:
        r.open_spans.push_back({i.name, 0, r.host, 0, i.value});
        break;
      case Op::kEnd:
        end_span(r, i.name);
        break;
      case Op::kCompute: {
        const auto launch = to_time(i.cost * cluster_.model.launch_share);
        if (cluster_.telemetry.details) {
          r.spans.push_back({kNameLaunch, 0, r.host, r.host + launch, 0});
        }
        r.host += launch;
        break;
      }
      case Op::kCollective:
      case Op::kAsync: {
        const Slot slot = catalog_[i.collective].slot;
        const uint32_t group = layout_.group_of[slot][rank];
        r.open.push_back({.issued = r.host,
                          .signature = catalog_.signature(i.collective, group),
                          .sequence = ++r.sequence[slot],
                          .group = group,
                          .collective = i.collective,
                          .lane = slot,
                          .async = i.op == Op::kAsync});
        break;
      }
      default:
        return;
    }
  }
}

void Engine::settle() {
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    Rank& r = ranks_[rank];
    // What is over although nobody has waited for it yet.
    const std::vector<Open> open = std::move(r.open);
    r.open.clear();
    for (const Open& o : open) {
      if (!resolve(rank, o)) r.open.push_back(o);
    }
    settle(rank);
  }
}

}  // namespace convoy::sim
