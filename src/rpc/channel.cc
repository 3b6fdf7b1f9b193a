#include "src/rpc/client_stream.h"
#include "src/rpc/wire.h"
#include <convoy/rpc/channel.h>

#include <condition_variable>
#include <grpcpp/generic/generic_stub.h>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace convoy::rpc {
namespace {

constexpr int kReconnectMsMin = 100, kReconnectMsMax = 2000;
constexpr int kConnectMs = 10000;  // of one attempt: gRPC calls it the least backoff

struct Outgoing {
  std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
  grpc::ByteBuffer request, answer;
  std::string what;
  Channel::Done done;
};

}  // namespace

struct Channel::Impl {
  std::string address, token;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<grpc::GenericStub> stub;
  std::mutex mutex;
  std::condition_variable idle;
  // Guarded by mutex, from here on.
  std::set<grpc::ClientContext*> under_way;  // of calls and streams: what close() cancels
  size_t open = 0;                           // of those, and of those just being freed
  bool closed = false;

  bool add(grpc::ClientContext* context) {
    const std::lock_guard lock(mutex);
    if (closed) return false;
    under_way.insert(context);
    ++open;
    return true;
  }
  // Frees the context before the channel's owner may go on. A context keeps the gRPC channel alive,
  // and were it the last one of the process to do so here, gRPC's thread would have to join itself:
  // it frees its completion queue instead while it still uses it (seen with 1.51).
  void remove(std::unique_ptr<grpc::ClientContext> context) {
    {
      const std::lock_guard lock(mutex);
      under_way.erase(context.get());
    }
    context.reset();
    const std::lock_guard lock(mutex);
    --open;
    idle.notify_all();
  }
};

Result<std::unique_ptr<Channel>> Channel::create(const std::string& address,
                                                 const ConnectionOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->address = address;
  impl->token = options.token;
  CONVOY_ASSIGN_OR_RETURN(const auto creds, client_credentials(options.tls));
  grpc::ChannelArguments args;
  set_limits(options, [&](const char* name, int value) { args.SetInt(name, value); });
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);          // nodes of one cluster
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection for each channel
  impl->channel = grpc::CreateCustomChannel(address, creds, args);
  impl->stub = std::make_unique<grpc::GenericStub>(impl->channel);
  return std::unique_ptr<Channel>(new Channel(std::move(impl)));
}

Channel::Channel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Channel::~Channel() {
  close();
}

const std::string& Channel::address() const {
  return impl_->address;
}

void Channel::call(const std::string& method, Message request, Nanos timeout, Done done) {
  auto call = std::make_unique<Outgoing>();
  call->what = method + " at " + impl_->address;
  call->done = std::move(done);
  call->context->set_deadline(std::chrono::system_clock::now() +
                              std::chrono::duration_cast<std::chrono::microseconds>(timeout));
  if (!impl_->token.empty()) call->context->AddMetadata(kTokenKey, impl_->token);
  call->request = to_wire(std::move(request));
  if (!impl_->add(call->context.get())) {
    return call->done(Status(Code::kAborted, call->what + ": the channel was closed"));
  }
  Outgoing* const raw = call.release();
  impl_->stub->UnaryCall(raw->context.get(), kMethodPrefix + method, grpc::StubOptions(),
                         &raw->request, &raw->answer,
                         [impl = impl_.get(), raw](const grpc::Status& status) {
                           const std::unique_ptr<Outgoing> mine(raw);
                           if (status.ok()) {
                             mine->done(from_wire(mine->answer));
                           } else {
                             mine->done(from_grpc(status, mine->what));
                           }
                           impl->remove(std::move(mine->context));
                         });
}

Result<Received> Channel::call(const std::string& method, Message request, Nanos timeout) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable came;
    std::optional<Result<Received>> value;
  };
  const auto answer = std::make_shared<Answer>();  // shared with `done`, which may outlast the wait
  call(method, std::move(request), timeout, [answer](Result<Received> value) {
    const std::lock_guard lock(answer->mutex);
    answer->value.emplace(std::move(value));
    answer->came.notify_all();
  });
  std::unique_lock lock(answer->mutex);
  answer->came.wait(lock, [&] { return answer->value.has_value(); });
  return std::move(*answer->value);
}

std::shared_ptr<Stream> Channel::open_stream(const std::string& method, StreamEvents events) {
  auto ended = [impl = impl_.get(), told = std::move(events.ended)](
                   std::unique_ptr<grpc::ClientContext> context, const Status& why) {
    told(why);
    impl->remove(std::move(context));
  };
  const auto stream = std::make_shared<ClientStream>(method + " at " + impl_->address,
                                                     std::move(events.received), std::move(ended));
  if (!impl_->token.empty()) stream->context().AddMetadata(kTokenKey, impl_->token);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->under_way.insert(&stream->context());
    ++impl_->open;
    if (impl_->closed) stream->context().TryCancel();
  }
  impl_->stub->PrepareBidiStreamingCall(&stream->context(), kMethodPrefix + method,
                                        grpc::StubOptions(), stream.get());
  stream->begin();
  return stream;
}

void Channel::close() {
  std::unique_lock lock(impl_->mutex);
  impl_->closed = true;
  for (grpc::ClientContext* context : impl_->under_way) context->TryCancel();
  impl_->idle.wait(lock, [&] { return impl_->open == 0; });
}

}  // namespace convoy::rpc
