#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/rpc/message.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace convoy::resilience {

// A client of etcd (its v3 API): what a job's control state needs of it. What talks gRPC lies in
// libconvoy_cluster, which open_etcd() loads. All calls block, for some seconds at most, and may be
// made from several threads. Errors: kUnavailable, kDeadlineExceeded: no member answers, which may
// pass; their texts name the members.
class Etcd {
 public:
  struct Found {
    std::optional<std::string> value;
    int64_t revision = 0;  // of the whole store when it was read
  };

  struct Condition {
    std::string key;
    std::optional<std::string> value{};  // it has this one, or …
    int64_t lease = 0;  // … is held with this lease; neither: there is no such key
  };

  virtual ~Etcd() = default;
  virtual Result<Found> get(const std::string& key) = 0;
  // A lease that ends so long after it was last kept alive. etcd may make it longer.
  virtual Result<int64_t> grant(Nanos ttl) = 0;
  // kAborted: it is over.
  virtual Status keep_alive(int64_t lease) = 0;
  virtual Status revoke(int64_t lease) = 0;
  // Writes if the condition holds; false: it does not. `lease`: the key goes with it; 0: it stays.
  virtual Result<bool> put_if(const Condition& condition, const std::string& key,
                              const std::string& value, int64_t lease) = 0;
  // Returns when the key was written or has gone since `revision`, and after `timeout`.
  virtual Status await_change(const std::string& key, int64_t revision, Nanos timeout) = 0;
};

// `members`: HOST:PORT, or several between commas, of which any will do; "https://" before the
// first one: with the TLS files. Does not connect yet. kInvalidArgument: TLS files.
Result<std::unique_ptr<Etcd>> open_etcd(const std::string& members, const rpc::TlsFiles& tls);

}  // namespace convoy::resilience
