#include "src/rpc/wire.h"

#include <absl/synchronization/mutex.h>
#include <algorithm>
#include <climits>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

namespace convoy::rpc {
namespace {

constexpr size_t kTextBytesMax = 8192;  // of a failure; headers have a limit too
constexpr int kMetadataBytesMax = 64 << 10;

grpc::StatusCode grpc_code(Code code) {
  switch (code) {
    case Code::kOk:
      return grpc::StatusCode::OK;
    case Code::kInvalidArgument:
    case Code::kMismatch:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case Code::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case Code::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case Code::kAlreadyExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case Code::kDeadlineExceeded:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Code::kAborted:
      return grpc::StatusCode::ABORTED;
    case Code::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Code::kDataLoss:
      return grpc::StatusCode::DATA_LOSS;
    case Code::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case Code::kInternal:
      break;
  }
  return grpc::StatusCode::INTERNAL;
}

// Of failures that gRPC itself tells.
Code own_code(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE:
      return Code::kUnavailable;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return Code::kDeadlineExceeded;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::ABORTED:
      return Code::kAborted;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return Code::kResourceExhausted;
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::UNAUTHENTICATED:
      return Code::kFailedPrecondition;
    default:
      return Code::kInternal;
  }
}

void release_owner(void* owner) {
  delete static_cast<std::shared_ptr<const void>*>(owner);
}

}  // namespace

grpc::Status to_grpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string text = status.message().substr(0, kTextBytesMax);
  return {grpc_code(status.code()), std::move(text),
          std::to_string(static_cast<int>(status.code()))};
}

Status from_grpc(const grpc::Status& status, const std::string& what) {
  if (status.ok()) return {};
  const std::string& details = status.error_details();
  if (!details.empty() && details.size() <= 2 &&
      std::ranges::all_of(details, [](char c) { return c >= '0' && c <= '9'; })) {
    const int code = std::stoi(details);
    if (code > 0 && code <= static_cast<int>(Code::kInternal)) {
      return {static_cast<Code>(code), status.error_message()};
    }
  }
  return {own_code(status.error_code()), what + ": " + status.error_message()};
}

grpc::ByteBuffer to_wire(Message message) {
  std::vector<grpc::Slice> slices;
  const auto size = static_cast<uint32_t>(message.header.size());
  std::string head(sizeof size, '\0');
  std::memcpy(head.data(), &size, sizeof size);
  slices.emplace_back(head + message.header);
  for (const std::span<const std::byte> part : message.body) {
    // Each slice holds a reference of its own: gRPC frees them one by one.
    auto* owner = new std::shared_ptr<const void>(message.owner);
    slices.emplace_back(const_cast<std::byte*>(part.data()), part.size(), &release_owner, owner);
  }
  return {slices.data(), slices.size()};
}

Result<Received> from_wire(const grpc::ByteBuffer& bytes) {
  auto body = std::make_unique<Received::Body>();
  uint32_t size = 0;
  if (!bytes.Valid() || bytes.Length() < sizeof size || !bytes.Dump(&body->slices).ok()) {
    return Status(Code::kDataLoss, "a message without a header");
  }
  const auto copy = [&](size_t from, size_t count, char* to) {
    for (const grpc::Slice& slice : body->slices) {
      const size_t skip = std::min(from, slice.size());
      const size_t take = std::min(count, slice.size() - skip);
      if (take > 0) std::memcpy(to, slice.begin() + skip, take);
      from -= skip;
      count -= take;
      to += take;
    }
  };
  copy(0, sizeof size, reinterpret_cast<char*>(&size));
  if (size > bytes.Length() - sizeof size) {
    return Status(Code::kDataLoss, "a message that is shorter than its header");
  }
  std::string header(size, '\0');
  copy(sizeof size, size, header.data());
  body->skip = sizeof size + size;
  body->bytes = bytes.Length() - body->skip;
  return Received(std::move(header), std::move(body));
}

Received::Received(std::string header, std::unique_ptr<Body> body)
    : header_(std::move(header)), body_(std::move(body)) {}
Received::Received(Received&&) noexcept = default;
Received& Received::operator=(Received&&) noexcept = default;
Received::~Received() = default;

size_t Received::body_bytes() const {
  return body_->bytes;
}

void Received::copy_body(std::byte* to) const {
  size_t skip = body_->skip;
  for (const grpc::Slice& slice : body_->slices) {
    const size_t jump = std::min(skip, slice.size());
    skip -= jump;
    if (slice.size() == jump) continue;
    std::memcpy(to, slice.begin() + jump, slice.size() - jump);
    to += slice.size() - jump;
  }
}

Result<std::string> read_pem(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status(Code::kInvalidArgument, "the TLS file " + path + " can't be read");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Result<std::shared_ptr<grpc::ChannelCredentials>> client_credentials(const TlsFiles& tls) {
  if (tls.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  CONVOY_ASSIGN_OR_RETURN(options.pem_root_certs, read_pem(tls.roots));
  CONVOY_ASSIGN_OR_RETURN(options.pem_private_key, read_pem(tls.key));
  CONVOY_ASSIGN_OR_RETURN(options.pem_cert_chain, read_pem(tls.certificate));
  return grpc::SslCredentials(options);
}

void set_limits(const ConnectionOptions& options,
                const std::function<void(const char* name, int value)>& set) {
  // Debian's abseil keeps a graph of all locks to find dead ones, one for the process: with 1,250
  // connections a fifth of a server's time.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const auto ms = [](Nanos time) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
  };
  const auto bytes = static_cast<int>(std::min<size_t>(options.message_bytes_max, INT_MAX));
  set(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, bytes);
  set(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, bytes);
  set(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  set(GRPC_ARG_KEEPALIVE_TIME_MS, ms(options.keepalive));
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ms(options.keepalive_timeout));
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

}  // namespace convoy::rpc
