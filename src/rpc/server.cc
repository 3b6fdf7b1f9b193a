// One reactor a call: reads the request, hands it to the method's handler, writes the answer.
// Streams have theirs in served_stream.cc.
#include "src/rpc/served_stream.h"
#include "src/rpc/wire.h"
#include <convoy/rpc/server.h>

#include <grpcpp/generic/async_generic_service.h>
#include <utility>

namespace convoy::rpc {

void Call::on_cancel(std::function<void()> what) {
  {
    const std::lock_guard lock(mutex_);
    if (!cancelled_) {
      on_cancel_ = std::move(what);
      return;
    }
  }
  what();
}

void Call::cancel() {
  std::function<void()> what;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    what = std::move(on_cancel_);
  }
  if (what) what();
}

namespace {

class ServedCall final : public Call,
                         public grpc::ServerGenericBidiReactor,
                         public std::enable_shared_from_this<ServedCall> {
 public:
  // `handler` null: refused with `refusal`.
  void begin(const Handler* handler, Status refusal) {
    self_ = shared_from_this();
    if (handler == nullptr) return finish(std::move(refusal));
    handler_ = handler;
    StartRead(&bytes_);
  }
  void finish(Result<Message> answer) override {
    if (finished_.exchange(true)) return;
    if (!answer.ok()) return Finish(to_grpc(answer.status()));
    bytes_ = to_wire(std::move(answer).value());
    StartWriteAndFinish(&bytes_, {}, grpc::Status::OK);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return finish(Status(Code::kDataLoss, "a call without a request"));
    Result<Received> request = from_wire(bytes_);
    if (!request.ok()) return finish(request.status());
    bytes_.Clear();
    request_ = std::make_unique<Received>(std::move(request).value());
    (*handler_)(self_);
  }
  void OnCancel() override {
    const std::shared_ptr<ServedCall> self = self_;
    cancel();
    finish(Status(Code::kAborted, "the call was cancelled"));
  }
  void OnDone() override {
    // Not by a plain reset(): the last reference may be this one.
    const std::shared_ptr<ServedCall> self = std::move(self_);
  }

 private:
  const Handler* handler_ = nullptr;
  std::atomic<bool> finished_{false};
  grpc::ByteBuffer bytes_;
  std::shared_ptr<ServedCall> self_;  // from begin() to OnDone()
};

class Service final : public grpc::CallbackGenericService {
 public:
  Service(Handlers handlers, StreamHandlers streams, std::string token)
      : handlers_(std::move(handlers)), streams_(std::move(streams)), token_(std::move(token)) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* ctx) override {
    const auto token = ctx->client_metadata().find(kTokenKey);
    const bool known =
        token_.empty() || (token != ctx->client_metadata().end() && token->second == token_);
    const std::string prefix = kMethodPrefix;
    const std::string method =
        ctx->method().starts_with(prefix) ? ctx->method().substr(prefix.size()) : "";
    if (const auto handler = streams_.find(method); known && handler != streams_.end()) {
      const auto stream = std::make_shared<ServedStream>(ctx);
      stream->begin(handler->second);
      return stream.get();
    }
    const auto call = std::make_shared<ServedCall>();
    const auto handler = handlers_.find(method);
    if (!known) {
      call->begin(nullptr, {Code::kFailedPrecondition,
                            "this server is another job's: the call has not its token"});
    } else if (handler == handlers_.end()) {
      call->begin(nullptr, {Code::kInvalidArgument, "no method " + ctx->method()});
    } else {
      call->begin(&handler->second, {});
    }
    return call.get();
  }

 private:
  const Handlers handlers_;
  const StreamHandlers streams_;
  const std::string token_;
};

Result<std::shared_ptr<grpc::ServerCredentials>> credentials(const TlsFiles& tls) {
  if (tls.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      tls.roots.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                        : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  CONVOY_ASSIGN_OR_RETURN(pair.cert_chain, read_pem(tls.certificate));
  CONVOY_ASSIGN_OR_RETURN(pair.private_key, read_pem(tls.key));
  CONVOY_ASSIGN_OR_RETURN(options.pem_root_certs, read_pem(tls.roots));
  options.pem_key_cert_pairs.push_back(std::move(pair));
  return grpc::SslServerCredentials(options);
}

}  // namespace

struct Server::Impl {
  Impl(Handlers handlers, StreamHandlers streams, std::string token)
      : service(std::move(handlers), std::move(streams), std::move(token)) {}
  Service service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options, Handlers handlers,
                                              StreamHandlers streams) {
  auto impl =
      std::make_unique<Impl>(std::move(handlers), std::move(streams), options.connection.token);
  grpc::ServerBuilder builder;
  CONVOY_ASSIGN_OR_RETURN(const auto creds, credentials(options.connection.tls));
  set_limits(options.connection,
             [&](const char* name, int value) { builder.AddChannelArgument(name, value); });
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  if (options.calls_per_client_max > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.calls_per_client_max);
  }
  if (options.memory_bytes_max > 0) {
    builder.SetResourceQuota(grpc::ResourceQuota("convoy").Resize(options.memory_bytes_max));
  }
  if (options.window_bytes > 0) {
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, options.window_bytes);
  }
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  const std::string host = options.host.empty() ? "[::]" : options.host;
  const std::string address = host + ":" + std::to_string(options.port);
  builder.AddListeningPort(address, creds, &impl->port);
  builder.RegisterCallbackGenericService(&impl->service);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return Status(options.port == 0 ? Code::kInvalidArgument : Code::kAlreadyExists,
                  "cannot listen at " + address +
                      ": the port is taken, the address is not this machine's, or the TLS files "
                      "don't fit each other");
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  stop();
}

uint16_t Server::port() const {
  return static_cast<uint16_t>(impl_->port);
}

void Server::stop(Nanos grace) {
  if (impl_->server == nullptr) return;
  impl_->server->Shutdown(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(grace));
  impl_->server.reset();  // waits for the calls' ends
}

}  // namespace convoy::rpc
