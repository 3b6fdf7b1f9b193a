// What the hooks of one c10d collective cost: `trace_hook`, through `make bench BENCH=trace.hook`.
//
//   trace.hook/none      a collective of a backend that does nothing
//   trace.hook/convoy    the same with attach(): what it adds; peer: torch's Flight Recorder;
//   limit:
//                        hooks that do nothing
//   trace.hook/off       attached, the level off
//   trace.hook/other_group   a group that is not attached, while another one is
// The backend completes at once and calls its completion hooks, so that all three hooks run. What
// torch does to call them is in the figures, which are of the thread's processor time. Rounds of
// all take turns; medians over the rounds.
#include <convoy/trace/recorder.h>
#include <convoy/trace/torch/attach.h>

#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/hooks/FlightRecorderHook.hpp>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace {

using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;

constexpr int kRounds = 101;
constexpr int kCalls = 2000;

double processor_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) * 1e9 + static_cast<double>(used.tv_nsec);
}

class DoneWork final : public c10d::Work {
 public:
  explicit DoneWork(uint64_t key) : Work(0, c10d::OpType::ALLREDUCE), key_(key) {}
  bool isCompleted() override { return done_; }
  bool isSuccess() const override { return true; }
  std::exception_ptr exception() const override { return nullptr; }
  bool wait(std::chrono::milliseconds) override { return true; }
  uint64_t getCompletionKey() const override { return key_; }
  float getDuration() const override { throw std::runtime_error("not timed"); }
  void finish_now() { done_ = true; }

 private:
  uint64_t key_;
  bool done_ = false;
};

class IdleBackend final : public c10d::Backend {
 public:
  IdleBackend() : c10d::Backend(0, 1) {}
  const std::string getBackendName() const override { return "idle"; }
  bool supportsCompletionHooks() const override { return true; }
  void registerCompletionHook(int64_t id, c10d::CompletionHook hook) override { hooks_[id] = hook; }
  void unregisterCompletionHook(int64_t id) override { hooks_.erase(id); }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>&,
                                           const c10d::AllreduceOptions&) override {
    last_ = c10::make_intrusive<DoneWork>(++key_);
    return last_;
  }
  // What a watchdog would find out.
  void complete() {
    last_->finish_now();
    for (const auto& [id, hook] : hooks_) hook({key_, std::nullopt});
  }

 private:
  uint64_t key_ = 0;
  c10::intrusive_ptr<DoneWork> last_;
  std::map<int64_t, c10d::CompletionHook> hooks_;
};

struct Subject {
  GroupPtr group;
  c10::intrusive_ptr<IdleBackend> backend;
  std::vector<double> ns;
};

Subject make_subject(const std::string& name) {
  Subject s;
  s.backend = c10::make_intrusive<IdleBackend>();
  s.group = c10::make_intrusive<c10d::ProcessGroup>(c10::make_intrusive<c10d::HashStore>(), 0, 1);
  s.group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  s.group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, s.backend);
  s.group->setGroupName(name);
  return s;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// `plain`: as if no group were attached, whose calls don't pass by the tracer's kernels.
void run(Subject& subject, bool plain) {
  std::optional<c10::impl::ExcludeDispatchKeyGuard> without;
  if (plain) without.emplace(c10::DispatchKey::ADInplaceOrView);
  std::vector<at::Tensor> tensors = {at::ones({1024})};
  const double begin = processor_ns();
  for (int i = 0; i < kCalls; ++i) {
    const auto work = subject.group->allreduce(tensors);
    subject.backend->complete();
  }
  subject.ns.push_back((processor_ns() - begin) / kCalls);
}

// Medians of what is added to `base`, round by round.
double added(const Subject& subject, const Subject& base) {
  std::vector<double> differences;
  for (size_t i = 0; i < base.ns.size(); ++i) {
    differences.push_back(subject.ns[i] - base.ns[i]);
  }
  return median(differences);
}

void report(const char* name, double value, double peer = 0, double limit = 0) {
  std::printf(
      "{\"bench\": \"trace.hook\", \"case\": \"%s\", \"metric\": \"collective\", \"value\": %.1f, "
      "\"unit\": \"ns\"",
      name, value);
  if (peer > 0) {
    std::printf(", \"peer\": \"torch FlightRecorderHook\", \"peer_value\": %.1f, \"ratio\": %.2f",
                peer, peer / value);
  }
  if (limit > 0) {
    std::printf(", \"limit\": %.1f, \"limit_name\": \"empty hooks\", \"share_of_limit\": %.3f",
                limit, limit / value);
  }
  std::printf("}\n");
}

}  // namespace

int main() {
  using namespace convoy::trace;
  const auto opened = open_recorder({.rank = 0, .world_size = 1}, Level::kCollectives);
  if (!opened.ok()) {
    std::fprintf(stderr, "trace_hook: %s\n", opened.status().to_string().c_str());
    return 1;
  }
  Subject none = make_subject("none"), ours = make_subject("ours"), off = make_subject("off"),
          flight = make_subject("flight"), empty = make_subject("empty"),
          passing = make_subject("passing");
  const auto recorder = c10d::FlightRecorderHook::attach(flight.group, {0});
  for (const Subject* s : {&ours, &off}) {
    const convoy::Status attached = attach(s->group);
    if (!attached.ok()) {
      std::fprintf(stderr, "trace_hook: %s\n", attached.to_string().c_str());
      return 1;
    }
  }
  empty.group->registerPreHook(1, [](const c10d::PreHookArgs&) {});
  empty.group->registerPostHook(1, [](const c10d::PostHookArgs&) {});
  empty.backend->registerCompletionHook(1, [](const c10d::CompletionHookArgs&) {});
  for (int round = 0; round < kRounds; ++round) {
    run(none, true);
    run(ours, false);
    run(empty, true);
    run(passing, false);
    run(flight, true);
    (*opened)->set_level(Level::kOff);
    run(off, false);
    (*opened)->set_level(Level::kCollectives);
  }
  report("none", median(none.ns));
  report("convoy", added(ours, none), added(flight, none), added(empty, none));
  report("off", added(off, none));
  report("other_group", added(passing, none));
  close_recorder();
  return 0;
}
