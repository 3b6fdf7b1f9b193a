#pragma once

#include <convoy/base/status.h>
#include <convoy/rpc/message.h>

#include <functional>
#include <grpcpp/grpcpp.h>
#include <string>
#include <vector>

// Between Convoy's values and gRPC's.
namespace convoy::rpc {

inline constexpr const char* kTokenKey = "convoy-token";
inline constexpr const char* kMethodPrefix = "/convoy/";

// The Convoy code travels beside the text, because gRPC's codes are not the same set.
grpc::Status to_grpc(const Status& status);
Status from_grpc(const grpc::Status& status, const std::string& what);

// [header bytes: u32 little-endian][header][body]
grpc::ByteBuffer to_wire(Message message);
// kDataLoss for what is no such message.
Result<Received> from_wire(const grpc::ByteBuffer& bytes);

Result<std::string> read_pem(const std::string& path);
// Plain without files.
Result<std::shared_ptr<grpc::ChannelCredentials>> client_credentials(const TlsFiles& tls);
void set_limits(const ConnectionOptions& options,
                const std::function<void(const char* name, int value)>& set);

struct Received::Body {
  std::vector<grpc::Slice> slices;
  size_t skip = 0;  // bytes of the first slices that are not the body's
  size_t bytes = 0;
};

}  // namespace convoy::rpc
