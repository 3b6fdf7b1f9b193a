// How a worker goes from one generation of its job into the next: what it leaves, whom it meets,
// and in which order.
#include "src/comm/host/tcp_socket.h"
#include "src/runtime/start.h"
#include "src/runtime/store_server.h"
#include <convoy/base/config.h>
#include <convoy/base/log.h>
#include <convoy/base/units.h>
#include <convoy/base/vitals.h>
#include <convoy/runtime/program.h>
#include <convoy/runtime/runtime.h>
#include <convoy/trace/recorder.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <utility>

namespace convoy::runtime {
namespace {

// Who fails because another rank died hears of that within milliseconds. Who hears nothing tells
// what it saw: its group may have failed with all ranks alive.
constexpr Nanos kNews = std::chrono::seconds(1);
constexpr const char* kSetsKey = "sets";
constexpr Nanos kLook = std::chrono::milliseconds(1);
// A spare waits for as long as the job takes.
constexpr Nanos kSpareWait = std::chrono::hours(24 * 365);

std::vector<uint8_t> bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + ";";
  return text;
}

std::vector<std::string> parted(const std::string& text) {
  std::vector<std::string> words = split(text, ';');
  std::erase(words, "");
  return words;
}

}  // namespace

Status Runtime::join_crew() {
  if (!options_.recover || environment_.control.empty()) {
    if (!environment_.standby) return ok_status();
    return {Code::kFailedPrecondition,
            "this process was started to take a failed rank's place, but the program can't go on "
            "without that rank; start it with `convoy run --no-recover`, without --spares"};
  }
  CONVOY_ASSIGN_OR_RETURN(member_, resilience::Member::join(environment_.control));
  return ok_status();
}

// A process that was started to take a rank's place: all that needs no rank is done by now.
Status Runtime::await_place() {
  CONVOY_RETURN_IF_ERROR(choose_device(options_.device));
  while (true) {
    CONVOY_ASSIGN_OR_RETURN(const resilience::Summons summons, member_->await_summons(kSpareWait));
    const Status entered = enter(summons);
    if (entered.ok() || entered.code() == Code::kUnavailable) return entered;
    CONVOY_LOG(Warn) << "generation " << summons.generation
                     << " does not come about: " << entered.message();
    if (groups_ != nullptr) groups_->abort();
  }
}

Status Runtime::rejoin(const Status& why, int64_t step) {
  if (member_ == nullptr) return why;
  vitals().training = 0;
  CONVOY_LOG(Debug) << "leaves generation " << generation_ << ": " << why.message();
  if (groups_ != nullptr) groups_->abort();
  Status cause = why;
  while (true) {
    auto summons = member_->await_summons(kNews);
    if (summons.status().code() == Code::kDeadlineExceeded) {
      const auto generation = static_cast<uint64_t>(generation_);
      member_->trouble(generation, {.status = cause, .step = step});
      summons = member_->await_summons(environment_.timeout);
    }
    if (!summons.ok()) return why;
    const Status entered = enter(*summons);
    if (entered.ok()) return ok_status();
    if (entered.code() == Code::kUnavailable) return why;
    CONVOY_LOG(Debug) << "generation " << summons->generation
                      << " does not come about: " << entered.message();
    cause = entered;
    if (groups_ != nullptr) groups_->abort();
  }
}

Status Runtime::enter(const resilience::Summons& summons) {
  generation_ = static_cast<int>(summons.generation);
  environment_.rank = summons.rank;
  environment_.world_size = summons.world_size;
  environment_.local_rank = summons.local_rank;
  environment_.local_world_size = summons.local_world_size;
  if (groups_ == nullptr) CONVOY_RETURN_IF_ERROR(choose_device(options_.device));  // the rank's own
  set_log_identity("rank " + std::to_string(rank()) + "/" + std::to_string(size()) + " gen " +
                   std::to_string(generation_));
  return attempt([&]() -> Status {
    c10::intrusive_ptr<c10d::TCPStore> server;
    resilience::StorePlace place;
    if (summons.serves_store && !meets_in_folder(environment_)) {
      server = serve_next_store(environment_);
      CONVOY_ASSIGN_OR_RETURN(place.host, host::choose_address(""));
      place.port = server->getPort();
    }
    CONVOY_ASSIGN_OR_RETURN(const resilience::Go go,
                            member_->ready(summons, place, environment_.timeout));
    gone_at_ = Clock::system().now();
    const Status formed = attempt([&] { return form_groups(summons, go, std::move(server)); });
    // Whoever can't be reached has died, and somebody takes its place; only a launcher that can't
    // be reached is the end.
    return formed.code() == Code::kUnavailable ? Status(Code::kAborted, formed.message()) : formed;
  });
}

// Who should tell may die before it does: a wait inside the store would not hear of that.
Result<std::string> Runtime::told_by_survivor(c10d::Store& store) {
  const Deadline deadline = Deadline::after(environment_.timeout);
  while (!store.check({kSetsKey})) {
    if (member_->summoned()) return Status(Code::kAborted, "there is a later generation");
    if (deadline.passed()) {
      return Status(Code::kDeadlineExceeded, "no survivor tells which groups there are");
    }
    Clock::system().sleep_for(kLook);
  }
  const std::vector<uint8_t> bytes = store.get(kSetsKey);
  return std::string(bytes.begin(), bytes.end());
}

Status Runtime::form_groups(const resilience::Summons& summons, const resilience::Go& go,
                            c10::intrusive_ptr<c10d::Store> server) {
  const std::string prefix = prefix_of(generation_);
  c10::intrusive_ptr<c10d::Store> store = std::move(server);
  if (!store) store = reach_store(environment_, generation_, go.host, go.port);
  store = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
  const bool is_new = groups_ == nullptr;
  if (summons.mesh.empty()) {
    mesh_ = full_mesh_;  // the launcher was told none, but the program may have its own
  } else {
    CONVOY_ASSIGN_OR_RETURN(mesh_, Mesh::parse(summons.mesh, summons.world_size));
  }
  store_ = store;
  if (is_new) {
    is_newcomer_ = true;  // until it has caught up, in whichever generation that will be
    start_trace(environment_, generation_);
    make_groups(prefix);
  } else {
    trace::begin_generation(summons.generation, rank(), size());
    groups_->move_to(mesh_, rank());
  }
  std::vector<std::string> sets;
  if (go.has_survivors) {
    if (summons.serves_store) {
      sets = groups_->sets();
      store->set(kSetsKey, bytes_of(joined(sets)));
    } else {
      CONVOY_ASSIGN_OR_RETURN(const std::string told, told_by_survivor(*store));
      sets = parted(told);
    }
  }
  groups_->reform(store, prefix, sets, [this] { return member_->summoned(); });
  if (member_->summoned()) return {Code::kAborted, "there is a later generation"};
  first_step_ = {};
  first_step_.joined = seconds_since(gone_at_);
  first_step_is_told_ = false;
  return ok_status();
}

void Runtime::caught_up(int64_t resumed, const std::string& source) {
  is_newcomer_ = false;
  first_step_.resumed = resumed;
  first_step_.source = source;
  first_step_.loaded = seconds_since(gone_at_);
  stepped_at_ = Clock::system().now();
}

void Runtime::stepped(int64_t step) {
  const TimePoint now = Clock::system().now();
  vitals().step_ns.store((now - stepped_at_).count(), std::memory_order_relaxed);
  vitals().step.store(step, std::memory_order_relaxed);
  stepped_at_ = now;
  if (first_step_is_told_) return;
  first_step_is_told_ = true;
  if (member_ == nullptr) return;
  first_step_.step = step;
  first_step_.stepped = seconds_since(gone_at_);
  member_->running(static_cast<uint64_t>(generation_), first_step_);
}

void Runtime::report_corruption(const std::string& what, const std::vector<int>& wrong,
                                int64_t step) {
  if (member_ == nullptr) return;
  resilience::Trouble told{.status = Status(Code::kDataLoss, what), .step = step};
  told.is_corruption = true;
  told.wrong = wrong;
  member_->trouble(static_cast<uint64_t>(generation_), told);
}

resilience::Hold Runtime::hold() const {
  return member_ == nullptr ? resilience::Hold::kNo : member_->hold();
}

void Runtime::held(int64_t step) {
  resilience::Trouble told{.status = ok_status(), .step = step};
  told.is_held = true;
  member_->trouble(static_cast<uint64_t>(generation_), told);
}

void Runtime::give_up(const Status& why, int64_t step) {
  if (member_ == nullptr) return;
  member_->trouble(static_cast<uint64_t>(generation_),
                   {.status = why, .step = step, .is_final = true});
}

}  // namespace convoy::runtime
