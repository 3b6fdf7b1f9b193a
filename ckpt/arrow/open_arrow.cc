// From a URI to a store: which of Arrow's file systems, with which limits, and what differs on it.
#include "ckpt/arrow/arrow_store.h"
#include "ckpt/arrow/bounded_call.h"
#include "ckpt/arrow/bounded_executor.h"
#include "ckpt/arrow/plugin.h"
#include "ckpt/io/backoff.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <arrow/filesystem/gcsfs.h>
#include <arrow/filesystem/s3fs.h>
#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/util/uri.h>
#include <chrono>
#include <cstdlib>
#include <random>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
using FileSystem = std::shared_ptr<arrow::fs::FileSystem>;

constexpr int kThreads = 16;       // of a file system, for parts of uploads and lists
constexpr int kPartsInFlight = 5;  // queued or at work, of 10 MiB each

struct Opened {
  FileSystem fs;
  std::string root;
  FileSystemTraits traits;
  std::unique_ptr<S3Requests> s3;
  std::shared_ptr<BoundedExecutor> executor;
};

// Tries again what the SDK says may be transient.
class Retry final : public arrow::fs::S3RetryStrategy {
 public:
  explicit Retry(int tries_max) : tries_max_(tries_max) {}
  bool ShouldRetry(const AWSErrorDetail& error, int64_t retries) override {
    const bool again = error.should_retry && retries + 1 < tries_max_;
    if (again) {
      CONVOY_LOG(Warn) << "a request to the object store failed and is tried again: "
                       << (error.exception_name.empty() ? "" : error.exception_name + ": ")
                       << error.message;
    }
    return again;
  }
  int64_t CalculateDelayBeforeNextRetry(const AWSErrorDetail& /*error*/, int64_t retries) override {
    thread_local std::mt19937_64 random{std::random_device{}()};
    return backoff(static_cast<int>(retries) + 1, 100ms, 10s, random()) / 1ms;
  }

 private:
  const int tries_max_;
};

void finalize() {
  // A call that never came back still uses it; leaking is all that is left then.
  if (calls_lost() == 0) (void)arrow::fs::EnsureS3Finalized().ok();
}

arrow::Status start_s3() {
  static const arrow::Status started = [] {
    if (arrow::fs::IsS3Initialized()) return arrow::Status::OK();  // by pyarrow, in one process
    arrow::fs::S3GlobalOptions options = arrow::fs::S3GlobalOptions::Defaults();
    if (std::getenv("ARROW_S3_LOG_LEVEL") == nullptr) {
      options.log_level = arrow::fs::S3LogLevel::Off;  // its failures come back to us
    }
    return arrow::fs::InitializeS3(options);
  }();
  return started;
}

S3Place place_of(const arrow::fs::S3Options& options, const std::string& region,
                 const std::string& bucket) {
  S3Place place;
  place.region = region.empty() ? "us-east-1" : region;
  place.bucket = bucket;
  place.ca_file = options.tls_ca_file_path;
  place.ca_folder = options.tls_ca_dir_path;
  place.verify_tls = options.tls_verify_certificates;
  std::string scheme = options.scheme;
  place.host = options.endpoint_override;
  if (const size_t at = place.host.find("://"); at != std::string::npos) {
    scheme = place.host.substr(0, at);
    place.host = place.host.substr(at + 3);
  }
  while (place.host.ends_with('/')) place.host.pop_back();
  const bool at_amazon = place.host.empty();
  if (at_amazon) place.host = "s3." + place.region + ".amazonaws.com";
  // A dot in the name would not fit the certificate.
  const bool virtual_host =
      (at_amazon || options.force_virtual_addressing) && bucket.find('.') == std::string::npos;
  if (virtual_host) {
    place.host = bucket + "." + place.host;
  } else {
    place.path = "/" + bucket;
  }
  place.url = scheme + "://" + place.host + place.path;
  return place;
}

// Registers the end of S3 when a store has been opened, or could not be: not before, since it has
// to run ahead of the ends of what Arrow makes for the first client.
struct FinalizeAtExit {
  ~FinalizeAtExit() {
    static const int registered = std::atexit(&finalize);
    (void)registered;
  }
};

arrow::Result<Opened> open_s3(const arrow::util::Uri& uri, const arrow::io::IOContext& context,
                              const StoreOptions& limits) {
  ARROW_RETURN_NOT_OK(start_s3());
  const FinalizeAtExit finalizes;
  Opened out;
  ARROW_ASSIGN_OR_RAISE(arrow::fs::S3Options options,
                        arrow::fs::S3Options::FromUri(uri, &out.root));
  options.allow_delayed_open = true;  // a small file is one PUT
  options.background_writes = true;
  options.connect_timeout = std::chrono::duration<double>(limits.stall_limit).count();
  options.request_timeout = options.connect_timeout;
  options.retry_strategy = std::make_shared<Retry>(limits.tries_max);
  ARROW_ASSIGN_OR_RAISE(const auto fs, arrow::fs::S3FileSystem::Make(options, context));
  const std::string bucket = out.root.substr(0, out.root.find('/'));
  if (bucket.empty()) return arrow::Status::Invalid("the URI names no bucket");
  out.s3 = std::make_unique<S3Requests>(place_of(options, fs->region(), bucket), limits, [options] {
    return Credentials{options.GetAccessKey(), options.GetSecretKey(), options.GetSessionToken()};
  });
  out.fs = fs;
  out.traits.whole = true;
  return out;
}

arrow::Result<Opened> open_gcs(const arrow::util::Uri& uri, const arrow::io::IOContext& context,
                               const StoreOptions& limits) {
  Opened out;
  ARROW_ASSIGN_OR_RAISE(arrow::fs::GcsOptions options,
                        arrow::fs::GcsOptions::FromUri(uri, &out.root));
  options.retry_limit_seconds = std::chrono::duration<double>(limits.timeout).count();
  ARROW_ASSIGN_OR_RAISE(out.fs, arrow::fs::GcsFileSystem::Make(options, context));
  out.traits.whole = true;
  return out;
}

arrow::Result<Opened> open_other(const std::string& text, const arrow::util::Uri& uri,
                                 const arrow::io::IOContext& context) {
  Opened out;
  ARROW_ASSIGN_OR_RAISE(out.fs, arrow::fs::FileSystemFromUri(text, context, &out.root));
  const std::string scheme = uri.scheme();
  const bool hdfs = scheme == "hdfs" || scheme == "viewfs";
  out.traits.moves = hdfs || scheme == "mock";
  out.traits.move_refuses = hdfs;
  out.traits.folders = out.traits.moves;
  return out;
}

arrow::Result<Opened> open_any(const std::string& text, const StoreOptions& limits) {
  ARROW_ASSIGN_OR_RAISE(const arrow::util::Uri uri, arrow::util::Uri::FromString(text));
  ARROW_ASSIGN_OR_RAISE(const auto executor, BoundedExecutor::make(kThreads, kPartsInFlight));
  // Arrow's context has a bare pointer; a call that was given up may use it for as long as it
  // likes.
  static auto* const executors = new std::vector<std::shared_ptr<BoundedExecutor>>();
  static std::mutex mutex;
  {
    const std::lock_guard lock(mutex);
    executors->push_back(executor);
  }
  const arrow::io::IOContext context(arrow::default_memory_pool(), executor.get());
  const std::string scheme = uri.scheme();
  const bool gcs = scheme == "gs" || scheme == "gcs";
  ARROW_ASSIGN_OR_RAISE(Opened opened, scheme == "s3" ? open_s3(uri, context, limits)
                                       : gcs          ? open_gcs(uri, context, limits)
                                                      : open_other(text, uri, context));
  opened.executor = executor;
  return opened;
}

// Without credentials and options.
std::string public_name(const std::string& uri) {
  std::string text = uri.substr(0, uri.find('?'));
  const size_t begin = text.find("://") + 3;
  const size_t end = std::min(text.find('/', begin), text.size());
  if (const size_t at = text.rfind('@', end); at != std::string::npos && at >= begin) {
    text.erase(begin, at + 1 - begin);
  }
  while (text.ends_with('/')) text.pop_back();
  return text;
}

// Before anything else, since an absent bucket otherwise looks like one without files.
arrow::Result<bool> is_there(Opened& opened) {
  const bool objects = opened.traits.whole;  // a prefix comes and goes with its files
  const std::string at = objects ? opened.root.substr(0, opened.root.find('/')) : opened.root;
  ARROW_ASSIGN_OR_RAISE(const arrow::fs::FileInfo info, opened.fs->GetFileInfo(at));
  return info.type() != arrow::fs::FileType::NotFound;
}

}  // namespace

Result<std::unique_ptr<Store>> make_arrow_store(const std::string& uri,
                                                const StoreOptions& options) {
  const std::string name = public_name(uri);
  struct Outcome {
    arrow::Result<Opened> opened = arrow::Status::Cancelled("");
    arrow::Result<bool> there = false;
  };
  // Shared: Opened can't be copied, and the thread may outlive us.
  auto outcome = bounded_call<std::shared_ptr<Outcome>>(options.timeout, [uri, options] {
    auto out = std::make_shared<Outcome>();
    out->opened = open_any(uri, options);
    if (out->opened.ok()) out->there = is_there(*out->opened);
    return out;
  });
  const std::string what = "cannot open " + name;
  if (!outcome) return Status(Code::kDeadlineExceeded, what + ": the store does not answer");
  if (!(*outcome)->opened.ok()) {
    const arrow::Status& status = (*outcome)->opened.status();
    const bool wrong = status.IsInvalid() || status.IsNotImplemented() || status.IsKeyError();
    return wrong ? Status(Code::kInvalidArgument, what + ": " + status.message())
                 : s3_status(what, status.message());
  }
  if (!(*outcome)->there.ok()) return s3_status(what, (*outcome)->there.status().message());
  Opened opened = std::move((*outcome)->opened).ValueUnsafe();
  while (opened.root.ends_with('/')) opened.root.pop_back();
  const bool mock = name.starts_with("mock:");
  if (!*(*outcome)->there && !mock) {
    return Status(Code::kNotFound, what + ": there is no such " +
                                       (opened.traits.whole ? "bucket" : "folder") +
                                       ". Make it first, or correct its name.");
  }
  return std::unique_ptr<Store>(std::make_unique<ArrowStore>(
      opened.fs, opened.root, name, opened.traits, options, std::move(opened.s3), opened.executor));
}

}  // namespace convoy::ckpt

extern "C" __attribute__((visibility("default"))) convoy::Status convoy_open_arrow_store(
    const std::string& uri, const convoy::ckpt::StoreOptions& options,
    std::unique_ptr<convoy::ckpt::Store>& store) {
  convoy::Result<std::unique_ptr<convoy::ckpt::Store>> opened =
      convoy::ckpt::make_arrow_store(uri, options);
  if (opened.ok()) store = std::move(opened).value();
  return opened.status();
}
