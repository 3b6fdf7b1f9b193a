#pragma once

#include <map>
#include <span>
#include <string>

namespace convoy::ckpt {

// A request to S3, as AWS Signature Version 4 sees it. Names of headers are in lower case.
struct SignedRequest {
  std::string method;                          // "PUT"
  std::string path;                            // "/bucket/key", encoded
  std::map<std::string, std::string> query;    // not encoded
  std::map<std::string, std::string> headers;  // with host
  std::span<const std::byte> body;
};

struct Credentials {
  std::string access_key;  // empty: anonymous, nothing is signed
  std::string secret_key;
  std::string session_token;
};

// Text as it may stand in a path (slashes stay) or a query.
std::string uri_encode(const std::string& text, bool keep_slash);
// "a=1&b=", as it stands behind the question mark and in the signature.
std::string encode_query(const std::map<std::string, std::string>& query);

// Adds the headers that sign the request. `time`: "20261126T022405Z". Pure.
void sign(SignedRequest& request, const Credentials& credentials, const std::string& region,
          const std::string& time);

}  // namespace convoy::ckpt
