#include "trace/web/assets.h"
#include <convoy/base/atomic_file.h>
#include <convoy/trace/replay.h>
#include <convoy/trace/report.h>

#include <span>
#include <string_view>
#include <utility>

namespace convoy::trace {
namespace {

constexpr size_t kRanksMax = 256;
constexpr size_t kGroupsMax = 160;
constexpr size_t kInstancesMax = 320;

// The pieces of the page's API as one object, by their paths.
class Pieces {
 public:
  void add(const std::string& path, const std::string& json) {
    text_ += (text_.empty() ? "{\"" : ",\"") + path + "\":" + json;
  }
  size_t size() const { return text_.size(); }
  std::string take() { return std::move(text_) + "}"; }

 private:
  std::string text_;
};

// Within a script element: nothing of it may look like the element's end.
std::string in_script(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string in_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string_view asset(std::string_view path) {
  const Asset* const found = find_asset(path);
  CONVOY_CHECK(found != nullptr, "the page's files are not in this program");
  return found->bytes;
}

void add_details(Pieces& pieces, const Summary& summary, size_t bytes_max) {
  const size_t limit = pieces.size() + bytes_max;
  const auto add = [&](const std::string& path, const Result<std::string>& piece) {
    if (piece.ok() && pieces.size() + piece->size() < limit) pieces.add(path, *piece);
  };
  const auto text = [](auto number) { return std::to_string(number); };
  for (const auto& [group, sequence] : summary.notable_instances(kInstancesMax)) {
    add("/api/instance?group=" + text(group) + "&sequence=" + text(sequence),
        summary.instance(group, sequence));
  }
  for (const uint32_t rank : summary.notable_ranks(kRanksMax)) {
    add("/api/rank?rank=" + text(rank), summary.rank(rank));
  }
  for (const uint32_t group : summary.notable_groups(kGroupsMax)) {
    add("/api/group?group=" + text(group), summary.group(group));
  }
}

}  // namespace

std::string report_html(const Summary& summary, const ReportOptions& options) {
  Pieces pieces;
  pieces.add("/api/overview", summary.overview());
  pieces.add("/api/ranks", summary.ranks());
  pieces.add("/api/groups", summary.groups());
  pieces.add("/api/links", summary.links());
  add_details(pieces, summary, options.details_max);
  std::string html =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src "
      "'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">\n<title>";
  html += in_html(options.title.empty() ? "Convoy trace report" : options.title);
  html += "</title>\n<style>\n";
  html += asset("/style.css");
  html += "</style>\n</head>\n<body>\n<noscript>This report needs JavaScript.</noscript>\n";
  html += "<script type=\"application/json\" id=\"data\">" + in_script(pieces.take());
  html += "</script>\n<script>\n";
  html += asset("/app.js");
  html += "</script>\n</body>\n</html>\n";
  return html;
}

Status write_report(const std::filesystem::path& stream, const std::filesystem::path& html,
                    const ReportOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<Replay> replay, replay_stream(stream));
  return write_file(html.string(), report_html(*replay->summary, options));
}

}  // namespace convoy::trace
