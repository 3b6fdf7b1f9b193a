// How a training step of a stage runs: its samples, its pipeline schedule with the collectives of
// each micro-batch's layers, the reduction of gradients behind the last backward, the optimizer.
#include "src/sim/program.h"

#include <convoy/parallel/schedule/partition.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace convoy::sim {

uint16_t Catalog::add(const Collective& collective) {
  const auto known = std::ranges::find(collectives_, collective);
  if (known != collectives_.end()) return static_cast<uint16_t>(known - collectives_.begin());
  collectives_.push_back(collective);
  signatures_.emplace_back(layout_.groups.size(), kNone);
  return static_cast<uint16_t>(collectives_.size() - 1);
}

uint32_t Catalog::signature(uint16_t collective, uint32_t group) {
  uint32_t& known = signatures_[collective][group];
  if (known == kNone) {
    const Collective& c = collectives_[collective];
    const Group& g = layout_.groups[group];
    known = registry_.signature({
        .group = g.id,
        .operation = c.operation,
        .dtype = c.dtype,
        .reduction = c.reduction,
        .root = c.root < 0 ? -1 : static_cast<int32_t>(g.ranks[static_cast<size_t>(c.root)]),
        .bytes = c.bytes,
        .uneven = c.uneven,
    });
  }
  return known;
}

namespace {

Instruction begin(Name name, uint32_t value = 0) {
  return {.op = Op::kBegin, .name = name, .value = value};
}
Instruction end(Name name) {
  return {.op = Op::kEnd, .name = name};
}
Instruction collective(uint16_t which) {
  return {.op = Op::kCollective, .collective = which};
}

Status check_model(const Cluster& cluster) {
  const Model& m = cluster.model;
  const auto from_1_to = [](int x, int most) { return x >= 1 && x <= most; };
  if (!from_1_to(m.layers, 4096) || !from_1_to(m.hidden, 1 << 18) ||
      !from_1_to(m.sequence, 1 << 24) || !from_1_to(m.micro_batches, 4096) ||
      !from_1_to(m.micro_batch_size, 4096) || !from_1_to(m.tp_collectives, 256) ||
      !from_1_to(m.buckets, 256)) {
    return {
        Code::kInvalidArgument,
        "a model has 1 to 4096 layers, micro-batches and sequences in each, a hidden size of up "
        "to 262144, sequences of up to 16777216, 1 to 256 collectives and buckets"};
  }
  const auto share = [](double x, double most) { return x >= 0 && x <= most; };
  if (!(m.flops >= 1e6) || !share(m.launch_share, 100) || !share(m.data_ms, 1e6) ||
      !share(m.optimizer_ms, 1e6) || !share(m.checkpoint_s, 1e5)) {
    return {Code::kInvalidArgument,
            "ranks compute at 1e6 operations a second or faster; launch_share is 0 to 100, reading "
            "data and the optimizer take up to 1e6 ms, a checkpoint up to 1e5 s"};
  }
  return ok_status();
}

}  // namespace

Result<ProgramBuilder> ProgramBuilder::create(const Cluster& cluster, const Layout& layout,
                                              Catalog& catalog, double busy) {
  CONVOY_RETURN_IF_ERROR(check_model(cluster));
  ProgramBuilder builder(cluster, layout);
  const Model& m = cluster.model;
  const int ranks = static_cast<int>(layout.stages);
  const int chunks = ranks > 1 ? cluster.chunks : 1;
  const std::string name = ranks > 1 ? cluster.schedule : "1f1b";
  CONVOY_ASSIGN_OR_RETURN(builder.usual_,
                          schedule::make_schedule(name, ranks, m.micro_batches, chunks));
  const int more = std::max(1, static_cast<int>(m.micro_batches * cluster.more_work));
  CONVOY_ASSIGN_OR_RETURN(builder.more_, schedule::make_schedule(name, ranks, more, chunks));
  CONVOY_ASSIGN_OR_RETURN(const auto ranges, schedule::partition_layers(m.layers, ranks * chunks));
  for (const schedule::LayerRange& range : ranges) builder.layers_of_.push_back(range.size());
  builder.add_collectives(catalog, busy);
  return builder;
}

void ProgramBuilder::add_collectives(Catalog& catalog, double busy) {
  const Model& m = cluster_->model;
  const uint64_t tp = layout_->size(kTp), cp = layout_->size(kCp);
  const uint64_t hidden = static_cast<uint64_t>(m.hidden);
  const uint64_t tokens = static_cast<uint64_t>(m.sequence) * m.micro_batch_size / cp;
  const uint64_t activations = tokens * hidden * 2;  // bfloat16
  const uint64_t layers =
      static_cast<uint64_t>(m.layers) / std::max<uint64_t>(1, layers_of_.size());
  const uint64_t pieces = static_cast<uint64_t>(m.tp_collectives);
  const uint64_t of_tp = std::max<uint64_t>(256, activations * 2 * layers / pieces);
  const uint64_t parameters = 12 * hidden * hidden * m.layers / (tp * layout_->stages);
  const uint64_t bucket = std::max<uint64_t>(4096, parameters * 2 / m.buckets);
  const uint64_t data = layout_->size(kData);
  const char* bf16 = "bfloat16";
  message_bytes_ = std::max<uint64_t>(256, activations / tp);
  samples_ = catalog.add({kTp, "broadcast", "int64", "", 0, tokens * 8});
  gather_ = catalog.add({kTp, "all_gather", bf16, "", -1, of_tp / tp});
  scatter_ = catalog.add({kTp, "reduce_scatter", bf16, "sum", -1, of_tp});
  cp_gather_ = catalog.add({kCp, "all_gather", bf16, "", -1, activations * layers / (2 * tp)});
  cp_scatter_ =
      catalog.add({kCp, "reduce_scatter", bf16, "sum", -1, activations * layers * cp / (2 * tp)});
  dispatch_ = catalog.add({kEp, "all_to_all", bf16, "", -1, activations * layers / tp, true});
  combine_ = catalog.add({kEp, "all_to_all", bf16, "", -1, activations * layers / tp + 256, true});
  const uint64_t even = activations * layers / tp;
  const auto more = static_cast<uint64_t>(static_cast<double>(even) * busy);
  busy_combine_ = catalog.add({kEp, "all_to_all", bf16, "", -1, more + 256, true});
  bucket_ = m.sharded_optimizer ? catalog.add({kData, "reduce_scatter", bf16, "sum", -1, bucket})
                                : catalog.add({kData, "all_reduce", bf16, "sum", -1, bucket});
  tp_gradients_ = catalog.add({kTp, "all_reduce", bf16, "sum", -1, hidden * layers * 4});
  norm_ = catalog.add({layout_->norm, "all_reduce", "float32", "sum", -1, 4});
  parameters_ = catalog.add(
      {kData, "all_gather", bf16, "", -1, std::max<uint64_t>(256, parameters * 2 / data)});
  barrier_ = catalog.add({kWorld, "barrier", "", "", -1, 0});
  loss_ = catalog.add({kWorld, "all_reduce", "float32", "avg", -1, 8});
}

double ProgramBuilder::forward_ns(uint32_t stage, int chunk) const {
  const Model& m = cluster_->model;
  const double hidden = m.hidden;
  const double tokens = static_cast<double>(m.sequence) * m.micro_batch_size / layout_->size(kCp);
  const double layers =
      layers_of_[static_cast<size_t>(chunk) * layout_->stages + static_cast<size_t>(stage)];
  return 2 * 12 * hidden * hidden * tokens * layers / layout_->size(kTp) / m.flops * 1e9;
}

// The layers of one micro-batch in one direction, in pieces with collectives between them. The
// last backward hands over `buckets` of gradients on its way.
void ProgramBuilder::layers(Program& to, double cost, bool forward, int buckets) const {
  const int wanted = layout_->has(kTp) ? cluster_->model.tp_collectives : 0;
  const int pieces = std::max({1, wanted, buckets});
  if (layout_->has(kCp)) to.push_back(collective(forward ? cp_gather_ : cp_scatter_));
  double piece = cost / pieces;
  if (layout_->has(kEp)) {
    // A third of the work is the experts', between dispatching tokens and combining results.
    piece = cost * 2 / 3 / pieces;
    to.push_back(collective(dispatch_));
    to.push_back({.op = Op::kCompute, .expert = true, .cost = static_cast<float>(cost / 3)});
    to.push_back(collective(combine_));
  }
  int of_tp = 0, of_data = 0;
  for (int i = 1; i <= pieces; ++i) {
    to.push_back({.op = Op::kCompute, .cost = static_cast<float>(piece)});
    for (; of_tp * pieces < i * wanted; ++of_tp) {
      to.push_back(collective(of_tp % 2 == 0 ? gather_ : scatter_));
    }
    for (; of_data * pieces < i * buckets; ++of_data) {
      to.push_back({.op = Op::kAsync, .collective = bucket_});
    }
  }
}

void ProgramBuilder::compute(Program& to, const schedule::Action& action, uint32_t stage,
                             bool last) const {
  const bool forward = action.kind == schedule::Kind::kForward;
  const int chunks = usual_.chunks;
  const int of_chunk =
      cluster_->model.buckets / chunks + (action.chunk < cluster_->model.buckets % chunks ? 1 : 0);
  const double cost = forward_ns(stage, action.chunk) * (forward ? 1 : 2);
  layers(to, cost, forward, last && layout_->has(kData) ? of_chunk : 0);
  to.push_back({.op = Op::kSync});
}

void ProgramBuilder::actions(Program& to, uint32_t stage,
                             const schedule::Schedule& schedule) const {
  // Which message of the step's on its channel brings what an action waits for.
  std::map<std::tuple<bool, int, int>, std::pair<uint8_t, uint32_t>> received;
  uint32_t posted[2] = {0, 0};
  const auto next = static_cast<int>((stage + 1) % layout_->stages);
  for (const schedule::Step& step : schedule.steps[stage]) {
    for (const schedule::Action& action : step) {
      const bool forward =
          action.kind == schedule::Kind::kForward || action.kind == schedule::Kind::kRecvForward;
      const std::tuple key(forward, action.microbatch, action.chunk);
      const uint8_t channel = action.peer == next ? 0 : 1;
      if (schedule::is_send(action.kind)) {
        to.push_back({.op = Op::kSend, .channel = channel});
      } else if (!schedule::is_compute(action.kind)) {
        received[key] = {channel, posted[channel]++};
        to.push_back({.op = Op::kReceive, .channel = channel});
      } else {
        const Name name = forward ? kNameForward : kNameBackward;
        to.push_back(begin(name, static_cast<uint32_t>(action.microbatch)));
        if (const auto at = received.find(key); at != received.end()) {
          to.push_back({.op = Op::kAwait, .channel = at->second.first, .value = at->second.second});
        }
        compute(to, action, stage, !forward && action.microbatch + 1 == schedule.microbatches);
        to.push_back(end(name));
      }
    }
  }
}

void ProgramBuilder::finish_step(Program& to) const {
  if (layout_->stages > 1) to.push_back({.op = Op::kAwaitSends});
  to.push_back(begin(kNameReduce));
  if (layout_->has(kData)) to.push_back({.op = Op::kAwaitAsync});
  if (layout_->has(kTp)) to.push_back(collective(tp_gradients_));
  if (layout_->has(layout_->norm)) to.push_back(collective(norm_));
  to.push_back({.op = Op::kSync});
  to.push_back(end(kNameReduce));
  to.push_back(begin(kNameOptimizer));
  to.push_back(
      {.op = Op::kCompute, .cost = static_cast<float>(cluster_->model.optimizer_ms * 1e6)});
  if (layout_->has(kData) && cluster_->model.sharded_optimizer) {
    to.push_back(collective(parameters_));
  }
  to.push_back({.op = Op::kSync});
  to.push_back(end(kNameOptimizer));
}

void ProgramBuilder::evaluate(Program& to, uint32_t stage) const {
  to.push_back(begin(kNameEvaluate));
  for (int i = 0; i < 2; ++i) layers(to, forward_ns(stage, 0), true, 0);
  if (layout_->has(kWorld)) to.push_back(collective(loss_));
  to.push_back({.op = Op::kSync});
  to.push_back(end(kNameEvaluate));
}

Program ProgramBuilder::build(uint32_t stage, const StepKind& kind) const {
  Program program;
  program.push_back(begin(kNameStep));
  program.push_back(begin(kNameData));
  program.push_back({.op = Op::kData});
  program.push_back(end(kNameData));
  if (layout_->has(kTp)) program.push_back(collective(samples_));
  actions(program, stage, kind.more_work ? more_ : usual_);
  finish_step(program);
  program.push_back(end(kNameStep));
  if (kind.save) {
    program.push_back(begin(kNameCheckpoint));
    program.push_back({.op = Op::kSave});
    if (layout_->has(kWorld)) program.push_back(collective(barrier_));
    program.push_back({.op = Op::kSync});
    program.push_back(end(kNameCheckpoint));
  }
  if (kind.evaluate) evaluate(program, stage);
  program.push_back({.op = Op::kFinish});
  if (kind.busy_experts) {
    for (Instruction& i : program) {
      if (i.op == Op::kCollective && i.collective == combine_) i.collective = busy_combine_;
    }
  }
  return program;
}

}  // namespace convoy::sim
