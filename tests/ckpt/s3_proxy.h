#pragma once

#include <convoy/ckpt/store.h>

#include <string>

// What a test program asks of the proxy that s3_server.py starts before it.
namespace convoy::ckpt {

// A URI in the test's bucket, through the proxy or past it: a folder of its own for each name.
std::string s3_uri(const std::string& folder, bool direct = false);

struct S3Fault {
  std::string id;
  std::string match;   // of "METHOD /convoy/key?query[ if-none-match]"
  std::string action;  // s3_server.py has them
  int arg = 0;
  int times = 1;
  int skip = 0;
  std::string code = "InternalError";
};
void arm_s3(const S3Fault& fault);
int fired_s3(const std::string& id);
int seen_s3(const std::string& match);
void clear_s3();

}  // namespace convoy::ckpt
