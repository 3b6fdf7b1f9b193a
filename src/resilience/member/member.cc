// A thread reads what the supervisor says and keeps the newest of it; the worker's own thread waits
// for that. So an announcement reaches a worker that blocks, or computes.
#include "src/resilience/protocol/messages.pb.h"
#include "src/resilience/protocol/protocol.h"
#include <convoy/base/fd.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/base/vitals.h>
#include <convoy/resilience/member.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <mutex>
#include <new>
#include <optional>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace convoy::resilience {
namespace {

struct ControlName {
  std::string socket;
  uint64_t worker = 0;
};

Result<ControlName> parse(const std::string& control) {
  const size_t hash = control.rfind('#');
  ControlName name;
  if (hash != std::string::npos && hash > 0) {
    name.socket = control.substr(0, hash);
    const char* end = control.data() + control.size();
    const auto [at, error] = std::from_chars(control.data() + hash + 1, end, name.worker);
    if (error == std::errc() && at == end && hash + 1 < control.size()) return name;
  }
  return Status(Code::kInvalidArgument,
                "CONVOY_CONTROL is '" + control + "', but `convoy run` sets SOCKET#NUMBER");
}

// A page that the launcher maps, too.
Result<UniqueFd> share_vitals() {
  UniqueFd page(::memfd_create("convoy-vitals", MFD_CLOEXEC));
  if (!page || ::ftruncate(page.get(), sizeof(Vitals)) != 0) {
    return errno_status("making the page of this process's vitals", errno);
  }
  void* at = ::mmap(nullptr, sizeof(Vitals), PROT_READ | PROT_WRITE, MAP_SHARED, page.get(), 0);
  if (at == MAP_FAILED) return errno_status("mapping the page of this process's vitals", errno);
  show_vitals(new (at) Vitals);  // stays mapped: others may hold a reference to it
  return page;
}

Summons read(const proto::Summons& s) {
  return {.generation = s.generation(),
          .rank = static_cast<int>(s.rank()),
          .world_size = static_cast<int>(s.world_size()),
          .local_rank = static_cast<int>(s.local_rank()),
          .local_world_size = static_cast<int>(s.local_world_size()),
          .mesh = s.mesh(),
          .serves_store = s.serves_store(),
          .reason = s.reason()};
}

Go read(const proto::Go& go) {
  return {go.generation(), go.host(), static_cast<uint16_t>(go.port()), go.has_survivors()};
}

}  // namespace

struct Member::State {
  UniqueFd socket;
  UniqueFd stop;  // an eventfd
  std::thread reader;
  std::atomic<uint64_t> announced{0};  // the newest generation that was told
  std::atomic<uint64_t> entered{0};    // the one that await_summons() has returned last
  std::atomic<uint64_t> held{0};       // 1 + the one that is asked to hold; 0: none
  std::atomic<bool> held_durably{false};

  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Summons> summons;  // the newest
  std::optional<Go> go;            // the newest
  bool gone = false;               // the other end
  std::function<void()> on_summons;

  void read_all();
  void take(const proto::ToWorker& message);
  void say(const proto::FromWorker& message, int fd = -1) const {
    const Status sent = send_packet(socket.get(), message.SerializeAsString(), fd);
    if (!sent.ok()) {
      CONVOY_LOG(Warn) << "the launcher can't be told: " << sent.message();
    }
  }
};

void Member::State::read_all() {
  pollfd fds[] = {{socket.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
  while (true) {
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) break;
    if (fds[1].revents != 0) break;
    if (fds[0].revents == 0) continue;
    auto packet = receive_packet(socket.get());
    if (!packet.ok() || packet->ended) break;
    proto::ToWorker message;
    if (message.ParseFromString(packet->bytes)) take(message);
  }
  const std::lock_guard lock(mutex);
  gone = true;
  changed.notify_all();
}

void Member::State::take(const proto::ToWorker& message) {
  std::function<void()> call;
  {
    const std::lock_guard lock(mutex);
    if (message.has_summons() && message.summons().generation() > announced) {
      summons = read(message.summons());
      announced = summons->generation;
      call = on_summons;
    } else if (message.has_go()) {
      go = read(message.go());
    } else if (message.has_hold()) {
      held_durably = message.hold().durable();
      held = message.hold().generation() + 1;
    }
    changed.notify_all();
  }
  if (call) call();
}

Member::Member(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Member>> Member::join(const std::string& control) {
  CONVOY_ASSIGN_OR_RETURN(const ControlName name, parse(control));
  auto state = std::make_unique<State>();
  CONVOY_ASSIGN_OR_RETURN(state->socket, connect_packets(name.socket));
  state->stop.reset(::eventfd(0, EFD_CLOEXEC));
  if (!state->stop) return errno_status("making an eventfd", errno);
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd page, share_vitals());
  proto::FromWorker message;
  message.mutable_hello()->set_version(kProtocolVersion);
  message.mutable_hello()->set_worker(name.worker);
  CONVOY_RETURN_IF_ERROR(send_packet(state->socket.get(), message.SerializeAsString(), page.get()));
  State* own = state.get();
  state->reader = std::thread([own] { own->read_all(); });
  return std::unique_ptr<Member>(new Member(std::move(state)));
}

Member::~Member() {
  const uint64_t one = 1;
  [[maybe_unused]] const auto told = ::write(state_->stop.get(), &one, sizeof one);
  state_->reader.join();
}

void Member::on_summons(std::function<void()> call) {
  const std::lock_guard lock(state_->mutex);
  state_->on_summons = std::move(call);
}

bool Member::summoned() const {
  return state_->announced.load(std::memory_order_relaxed) >
         state_->entered.load(std::memory_order_relaxed);
}

Hold Member::hold() const {
  const State& s = *state_;
  if (s.held.load() != s.entered.load() + 1) return Hold::kNo;
  return s.held_durably ? Hold::kDurably : Hold::kInMemory;
}

Result<Summons> Member::await_summons(Nanos timeout) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.changed.wait_for(lock, timeout, [&] { return s.gone || s.announced > s.entered; });
  if (s.announced > s.entered) {
    s.entered = s.announced.load();
    return *s.summons;
  }
  if (s.gone) return Status(Code::kUnavailable, "this node's launcher has gone");
  return Status(Code::kDeadlineExceeded, "the supervisor has announced no new generation");
}

Result<Go> Member::ready(const Summons& summons, const StorePlace& store, Nanos timeout) {
  State& s = *state_;
  proto::FromWorker message;
  message.mutable_ready()->set_generation(summons.generation);
  message.mutable_ready()->set_store_port(store.port);
  message.mutable_ready()->set_store_host(store.host);
  s.say(message);
  std::unique_lock lock(s.mutex);
  const auto may_go = [&] { return s.go && s.go->generation == summons.generation; };
  s.changed.wait_for(lock, timeout, [&] { return s.gone || s.announced > s.entered || may_go(); });
  if (s.announced > s.entered) {
    return Status(Code::kAborted, "there is a later generation: " + s.summons->reason);
  }
  if (may_go()) return *s.go;
  if (s.gone) return Status(Code::kUnavailable, "this node's launcher has gone");
  return Status(Code::kDeadlineExceeded, "generation " + std::to_string(summons.generation) +
                                             " has not begun: some rank is not ready");
}

void Member::running(uint64_t generation, const FirstStep& first) {
  proto::FromWorker message;
  proto::Running& running = *message.mutable_running();
  running.set_generation(generation);
  running.set_step(first.step);
  running.set_resumed(first.resumed);
  running.set_source(first.source);
  running.set_joined_s(first.joined);
  running.set_loaded_s(first.loaded);
  running.set_stepped_s(first.stepped);
  state_->say(message);
}

void Member::trouble(uint64_t generation, const Trouble& trouble) {
  proto::FromWorker message;
  proto::Trouble& told = *message.mutable_trouble();
  told.set_generation(generation);
  told.set_code(static_cast<uint32_t>(trouble.status.code()));
  told.set_text(trouble.status.message());
  told.set_step(trouble.step);
  told.set_is_final(trouble.is_final);
  told.set_is_corruption(trouble.is_corruption);
  told.set_is_held(trouble.is_held);
  for (const int rank : trouble.wrong) told.add_wrong(rank);
  state_->say(message);
}

}  // namespace convoy::resilience
