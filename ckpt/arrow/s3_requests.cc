// Signed requests through libcurl.
#include "ckpt/arrow/s3_requests.h"

#include "ckpt/io/backoff.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <ctime>
#include <curl/curl.h>
#include <random>
#include <thread>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr size_t kAnswerBytesMax = size_t{512} << 20;  // above the largest record
constexpr size_t kHandlesMax = 64;
constexpr int kPagesMax = 1000;  // of a list of uploads

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  std::array<char, 32> text = {};
  ::gmtime_r(&now, &parts);
  std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &parts);
  return text.data();
}

size_t on_body(char* to, size_t size, size_t count, void* from) {
  auto& left = *static_cast<std::span<const std::byte>*>(from);
  const size_t bytes = std::min(size * count, left.size());
  std::memcpy(to, left.data(), bytes);
  left = left.subspan(bytes);
  return bytes;
}

// What stands in <name>…</name>, from `at` on, which moves behind it.
std::optional<std::string> element(const std::string& xml, const std::string& name, size_t& at) {
  const std::string open = "<" + name + ">";
  const size_t begin = xml.find(open, at);
  if (begin == std::string::npos) return std::nullopt;
  const size_t end = xml.find("</" + name + ">", begin);
  if (end == std::string::npos) return std::nullopt;
  at = end;
  std::string text = xml.substr(begin + open.size(), end - begin - open.size());
  for (const auto& [code, letter] :
       {std::pair{"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}, {"&amp;", '&'}}) {
    for (size_t i = text.find(code); i != std::string::npos; i = text.find(code, i + 1)) {
      text.replace(i, std::strlen(code), 1, letter);
    }
  }
  return text;
}

std::string first_element(const std::string& xml, const std::string& name) {
  size_t at = 0;
  return element(xml, name, at).value_or("");
}

bool is_transient(CURLcode code) {
  switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_WRITE_ERROR:
      return false;
    default:
      return true;
  }
}

}  // namespace

Status s3_status(const std::string& what, const std::string& words) {
  const auto has = [&](std::initializer_list<const char*> any) {
    return std::ranges::any_of(
        any, [&](const char* word) { return words.find(word) != std::string::npos; });
  };
  const std::string text = what + ": " + words;
  if (has({"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "REQUEST_EXPIRED"})) {
    return {Code::kInvalidArgument, text + ". The credentials have expired: renew them."};
  }
  if (has({"ACCESS_DENIED", "AccessDenied", "InvalidAccessKeyId", "INVALID_ACCESS_KEY_ID",
           "SignatureDoesNotMatch", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "InvalidToken",
           "INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT", "MISSING_AUTHENTICATION_TOKEN",
           "AllAccessDisabled", "AccountProblem", "HTTP status 403", "HTTP status 401"})) {
    return {Code::kInvalidArgument,
            text + ". Give credentials that may read, write, list and delete there."};
  }
  if (has({"NO_SUCH_BUCKET", "NoSuchBucket"})) {
    return {Code::kInvalidArgument, text + ". Make the bucket first, or correct its name."};
  }
  if (has({"NO_SUCH_KEY", "NoSuchKey", "RESOURCE_NOT_FOUND", "Path does not exist"})) {
    return {Code::kNotFound, text};
  }
  if (has({"InvalidRange", "HTTP status 416"})) return {Code::kDataLoss, text};
  if (has({"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "HTTP status 507"})) {
    return {Code::kResourceExhausted, text + ". Free space, raise the quota or keep fewer steps."};
  }
  return {Code::kUnavailable, text};
}

S3Requests::S3Requests(S3Place place, StoreOptions options,
                       std::function<Credentials()> credentials)
    : place_(std::move(place)), options_(options), credentials_(std::move(credentials)) {
  static const CURLcode once = ::curl_global_init(CURL_GLOBAL_DEFAULT);
  CONVOY_CHECK(once == CURLE_OK, "libcurl can't be used");
}

S3Requests::~S3Requests() {
  for (void* handle : handles_) ::curl_easy_cleanup(handle);
}

void* S3Requests::take_handle() {
  {
    const std::lock_guard lock(mutex_);
    if (!handles_.empty()) {
      void* handle = handles_.back();
      handles_.pop_back();
      return handle;
    }
  }
  return ::curl_easy_init();
}

void S3Requests::give_handle(void* handle) {
  ::curl_easy_reset(handle);
  const std::lock_guard lock(mutex_);
  if (handles_.size() < kHandlesMax) {
    handles_.push_back(handle);
  } else {
    ::curl_easy_cleanup(handle);
  }
}

// What comes back: a success into the caller's memory, if there is some, all else as text.
struct S3Requests::Receiver {
  CURL* curl;
  Answer& answer;

  static size_t receive(char* data, size_t size, size_t count, void* self) {
    auto& [curl, answer] = *static_cast<Receiver*>(self);
    const size_t bytes = size * count;
    long http = 0;  // NOLINT(google-runtime-int)
    ::curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http);
    if (http / 100 == 2 && !answer.to.empty()) {
      // More than was asked for: the server ignores ranges. Only what was asked for is taken.
      const size_t room = std::min(bytes, answer.to.size() - answer.got);
      std::memcpy(answer.to.data() + answer.got, data, room);
      answer.got += room;
      return bytes;
    }
    if (answer.body.size() + bytes > kAnswerBytesMax) return 0;
    answer.body.append(data, bytes);
    return bytes;
  }
};

void S3Requests::ask_once(const SignedRequest& request, Nanos timeout, Answer& answer) {
  CURL* curl = take_handle();
  CONVOY_CHECK(curl != nullptr, "libcurl gives no handle");
  Receiver receiver{curl, answer};
  const std::string query = encode_query(request.query);
  const std::string url =
      place_.url + request.path.substr(place_.path.size()) + (query.empty() ? "" : "?" + query);
  std::array<char, CURL_ERROR_SIZE> why = {};
  std::span<const std::byte> left = request.body;
  curl_slist* headers = ::curl_slist_append(nullptr, "expect:");
  for (const auto& [name, value] : request.headers) {
    if (name != "host") headers = ::curl_slist_append(headers, (name + ": " + value).c_str());
  }
  const auto seconds = [](Nanos t) {
    return static_cast<long>(std::max<int64_t>(1, t / 1s));  // NOLINT(google-runtime-int)
  };
  ::curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  ::curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why.data());
  ::curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  ::curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  ::curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Receiver::receive);
  ::curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
  ::curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,
                     static_cast<long>(std::max<int64_t>(1, timeout / 1ms)));  // NOLINT
  ::curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, seconds(options_.stall_limit));
  ::curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  ::curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, seconds(options_.stall_limit));
  ::curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, place_.verify_tls ? 1L : 0L);
  if (!place_.ca_file.empty()) ::curl_easy_setopt(curl, CURLOPT_CAINFO, place_.ca_file.c_str());
  if (!place_.ca_folder.empty()) {
    ::curl_easy_setopt(curl, CURLOPT_CAPATH, place_.ca_folder.c_str());
  }
  if (request.method == "PUT") {
    ::curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    ::curl_easy_setopt(curl, CURLOPT_READFUNCTION, &on_body);
    ::curl_easy_setopt(curl, CURLOPT_READDATA, &left);
    ::curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(left.size()));
  }
  const CURLcode code = ::curl_easy_perform(curl);
  long http = 0;  // NOLINT(google-runtime-int)
  if (code == CURLE_OK) ::curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http);
  ::curl_slist_free_all(headers);
  give_handle(curl);
  answer.http = static_cast<int>(http);
  if (code != CURLE_OK) {
    answer.error = why[0] != 0 ? why.data() : ::curl_easy_strerror(code);
    answer.transient = is_transient(code);
    return;
  }
  const std::string word = first_element(answer.body, "Code");
  answer.transient = http == 408 || http == 409 || http == 429 || http == 500 || http == 502 ||
                     http == 503 || http == 504 || word == "RequestTimeout" || word == "SlowDown";
}

S3Requests::Answer S3Requests::ask(const std::string& what, SignedRequest request, bool* unsure,
                                   std::span<std::byte> to) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  const Deadline deadline = Deadline::after(options_.timeout);
  request.headers["host"] = place_.host;
  for (int tries = 1;; ++tries) {
    SignedRequest ready = request;
    sign(ready, credentials_(), place_.region, utc_now());
    Answer answer;
    answer.to = to;
    ask_once(ready, deadline.left(), answer);
    if (!answer.transient || tries >= options_.tries_max) return answer;
    const Nanos pause = backoff(tries, 100ms, 10s, random());
    if (deadline.left() <= pause) return answer;
    // Without an answer, or with one of a server in trouble, it may have been done.
    if (unsure != nullptr) *unsure = true;
    CONVOY_LOG(Warn) << what << " in bucket " << place_.bucket << " failed and is tried again: "
                     << (answer.http == 0 ? answer.error : "HTTP " + std::to_string(answer.http));
    std::this_thread::sleep_for(pause);
  }
}

Status S3Requests::failure(const std::string& what, const std::string& key,
                           const Answer& answer) const {
  const std::string where = what + " " + place_.bucket + "/" + key;
  if (answer.http == 0) return {Code::kUnavailable, where + ": " + answer.error};
  const std::string code = first_element(answer.body, "Code");
  const std::string text = first_element(answer.body, "Message");
  return s3_status("cannot " + where, "HTTP status " + std::to_string(answer.http) +
                                          (code.empty() ? "" : ", " + code) +
                                          (text.empty() ? "" : ": " + text));
}

std::optional<Status> S3Requests::put_new(const std::string& key, std::span<const std::byte> bytes,
                                          bool& unsure) {
  SignedRequest request{"PUT", place_.path + "/" + uri_encode(key, true), {}, {}, bytes};
  request.headers["if-none-match"] = "*";
  request.headers["content-type"] = "application/octet-stream";
  unsure = false;
  const Answer answer = ask("creating " + key, std::move(request), &unsure);
  if (answer.http / 100 == 2) return ok_status();
  if (answer.http == 412) {
    return Status(Code::kAlreadyExists, key + " exists in bucket " + place_.bucket);
  }
  if (answer.http == 501) return std::nullopt;
  return failure("create", key, answer);
}

Result<std::vector<std::byte>> S3Requests::get(const std::string& key, uint64_t most) {
  const Answer answer =
      ask("reading " + key, {"GET", place_.path + "/" + uri_encode(key, true), {}, {}, {}});
  if (answer.http != 200) return failure("read", key, answer);
  if (answer.body.size() > most) {
    return Status(Code::kDataLoss, key + " in bucket " + place_.bucket + " has " +
                                       std::to_string(answer.body.size()) +
                                       " bytes, more than the " + std::to_string(most) +
                                       " that it may have.");
  }
  const auto bytes = std::as_bytes(std::span(answer.body));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

Status S3Requests::read_at(const std::string& key, uint64_t offset, std::span<std::byte> out) {
  SignedRequest request{"GET", place_.path + "/" + uri_encode(key, true), {}, {}, {}};
  request.headers["range"] =
      "bytes=" + std::to_string(offset) + "-" + std::to_string(offset + out.size() - 1);
  const Answer answer = ask("reading " + key, std::move(request), nullptr, out);
  // 416: it ends before the range begins.
  if (answer.http != 206 && answer.http != 416) {
    const bool whole = answer.http == 200 && offset == 0 && answer.got == out.size();
    return whole ? ok_status() : failure("read", key, answer);
  }
  const size_t got = answer.http == 206 ? answer.got : 0;
  if (got == out.size()) return ok_status();
  return {Code::kDataLoss,
          key + " in bucket " + place_.bucket + " is truncated: " + std::to_string(got) + " of " +
              std::to_string(out.size()) + " bytes at " + std::to_string(offset) + " are there."};
}

Status S3Requests::remove(const std::string& key) {
  const Answer answer =
      ask("removing " + key, {"DELETE", place_.path + "/" + uri_encode(key, true), {}, {}, {}});
  if (answer.http / 100 == 2) return ok_status();
  const Status status = failure("remove", key, answer);
  return status.code() == Code::kNotFound ? ok_status() : status;
}

Result<std::vector<S3Upload>> S3Requests::uploads(const std::string& prefix) {
  std::vector<S3Upload> found;
  std::string key_marker;
  std::string id_marker;
  for (int page = 0; page < kPagesMax; ++page) {
    SignedRequest request{"GET", place_.path + "/", {{"uploads", ""}, {"prefix", prefix}}, {}, {}};
    if (page > 0) request.query["key-marker"] = key_marker;
    if (page > 0) request.query["upload-id-marker"] = id_marker;
    const Answer answer = ask("listing uploads of " + prefix, std::move(request));
    if (answer.http != 200) return failure("list unfinished uploads of", prefix, answer);
    size_t at = 0;
    for (size_t next = answer.body.find("<Upload>", at); next != std::string::npos;
         next = answer.body.find("<Upload>", at)) {
      const size_t end = answer.body.find("</Upload>", next);
      if (end == std::string::npos) break;
      const std::string one = answer.body.substr(next, end - next);
      found.push_back({first_element(one, "Key"), first_element(one, "UploadId")});
      at = end;
    }
    if (first_element(answer.body, "IsTruncated") != "true") break;
    key_marker = first_element(answer.body, "NextKeyMarker");
    id_marker = first_element(answer.body, "NextUploadIdMarker");
  }
  // Not every server looks at the prefix.
  std::erase_if(found, [&](const S3Upload& upload) { return !upload.key.starts_with(prefix); });
  return found;
}

Status S3Requests::abort(const S3Upload& upload) {
  const Answer answer = ask("dropping the unfinished upload of " + upload.key,
                            {"DELETE",
                             place_.path + "/" + uri_encode(upload.key, true),
                             {{"uploadId", upload.id}},
                             {},
                             {}});
  if (answer.http / 100 == 2 || answer.http == 404) return ok_status();
  return failure("drop the unfinished upload of", upload.key, answer);
}

}  // namespace convoy::ckpt
