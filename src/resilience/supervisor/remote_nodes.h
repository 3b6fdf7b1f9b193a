#pragma once

#include "src/resilience/line/line.h"
#include "src/resilience/protocol/messages.pb.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace convoy::resilience {

// The launchers of the job's other machines, as its supervisor talks to them: who connects must say
// who he is, and belong to the job; else he is dropped, told why, and a line is logged.
class RemoteNodes {
 public:
  struct Expected {
    std::string job;
    std::string mesh;
    int nodes = 2, home = 0;
    int ranks = 1;  // on each node
  };
  using Said = std::function<void(int node, const proto::FromNode& message)>;
  using Gone = std::function<void(int node, const std::string& why)>;

  RemoteNodes(std::unique_ptr<Lines> lines, Expected expected, Said said, Gone gone);

  int fd() const { return lines_->fd(); }
  // Hands on what has come.
  void serve();
  // Dropped if the node has no line.
  void send(int node, const proto::ToNode& order);
  // Ends all lines behind what was sent.
  void end();
  bool empty() const { return nodes_.empty(); }

 private:
  void take(uint64_t line, const std::string& bytes);
  void hello(uint64_t line, const proto::FromNode& message);
  Status check(const proto::NodeHello& hello) const;
  void refuse(uint64_t line, const Status& why);

  const std::unique_ptr<Lines> lines_;
  const Expected expected_;
  const Said said_;
  const Gone gone_;
  std::map<uint64_t, std::string> peers_;  // all lines: the other side's address
  std::map<uint64_t, int> nodes_;          // of lines that have said hello
};

}  // namespace convoy::resilience
