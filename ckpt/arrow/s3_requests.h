#pragma once

#include "ckpt/arrow/sign.h"
#include <convoy/base/status.h>
#include <convoy/ckpt/store.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace convoy::ckpt {

struct S3Place {
  std::string url;   // of the bucket, without a slash at its end
  std::string host;  // of the url, with its port
  std::string path;  // of the bucket in it: "/bucket", or ""
  std::string region;
  std::string bucket;  // for messages
  std::string ca_file, ca_folder;
  bool verify_tls = true;
};

struct S3Upload {
  std::string key;
  std::string id;
};

// The requests to S3 that Arrow's file system does not offer: a conditional PUT, a GET that notices
// an object that is shorter than the range (Arrow fills up with what was in memory), a DELETE that
// makes no folder markers, and the list of unfinished uploads. Each blocks for at most
// options.timeout, tries again what is transient, and its failure has the server's words.
// Thread-safe.
class S3Requests {
 public:
  // `credentials` is asked before each request: they may expire and be renewed.
  S3Requests(S3Place place, StoreOptions options, std::function<Credentials()> credentials);
  ~S3Requests();
  S3Requests(const S3Requests&) = delete;
  S3Requests& operator=(const S3Requests&) = delete;

  // kAlreadyExists if the key is taken. `unsure` is set if that may be by this call itself, an
  // earlier try of which had no answer. Nothing if the server does not know conditions.
  std::optional<Status> put_new(const std::string& key, std::span<const std::byte> bytes,
                                bool& unsure);
  // Of one version of the object. kNotFound; kDataLoss if it has more than `most` bytes.
  Result<std::vector<std::byte>> get(const std::string& key, uint64_t most);
  // Fills `out`, which is not touched once this has returned. kNotFound; kDataLoss if it ends
  // before.
  Status read_at(const std::string& key, uint64_t offset, std::span<std::byte> out);
  Status remove(const std::string& key);
  // Unfinished multi-part uploads of keys that begin so.
  Result<std::vector<S3Upload>> uploads(const std::string& prefix);
  Status abort(const S3Upload& upload);

 private:
  struct Answer {
    int http = 0;       // 0: none came
    std::string body;   // of an error, or what did not fit into `to`
    std::string error;  // why none came
    bool transient = false;
    std::span<std::byte> to;  // where the body of a success goes
    size_t got = 0;           // bytes of it
  };
  struct Receiver;
  Answer ask(const std::string& what, SignedRequest request, bool* unsure = nullptr,
             std::span<std::byte> to = {});
  void ask_once(const SignedRequest& request, Nanos timeout, Answer& answer);
  Status failure(const std::string& what, const std::string& key, const Answer& answer) const;
  void* take_handle();
  void give_handle(void* handle);

  const S3Place place_;
  const StoreOptions options_;
  const std::function<Credentials()> credentials_;
  std::mutex mutex_;
  std::vector<void*> handles_;  // curl's, which keep connections open; guarded by mutex_
};

// Which Status an S3 error is, by the words of the server or of Arrow: what is wrong with
// credentials, rights or the bucket is kInvalidArgument and says what to do.
Status s3_status(const std::string& what, const std::string& words);

}  // namespace convoy::ckpt
