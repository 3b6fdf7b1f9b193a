// etcd's gRPC calls, each by itself: none is so frequent that a stream would pay. In
// libconvoy_cluster; found by name.
#include "src/resilience/etcd/etcd.h"
#include "src/resilience/etcd/etcd.pb.h"
#include "src/rpc/wire.h"
#include <convoy/base/config.h>

#include <atomic>
#include <functional>
#include <grpcpp/generic/generic_stub.h>
#include <utility>
#include <vector>

namespace convoy::resilience {
namespace {

constexpr Nanos kCall = std::chrono::milliseconds(900);
// Whoever is late when etcd is there again is taken for lost.
constexpr int kReconnectMsMin = 100, kReconnectMsMax = 500;
constexpr int kConnectMs = 2000;  // of one attempt: gRPC calls it the least backoff
constexpr const char* kKeepAlive = "/etcdserverpb.Lease/LeaseKeepAlive";
constexpr const char* kWatch = "/etcdserverpb.Watch/Watch";
constexpr const char* kTls = "https://";

template <class Message>
grpc::ByteBuffer bytes_of(const Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

template <class Message>
bool parse(const grpc::ByteBuffer& bytes, Message& message) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return false;
  std::string text;
  for (const grpc::Slice& s : slices)
    text.append(reinterpret_cast<const char*>(s.begin()), s.size());
  return message.ParseFromString(text);
}

// One call on a queue of its own, which this thread waits for.
class Call {
 public:
  explicit Call(Nanos timeout) {
    // A connection is made only while somebody waits for a call: one that failed at once would
    // leave that to gRPC's own poller, which looks every 5 s.
    context_.set_wait_for_ready(true);
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(timeout));
  }
  ~Call() {
    queue_.Shutdown();
    while (next()) {
    }
  }
  grpc::ClientContext& context() { return context_; }
  grpc::CompletionQueue& queue() { return queue_; }
  // Until what was started last is done; false: the call has failed.
  bool next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

 private:
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
};

grpc::Status unary(grpc::GenericStub& stub, const std::string& method,
                   const grpc::ByteBuffer& request, grpc::ByteBuffer& answer) {
  Call call(kCall);
  const auto rpc = stub.PrepareUnaryCall(&call.context(), method, request, &call.queue());
  rpc->StartCall();
  grpc::Status status;
  rpc->Finish(&answer, &status, nullptr);
  call.next();
  return status;
}

// Of a method with streams in both directions: one message there, and those that come until `take`
// has enough.
grpc::Status stream(grpc::GenericStub& stub, const std::string& method, Nanos timeout,
                    const grpc::ByteBuffer& request,
                    const std::function<bool(const grpc::ByteBuffer&)>& take) {
  Call call(timeout);
  const auto rpc = stub.PrepareCall(&call.context(), method, &call.queue());
  rpc->StartCall(nullptr);
  bool ok = call.next();
  if (ok) {
    rpc->Write(request, nullptr);
    ok = call.next();
  }
  bool is_taken = false;
  while (ok && !is_taken) {
    grpc::ByteBuffer answer;
    rpc->Read(&answer, nullptr);
    ok = call.next();
    is_taken = ok && take(answer);
  }
  if (is_taken) call.context().TryCancel();
  grpc::Status status;
  rpc->Finish(&status, nullptr);
  call.next();
  return is_taken ? grpc::Status() : status;
}

class Client final : public Etcd {
 public:
  Client(std::string members, const std::shared_ptr<grpc::ChannelCredentials>& credentials)
      : members_(std::move(members)) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, kReconnectMsMax);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
    for (const std::string& member : split(members_, ',')) {
      auto channel = grpc::CreateCustomChannel(member, credentials, arguments);
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channel));
    }
  }

  Result<Found> get(const std::string& key) override {
    etcd::RangeRequest request;
    request.set_key(key);
    etcd::RangeResponse answer;
    CONVOY_RETURN_IF_ERROR(call("/etcdserverpb.KV/Range", request, answer));
    Found found{.value = {}, .revision = answer.header().revision()};
    if (answer.kvs_size() > 0) found.value = answer.kvs(0).value();
    return found;
  }

  Result<int64_t> grant(Nanos ttl) override {
    etcd::LeaseGrantRequest request;
    request.set_ttl(std::chrono::ceil<std::chrono::seconds>(ttl).count());
    etcd::LeaseGrantResponse answer;
    CONVOY_RETURN_IF_ERROR(call("/etcdserverpb.Lease/LeaseGrant", request, answer));
    if (!answer.error().empty()) return Status(Code::kUnavailable, answer.error());
    return answer.id();
  }

  Status keep_alive(int64_t lease) override {
    etcd::LeaseKeepAliveRequest request;
    request.set_id(lease);
    etcd::LeaseKeepAliveResponse answer;
    const auto take = [&](const grpc::ByteBuffer& bytes) { return parse(bytes, answer); };
    CONVOY_RETURN_IF_ERROR(each_member(kKeepAlive, [&](grpc::GenericStub& stub) {
      return stream(stub, kKeepAlive, kCall, bytes_of(request), take);
    }));
    return answer.ttl() > 0 ? ok_status() : Status(Code::kAborted, "the lease is over");
  }

  Status revoke(int64_t lease) override {
    etcd::LeaseRevokeRequest request;
    request.set_id(lease);
    etcd::LeaseRevokeResponse answer;
    return call("/etcdserverpb.Lease/LeaseRevoke", request, answer);
  }

  Result<bool> put_if(const Condition& condition, const std::string& key, const std::string& value,
                      int64_t lease) override {
    etcd::TxnRequest request;
    etcd::Compare& compare = *request.add_compare();
    compare.set_key(condition.key);
    if (condition.value) {
      compare.set_target(etcd::Compare::VALUE);
      compare.set_value(*condition.value);
    } else if (condition.lease != 0) {
      compare.set_target(etcd::Compare::LEASE);
      compare.set_lease(condition.lease);
    } else {
      compare.set_target(etcd::Compare::CREATE);
      compare.set_create_revision(0);
    }
    etcd::PutRequest& put = *request.add_success()->mutable_request_put();
    put.set_key(key);
    put.set_value(value);
    put.set_lease(lease);
    etcd::TxnResponse answer;
    CONVOY_RETURN_IF_ERROR(call("/etcdserverpb.KV/Txn", request, answer));
    return answer.succeeded();
  }

  Status await_change(const std::string& key, int64_t revision, Nanos timeout) override {
    etcd::WatchRequest request;
    request.mutable_create_request()->set_key(key);
    request.mutable_create_request()->set_start_revision(revision + 1);
    const auto take = [](const grpc::ByteBuffer& bytes) {
      etcd::WatchResponse answer;
      return !parse(bytes, answer) || answer.canceled() || answer.events_size() > 0;
    };
    const Status status = each_member(
        kWatch,
        [&](grpc::GenericStub& stub) {
          return stream(stub, kWatch, timeout, bytes_of(request), take);
        },
        /*is_waiting=*/true);
    return status.code() == Code::kDeadlineExceeded ? ok_status() : status;
  }

 private:
  template <class Request, class Answer>
  Status call(const std::string& method, const Request& request, Answer& answer) {
    grpc::ByteBuffer bytes;
    CONVOY_RETURN_IF_ERROR(each_member(method, [&](grpc::GenericStub& stub) {
      return unary(stub, method, bytes_of(request), bytes);
    }));
    if (parse(bytes, answer)) return ok_status();
    return {Code::kDataLoss, "who listens at " + members_ + " is no etcd"};
  }

  // The one that answered last, and if it doesn't any more, the others.
  // `is_waiting`: a deadline that has passed is no failure.
  Status each_member(const std::string& method,
                     const std::function<grpc::Status(grpc::GenericStub&)>& attempt,
                     bool is_waiting = false) {
    grpc::Status status;
    for (size_t tries = 0; tries < stubs_.size(); ++tries) {
      const size_t member = member_.load();
      status = attempt(*stubs_[member]);
      const bool is_away = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                           status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
      if (!is_away || is_waiting) break;
      member_ = (member + 1) % stubs_.size();
    }
    if (status.ok()) return ok_status();
    // A lease that is over is not found.
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
      return {Code::kAborted, status.error_message()};
    }
    return rpc::from_grpc(status, "etcd at " + members_ + ", " + method);
  }

  const std::string members_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  std::atomic<size_t> member_{0};
};

}  // namespace

extern "C" Status convoy_resilience_open_etcd(const std::string& members, const rpc::TlsFiles& tls,
                                              std::unique_ptr<Etcd>& etcd) {
  const bool is_secure = members.starts_with(kTls);
  CONVOY_ASSIGN_OR_RETURN(const auto credentials,
                          rpc::client_credentials(is_secure ? tls : rpc::TlsFiles{}));
  etcd = std::make_unique<Client>(is_secure ? members.substr(std::string(kTls).size()) : members,
                                  credentials);
  return ok_status();
}

}  // namespace convoy::resilience
