// Drives the streams of one operation: what may be sent is sent, what arrives goes where the plan
// says, and steps run when their inputs are complete. What to move is decided in link_plan.cc,
// whether the ranks agree in link_signature.cc.
#include "src/comm/host/link_engine.h"

#include "src/comm/host/reduce_kernels.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utility>

namespace convoy::host {
namespace {

constexpr uint32_t kHeaderMagic = 0x504f5643;  // "CVOP"
// One visit of a stream moves at most this much, so that all streams progress together.
constexpr size_t kVisitBytes = size_t{512} << 10;
constexpr size_t kStagingBytes = size_t{64} << 10;
constexpr int kVectorMax = 16;
constexpr int kEventsMax = 64;
// A closed connection is news of the group's other channel too (abort, leave), which tells the
// better cause; it gets this long to arrive.
constexpr std::chrono::milliseconds kCauseGrace{300};
// After a mismatch was seen, the requests of ranks that have not arrived are awaited this long.
constexpr std::chrono::seconds kMismatchGrace{2};

struct WireHeader {
  uint32_t magic;
  uint32_t signature_bytes;
  uint64_t sequence;
};
static_assert(sizeof(WireHeader) == 16);

}  // namespace

struct LinkEngine::Stream {
  UniqueFd fd;
  int rank = 0;
  int index = 0;
  bool readable = true;  // until the kernel says otherwise: epoll reports edges only
  bool writable = true;
  bool closed = false;
  std::string why_closed;
  std::vector<SendItem> sends;
  std::vector<RecvItem> recvs;
  size_t send_at = 0, send_offset = 0;
  size_t recv_at = 0, recv_offset = 0;
  // Stream 0 only: bytes that were read together with a header.
  std::vector<char> staging;
  size_t staged_from = 0, staged_to = 0;

  size_t staged() const { return staged_to - staged_from; }
  bool idle() const { return send_at == sends.size() && recv_at == recvs.size(); }
};

struct LinkEngine::Operation {
  std::span<const Collective> ops;
  uint64_t sequence = 0;
  std::string header;
  std::string signature;
  LinkPlan plan;
  std::vector<std::vector<OpSignature>> requests;  // by rank
  std::vector<bool> joined;
  int missing = 0;          // ranks whose header is not here
  bool agreed = false;      // all headers are here and say the same
  bool suspicious = false;  // some header differs: nothing but headers is read any more
  TimePoint started{};
  bool warned = false;
  Status failure;
  TimePoint failed_at{};
  std::vector<ReduceKernel> kernels;  // by collective; null where nothing is reduced
  std::vector<double> factors;        // premul by rank, for one step
  // Steps whose inputs came (on other streams) before some header: they wait for the agreement.
  std::vector<int> deferred;
};

LinkEngine::LinkEngine(int rank, int size, Options options)
    : rank_(rank), size_(size), options_(std::move(options)) {}

LinkEngine::~LinkEngine() = default;

Result<std::unique_ptr<LinkEngine>> LinkEngine::create(int rank,
                                                       std::vector<std::vector<UniqueFd>> streams,
                                                       Options options) {
  const int size = static_cast<int>(streams.size());
  std::unique_ptr<LinkEngine> engine(new LinkEngine(rank, size, std::move(options)));
  engine->streams_.resize(size);
  for (int r = 0; r < size; ++r) {
    for (size_t s = 0; s < streams[r].size(); ++s) {
      auto stream = std::make_unique<Stream>();
      stream->fd = std::move(streams[r][s]);
      stream->rank = r;
      stream->index = static_cast<int>(s);
      if (s == 0) stream->staging.resize(kStagingBytes);
      engine->all_.push_back(stream.get());
      engine->streams_[r].push_back(std::move(stream));
    }
  }
  CONVOY_RETURN_IF_ERROR(engine->watch());
  return engine;
}

Status LinkEngine::watch() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !wake_) return errno_status("creating the epoll of a group", errno);
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return errno_status("watching a group's eventfd", errno);
  }
  for (Stream* stream : all_) {
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = stream;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stream->fd.get(), &event) != 0) {
      return errno_status("watching a connection", errno);
    }
  }
  return ok_status();
}

void LinkEngine::stop() {
  stopped_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

Status LinkEngine::run(std::span<const Collective> ops, uint64_t sequence, Deadline deadline) {
  scratch_.reset();
  operation_ = std::make_unique<Operation>();
  CONVOY_RETURN_IF_ERROR(begin(ops, sequence));
  Operation& operation = *operation_;
  bool copied = false;
  for (;;) {
    bool moved = false;
    for (Stream* stream : all_) moved |= pump(*stream);
    if (!std::exchange(copied, true)) {
      for (const LocalCopy& copy : operation.plan.copies) {
        std::memmove(copy.to, copy.from, copy.bytes);
      }
      if (size_ == 1) {
        for (ReduceStep& step : operation.plan.steps) run_step(step);
      }
      moved = true;
    }
    if (stopped_) return Status(Code::kAborted, "");
    CONVOY_RETURN_IF_ERROR(settle_headers());
    if (operation.agreed && finished()) return ok_status();
    if (!moved) CONVOY_RETURN_IF_ERROR(wait(deadline));
  }
}

Status LinkEngine::begin(std::span<const Collective> ops, uint64_t sequence) {
  Operation& operation = *operation_;
  for (const Collective& op : ops) {
    ReduceKernel kernel = nullptr;
    if (is_reducing(op.kind)) {
      CONVOY_ASSIGN_OR_RETURN(kernel, find_reduce_kernel(op.dtype, op.reduce));
    }
    operation.kernels.push_back(kernel);
  }
  operation.ops = ops;
  operation.sequence = sequence;
  operation.started = Clock::system().now();
  operation.signature = encode_signatures(ops, rank_, size_);
  if (operation.signature.size() > kSignatureBytesMax) {
    return Status(Code::kInvalidArgument, "too many collectives at once");
  }
  const WireHeader header{kHeaderMagic, static_cast<uint32_t>(operation.signature.size()),
                          sequence};
  operation.header.assign(reinterpret_cast<const char*>(&header), sizeof header);
  operation.header += operation.signature;
  operation.requests.resize(size_);
  for (const Collective& op : ops) {
    operation.requests[rank_].push_back(op_signature(op, rank_, size_));
  }
  operation.joined.assign(size_, false);
  operation.joined[rank_] = true;
  operation.missing = size_ - 1;
  const int streams = size_ > 1 ? static_cast<int>(all_.size()) / (size_ - 1) : 1;
  operation.plan = make_plan(ops, rank_, size_, streams, options_.limits, scratch_);
  for (Stream* stream : all_) {
    auto& lane = operation.plan.lanes[stream->rank][stream->index];
    stream->sends.clear();
    if (stream->index == 0) {
      stream->sends.push_back({operation.header.data(), operation.header.size()});
    }
    stream->sends.insert(stream->sends.end(), lane.sends.begin(), lane.sends.end());
    stream->recvs.swap(lane.recvs);
    stream->send_at = stream->send_offset = stream->recv_at = stream->recv_offset = 0;
  }
  return ok_status();
}

bool LinkEngine::blocked(int step) const {
  return step != kNoStep && !operation_->plan.steps[step].done;
}

bool LinkEngine::pump(Stream& stream) {
  const bool out = pump_out(stream);
  const bool in = pump_in(stream);
  return out || in;
}

bool LinkEngine::pump_out(Stream& stream) {
  if (!stream.writable || stream.closed) return false;
  // After a mismatch only headers go out: the others want to name every request.
  if (operation_->suspicious && (stream.index != 0 || stream.send_at > 0)) return false;
  iovec vector[kVectorMax] = {};
  int count = 0;
  size_t bytes = 0, offset = stream.send_offset;
  for (size_t i = stream.send_at; i < stream.sends.size() && count < kVectorMax; ++i) {
    const SendItem& item = stream.sends[i];
    if (blocked(item.after) || bytes >= kVisitBytes) break;
    vector[count++] = {const_cast<char*>(item.data) + offset, item.bytes - offset};
    bytes += item.bytes - offset;
    offset = 0;
  }
  if (count == 0) return false;
  msghdr message{};
  message.msg_iov = vector;
  message.msg_iovlen = static_cast<size_t>(count);
  const ssize_t n = ::sendmsg(stream.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0) {
    if (errno == EAGAIN)
      stream.writable = false;
    else if (errno != EINTR)
      broken(stream, std::strerror(errno));
    return false;
  }
  if (static_cast<size_t>(n) < bytes) stream.writable = false;
  sent(stream, static_cast<size_t>(n));
  return true;
}

void LinkEngine::sent(Stream& stream, size_t bytes) {
  while (bytes > 0) {
    const SendItem& item = stream.sends[stream.send_at];
    const size_t now = std::min(bytes, item.bytes - stream.send_offset);
    stream.send_offset += now;
    bytes -= now;
    if (stream.send_offset < item.bytes) return;
    stream.send_offset = 0;
    ++stream.send_at;
    count_down(item.informs);
  }
}

bool LinkEngine::wants_bytes(const Stream& stream) const {
  return stream.recv_at < stream.recvs.size() && !operation_->suspicious &&
         !blocked(stream.recvs[stream.recv_at].after);
}

bool LinkEngine::pump_in(Stream& stream) {
  bool moved = false;
  if (stream.index == 0 && !operation_->joined[stream.rank]) {
    if (!take_header(stream)) return read_staging(stream);
    moved = true;
  }
  // What was read together with the header comes first.
  while (stream.staged() > 0 && wants_bytes(stream)) {
    stream.staged_from +=
        deliver(stream, stream.staging.data() + stream.staged_from, stream.staged());
    moved = true;
  }
  if (stream.staged() > 0 || !wants_bytes(stream)) return moved;
  return read_items(stream) || moved;
}

// Reads towards a header.
bool LinkEngine::read_staging(Stream& stream) {
  if (!stream.readable || stream.closed) return false;
  if (stream.staged_from > 0) {
    std::memmove(stream.staging.data(), stream.staging.data() + stream.staged_from,
                 stream.staged());
    stream.staged_to -= std::exchange(stream.staged_from, 0);
  }
  iovec rest{stream.staging.data() + stream.staged_to, stream.staging.size() - stream.staged_to};
  const size_t got = receive(stream, &rest, 1);
  stream.staged_to += got;
  return got > 0;
}

// Reads straight to where the bytes belong. On stream 0 a few bytes are often all that is left, and
// the next header follows: what is beyond goes to the (empty) staging in the same call.
bool LinkEngine::read_items(Stream& stream) {
  if (!stream.readable || stream.closed) return false;
  iovec vector[kVectorMax] = {};
  int count = 0;
  size_t direct = 0, offset = stream.recv_offset;
  for (size_t i = stream.recv_at; i < stream.recvs.size() && count < kVectorMax - 1; ++i) {
    const RecvItem& item = stream.recvs[i];
    if (blocked(item.after) || direct >= kVisitBytes) break;
    vector[count++] = {item.data + offset, item.bytes - offset};
    direct += item.bytes - offset;
    offset = 0;
  }
  if (stream.index == 0 && direct < kStagingBytes) {
    stream.staged_from = stream.staged_to = 0;
    vector[count++] = {stream.staging.data(), stream.staging.size()};
  }
  const size_t got = receive(stream, vector, count);
  for (size_t left = std::min(got, direct); left > 0;) left -= deliver(stream, nullptr, left);
  stream.staged_to += got - std::min(got, direct);
  return got > 0;
}

size_t LinkEngine::receive(Stream& stream, const iovec* vector, int count) {
  const ssize_t n = ::readv(stream.fd.get(), vector, count);
  if (n > 0) return static_cast<size_t>(n);
  if (n == 0)
    broken(stream, "it closed the connection");
  else if (errno == EAGAIN)
    stream.readable = false;
  else if (errno != EINTR)
    broken(stream, std::strerror(errno));
  return 0;
}

// Accounts for up to `bytes` bytes of the current item, copied from `data` unless they are in place
// already. Returns how many it took.
size_t LinkEngine::deliver(Stream& stream, const char* data, size_t bytes) {
  const RecvItem& item = stream.recvs[stream.recv_at];
  const size_t now = std::min(bytes, item.bytes - stream.recv_offset);
  if (data != nullptr) std::memcpy(item.data + stream.recv_offset, data, now);
  stream.recv_offset += now;
  if (stream.recv_offset == item.bytes) {
    stream.recv_offset = 0;
    ++stream.recv_at;
    count_down(item.informs);
  }
  return now;
}

// Reads a header out of the staging, when it is complete there.
bool LinkEngine::take_header(Stream& stream) {
  Operation& operation = *operation_;
  WireHeader header;
  if (stream.staged() < sizeof header) return false;
  const char* at = stream.staging.data() + stream.staged_from;
  std::memcpy(&header, at, sizeof header);
  if (header.magic != kHeaderMagic || header.signature_bytes > kSignatureBytesMax ||
      header.sequence != operation.sequence) {
    broken(stream, "it sent something that is no header of operation #" +
                       std::to_string(operation.sequence));
    return false;
  }
  const size_t whole = sizeof header + header.signature_bytes;
  if (stream.staged() < whole) {
    if (whole > stream.staging.size()) stream.staging.resize(whole);
    return false;
  }
  auto request =
      decode_signatures({at + sizeof header, header.signature_bytes}, stream.rank, size_);
  if (!request.ok()) {
    broken(stream, request.status().message());
    return false;
  }
  stream.staged_from += whole;
  operation.requests[stream.rank] = std::move(request).value();
  operation.joined[stream.rank] = true;
  --operation.missing;
  const auto same = [&] {
    const auto &mine = operation.requests[rank_], &theirs = operation.requests[stream.rank];
    return mine.size() == theirs.size() &&
           std::equal(mine.begin(), mine.end(), theirs.begin(), [](const auto& a, const auto& b) {
             return a.kind == b.kind && a.dtype == b.dtype && a.root == b.root;
           });
  };
  if (!same()) operation.suspicious = true;
  return true;
}

// Whether the ranks agree, as soon as that is known.
Status LinkEngine::settle_headers() {
  Operation& operation = *operation_;
  const TimePoint now =
      operation.suspicious || !operation.failure.ok() ? Clock::system().now() : TimePoint();
  if (!operation.failure.ok() && now >= operation.failed_at + kCauseGrace) {
    return operation.failure;
  }
  if (operation.agreed) return ok_status();
  if (operation.missing > 0) {
    if (!operation.suspicious) return ok_status();
    if (operation.failed_at == TimePoint()) operation.failed_at = now;
    if (now < operation.failed_at + kMismatchGrace) return ok_status();
    // Some ranks have not come: compare those that have.
    std::vector<std::vector<OpSignature>> requests;
    std::vector<int> names;
    for (int r = 0; r < size_; ++r) {
      if (!operation.joined[r]) continue;
      requests.push_back(operation.requests[r]);
      names.push_back(name_of(r));
    }
    return check_agreement(requests, names).with_context(operation_text());
  }
  CONVOY_RETURN_IF_ERROR(
      check_agreement(operation.requests, options_.global_ranks).with_context(operation_text()));
  operation.agreed = true;
  for (const int step : operation.deferred) run_step(operation.plan.steps[step]);
  return ok_status();
}

void LinkEngine::count_down(int step) {
  if (step == kNoStep) return;
  ReduceStep& waiting = operation_->plan.steps[step];
  if (--waiting.waiting > 0) return;
  if (operation_->agreed || waiting.sources.empty())
    run_step(waiting);
  else
    operation_->deferred.push_back(step);
}

void LinkEngine::run_step(ReduceStep& step) {
  step.done = true;
  if (step.sources.empty()) return;
  const Collective& op = operation_->ops[step.op];
  auto& factors = operation_->factors;
  factors.clear();
  if (op.reduce == ReduceOp::kPremulSum) {
    for (const auto& request : operation_->requests) factors.push_back(request[step.op].premul);
  }
  void* target = step.target;
  operation_->kernels[step.op](
      {step.sources.data(), step.sources.size(), factors.data(), step.count, &target, 1, false});
}

bool LinkEngine::finished() const {
  return std::all_of(all_.begin(), all_.end(), [](const Stream* s) { return s->idle(); });
}

// A closed connection only matters to an operation that still needs it.
void LinkEngine::broken(Stream& stream, const std::string& why) {
  if (!std::exchange(stream.closed, true)) stream.why_closed = why;
  Operation& operation = *operation_;
  if (!operation.failure.ok()) return;
  const bool header_due = stream.index == 0 && !operation.joined[stream.rank];
  if (!header_due && stream.idle()) return;
  operation.failed_at = Clock::system().now();
  operation.failure =
      Status(Code::kAborted, operation_text() + ": lost the connection to rank " +
                                 std::to_string(name_of(stream.rank)) + ": " + stream.why_closed +
                                 "; its process or machine has probably died, see its log");
}

std::string LinkEngine::operation_text() const {
  const Operation& operation = *operation_;
  std::string text(operation.ops.empty() ? "nothing" : op_name(operation.ops[0].kind));
  if (operation.ops.size() > 1) {
    text += " (and " + std::to_string(operation.ops.size() - 1) + " more)";
  }
  return text + " #" + std::to_string(operation.sequence) + " of group " + options_.group;
}

// Who holds the operation up: ranks that have not come, else those whose bytes are missing.
std::string LinkEngine::missing_text() const {
  const Operation& operation = *operation_;
  std::vector<int> absent, present, owing, stuck;
  for (int r = 0; r < size_; ++r) {
    (operation.joined[r] ? present : absent).push_back(name_of(r));
    bool owes = false, takes_nothing = false;
    for (const auto& stream : streams_[r]) {
      owes |=
          stream->recv_at < stream->recvs.size() && !blocked(stream->recvs[stream->recv_at].after);
      takes_nothing |=
          stream->send_at < stream->sends.size() && !blocked(stream->sends[stream->send_at].after);
    }
    if (owes)
      owing.push_back(name_of(r));
    else if (takes_nothing)
      stuck.push_back(name_of(r));
  }
  const auto ranks = [](const std::vector<int>& list) {
    return (list.size() == 1 ? "rank " : "ranks ") + join_ranks(list);
  };
  if (!absent.empty()) {
    return ranks(absent) + (absent.size() == 1 ? " has" : " have") + " not joined " +
           operation_text() + "; " + ranks(present) + (present.size() == 1 ? " has" : " have");
  }
  if (!owing.empty()) return operation_text() + " still waits for bytes of " + ranks(owing);
  return operation_text() + " can't hand its bytes to " + ranks(stuck);
}

// Sleeps until a stream is ready, someone calls stop(), or there is something to say.
Status LinkEngine::wait(Deadline deadline) {
  Operation& operation = *operation_;
  const TimePoint now = Clock::system().now();
  CONVOY_RETURN_IF_ERROR(late(deadline));
  // Closed in an earlier operation, and what had been read ahead was not all.
  for (Stream* stream : all_) {
    if (stream->closed) broken(*stream, stream->why_closed);
  }
  TimePoint until = std::min(deadline.at(), now + std::chrono::seconds(1));
  if (!operation.warned) until = std::min(until, operation.started + options_.patience);
  if (operation.failed_at != TimePoint()) {
    until = std::min<TimePoint>(until, now + std::chrono::milliseconds(50));
  }
  const Nanos left = std::max(Nanos(0), until - now);
  epoll_event events[kEventsMax];
  const int count = ::epoll_wait(
      epoll_.get(), events, kEventsMax,
      static_cast<int>((left + std::chrono::microseconds(999)) / std::chrono::milliseconds(1)));
  for (int i = 0; i < count; ++i) {
    auto* stream = static_cast<Stream*>(events[i].data.ptr);
    if (stream == nullptr) continue;  // stop()
    const uint32_t what = events[i].events;
    if ((what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) stream->readable = true;
    if ((what & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) stream->writable = true;
  }
  return ok_status();
}

Status LinkEngine::late(Deadline deadline) {
  Operation& operation = *operation_;
  const TimePoint now = Clock::system().now();
  const auto seconds = [](Nanos time) {
    return std::to_string(std::chrono::duration<double>(time).count()).substr(0, 4) + " s";
  };
  if (now >= deadline.at()) {
    return Status(Code::kDeadlineExceeded,
                  missing_text() + " (waited " + seconds(now - operation.started) + ")");
  }
  if (!operation.warned && now >= operation.started + options_.patience) {
    operation.warned = true;
    CONVOY_LOG(Warn) << missing_text() << " after " << seconds(now - operation.started);
  }
  return ok_status();
}

}  // namespace convoy::host
