#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

// What goes over the links of ranks, and other counters, over the last seconds.
namespace convoy::trace {

// A sum since the beginning, and what it was some seconds ago.
struct Rolled {
  uint64_t now = 0, middle = 0, base = 0;
  bool known = false;
  void set(uint64_t value) {
    if (!known || value < now) middle = base = value;  // first, or it began anew
    now = value;
    known = true;
  }
  void roll() {
    base = middle;
    middle = now;
  }
  uint64_t recent() const { return now - base; }
};

enum class LinkFigure : uint8_t {
  kSent,
  kReceived,
  kSendWait,
  kPeerWait,
  kReceiveWait,
  kSourceWait,
  kDrainWait,
  kRetransmits,
  kMessageBytes,  // of operations with a peer, told by the receiver
  kMessageTime,   // ns of these, from start to completion
};
inline constexpr size_t kLinkFigures = 10;
std::optional<LinkFigure> link_figure(std::string_view name);

struct Link {
  uint32_t peer = 0;
  std::array<Rolled, kLinkFigures> figures{};
  uint64_t round_trip = 0;  // ns, newest
  const Rolled& operator[](LinkFigure f) const { return figures[static_cast<size_t>(f)]; }
  Rolled& operator[](LinkFigure f) { return figures[static_cast<size_t>(f)]; }
};

enum class ProcessFigure : uint8_t { kRunQueue, kProcessor, kPageFaults, kDiskWait, kTokens };
inline constexpr size_t kProcessFigures = 5;
std::optional<ProcessFigure> process_figure(std::string_view name);

// The counters of one rank.
class Counters {
 public:
  // nullptr: too many peers.
  Link* link(uint32_t peer);
  const std::vector<Link>& links() const { return links_; }
  Rolled& operator[](ProcessFigure f) { return process_[static_cast<size_t>(f)]; }
  const Rolled& operator[](ProcessFigure f) const { return process_[static_cast<size_t>(f)]; }
  // It is now `time`, ns on one clock: forgets what is older than some seconds.
  void pass(int64_t time);
  double recent_s() const { return static_cast<double>(now_ - base_) * 1e-9; }

 private:
  std::vector<Link> links_;  // by peer
  std::array<Rolled, kProcessFigures> process_{};
  int64_t now_ = 0, middle_ = 0, base_ = 0;
};

}  // namespace convoy::trace
