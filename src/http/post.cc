#include "src/http/post.h"

#include <curl/curl.h>
#include <dlfcn.h>

namespace convoy::http {
namespace {

// The functions of libcurl that are used.
struct Curl {
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_easy_init) init = nullptr;
  decltype(&::curl_easy_setopt) set = nullptr;
  decltype(&::curl_easy_perform) perform = nullptr;
  decltype(&::curl_easy_getinfo) info = nullptr;
  decltype(&::curl_easy_cleanup) cleanup = nullptr;
  decltype(&::curl_easy_strerror) text = nullptr;
  decltype(&::curl_slist_append) append = nullptr;
  decltype(&::curl_slist_free_all) free_all = nullptr;
  bool ok = false;
};

template <class F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  return function != nullptr;
}

Curl open_curl() {
  Curl c;
  void* const library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return c;
  c.ok =
      find(library, "curl_global_init", c.global_init) && find(library, "curl_easy_init", c.init) &&
      find(library, "curl_easy_setopt", c.set) && find(library, "curl_easy_perform", c.perform) &&
      find(library, "curl_easy_getinfo", c.info) && find(library, "curl_easy_cleanup", c.cleanup) &&
      find(library, "curl_easy_strerror", c.text) && find(library, "curl_slist_append", c.append) &&
      find(library, "curl_slist_free_all", c.free_all) &&
      c.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return c;
}

const Curl& curl() {
  static const Curl opened = open_curl();
  return opened;
}

size_t ignore(const char*, size_t size, size_t count, void*) {
  return size * count;
}

}  // namespace

Status can_post() {
  if (curl().ok) return ok_status();
  return {Code::kFailedPrecondition, "webhooks need libcurl.so.4 (Debian: libcurl4)"};
}

Status post_json(const std::string& url, const std::string& body, Nanos timeout) {
  CONVOY_RETURN_IF_ERROR(can_post());
  const Curl& c = curl();
  CURL* const handle = c.init();
  if (handle == nullptr) return {Code::kResourceExhausted, "libcurl has no handle left"};
  curl_slist* const headers = c.append(nullptr, "Content-Type: application/json");
  const auto ms =
      static_cast<long>(std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count());
  c.set(handle, CURLOPT_URL, url.c_str());
  c.set(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  c.set(handle, CURLOPT_POSTFIELDS, body.c_str());
  c.set(handle, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  c.set(handle, CURLOPT_HTTPHEADER, headers);
  c.set(handle, CURLOPT_TIMEOUT_MS, ms);
  c.set(handle, CURLOPT_NOSIGNAL, 1L);
  c.set(handle, CURLOPT_WRITEFUNCTION, &ignore);
  const CURLcode code = c.perform(handle);
  long status = 0;
  c.info(handle, CURLINFO_RESPONSE_CODE, &status);
  c.free_all(headers);
  c.cleanup(handle);
  // Without the URL, which may hold a secret.
  if (code != CURLE_OK) return {Code::kUnavailable, std::string("the webhook: ") + c.text(code)};
  if (status / 100 == 2) return ok_status();
  const bool later = status == 429 || status / 100 == 5;
  return {later ? Code::kUnavailable : Code::kInvalidArgument,
          "the webhook answers " + std::to_string(status)};
}

}  // namespace convoy::http
