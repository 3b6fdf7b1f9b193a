// AWS Signature Version 4, for the few requests that Arrow's file system can't make.
#include "ckpt/arrow/sign.h"

#include <array>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

namespace convoy::ckpt {
namespace {

using Digest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

std::string hex(std::span<const unsigned char> bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

std::string sha256(std::span<const std::byte> bytes) {
  Digest digest;
  ::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return hex(digest);
}

Digest hmac(std::span<const unsigned char> key, const std::string& text) {
  Digest digest;
  unsigned size = 0;
  ::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size);
  return digest;
}

}  // namespace

std::string uri_encode(const std::string& text, bool keep_slash) {
  constexpr const char* kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~' || (keep_slash && c == '/');
    if (plain) {
      out += c;
    } else {
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

std::string encode_query(const std::map<std::string, std::string>& query) {
  std::string out;
  for (const auto& [name, value] : query) {
    out += (out.empty() ? "" : "&") + uri_encode(name, false) + "=" + uri_encode(value, false);
  }
  return out;
}

void sign(SignedRequest& request, const Credentials& credentials, const std::string& region,
          const std::string& time) {
  if (credentials.access_key.empty()) return;
  const std::string payload = sha256(request.body);
  request.headers["x-amz-date"] = time;
  request.headers["x-amz-content-sha256"] = payload;
  if (!credentials.session_token.empty()) {
    request.headers["x-amz-security-token"] = credentials.session_token;
  }
  std::string headers;
  std::string names;
  for (const auto& [name, value] : request.headers) {
    headers += name + ":" + value + "\n";
    names += (names.empty() ? "" : ";") + name;
  }
  const std::string canonical = request.method + "\n" + request.path + "\n" +
                                encode_query(request.query) + "\n" + headers + "\n" + names + "\n" +
                                payload;
  const std::string day = time.substr(0, 8);
  const std::string scope = day + "/" + region + "/s3/aws4_request";
  const std::string to_sign = "AWS4-HMAC-SHA256\n" + time + "\n" + scope + "\n" +
                              sha256(std::as_bytes(std::span(canonical)));
  const std::string secret = "AWS4" + credentials.secret_key;
  Digest key = hmac({reinterpret_cast<const unsigned char*>(secret.data()), secret.size()}, day);
  for (const std::string& step : {region, std::string("s3"), std::string("aws4_request")}) {
    key = hmac(key, step);
  }
  request.headers["authorization"] = "AWS4-HMAC-SHA256 Credential=" + credentials.access_key + "/" +
                                     scope + ", SignedHeaders=" + names +
                                     ", Signature=" + hex(hmac(key, to_sign));
}

}  // namespace convoy::ckpt
