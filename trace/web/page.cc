#include "src/http/metrics.h"
#include "src/http/server.h"
#include "trace/web/assets.h"
#include <convoy/base/clock.h>
#include <convoy/trace/page.h>

#include <nlohmann/json.hpp>

#include <charconv>
#include <functional>
#include <map>
#include <mutex>
#include <optional>

namespace convoy::trace {
namespace {

using http::Answer;
using http::Server;
using http::ServerOptions;

constexpr auto kViewAge = std::chrono::seconds(1);  // a view is made at most so often
constexpr const char* kJson = "application/json";

std::optional<uint32_t> number_in(const std::map<std::string, std::string>& query,
                                  const char* name) {
  const auto at = query.find(name);
  if (at == query.end()) return std::nullopt;
  uint32_t value = 0;
  const std::string& text = at->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Answer problem(int status, const std::string& text) {
  return {.status = status, .type = kJson, .body = nlohmann::json{{"error", text}}.dump()};
}

}  // namespace

struct Page::Impl {
  Impl(const Registry& registry, const SummaryOptions& options) : summary(registry, options) {}

  struct View {
    TimePoint made{};
    Answer answer;
  };

  Answer answer(const std::string& path, const std::map<std::string, std::string>& query);
  Answer cached(const std::string& path, const char* type,
                const std::function<std::string()>& make);
  Answer looked_up(const std::function<Result<std::string>()>& make);

  std::mutex mutex;  // of the summary
  Summary summary;
  std::map<std::string, View> views;  // of the server's thread
  PageOptions options;
  std::unique_ptr<Server> server;  // last: ends first
};

Answer Page::Impl::cached(const std::string& path, const char* type,
                          const std::function<std::string()>& make) {
  View& view = views[path];
  const TimePoint now = Clock::system().now();
  if (view.answer.body.empty() || now - view.made > kViewAge) {
    const std::lock_guard lock(mutex);
    view.answer = {.type = type, .body = make()};
    view.made = now;
  }
  return view.answer;
}

Answer Page::Impl::looked_up(const std::function<Result<std::string>()>& make) {
  const std::lock_guard lock(mutex);
  const Result<std::string> made = make();
  if (!made.ok()) return problem(404, made.status().message());
  return {.type = kJson, .body = *made};
}

Answer Page::Impl::answer(const std::string& path,
                          const std::map<std::string, std::string>& query) {
  if (const Asset* const asset = find_asset(path == "/" ? "/index.html" : path)) {
    return {.type = asset->type, .body = std::string(asset->bytes), .is_public = true};
  }
  if (path == "/api/overview") return cached(path, kJson, [this] { return summary.overview(); });
  if (path == "/api/ranks") return cached(path, kJson, [this] { return summary.ranks(); });
  if (path == "/api/groups") return cached(path, kJson, [this] { return summary.groups(); });
  if (path == "/api/links") return cached(path, kJson, [this] { return summary.links(); });
  if (path == "/metrics") {
    return cached(path, http::kMetricsType, [this] { return summary.metrics(); });
  }
  const auto rank = number_in(query, "rank"), group = number_in(query, "group");
  const auto sequence = number_in(query, "sequence");
  if (path == "/api/rank") {
    if (!rank) return problem(400, "/api/rank?rank=N: N is missing, or no number");
    return looked_up([&] { return summary.rank(*rank); });
  }
  if (path == "/api/group") {
    if (!group) return problem(400, "/api/group?group=N: N is missing, or no number");
    return looked_up([&] { return summary.group(*group); });
  }
  if (path == "/api/instance") {
    if (!group || !sequence) {
      return problem(400, "/api/instance?group=N&sequence=M: N or M is missing, or no number");
    }
    return looked_up([&] { return summary.instance(*group, *sequence); });
  }
  return problem(404, "there is nothing at this address");
}

Page::Page(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Page::~Page() = default;

Result<std::unique_ptr<Page>> Page::start(const Registry& registry, const PageOptions& options,
                                          const SummaryOptions& summary) {
  auto impl = std::make_unique<Impl>(registry, summary);
  impl->options = options;
  const ServerOptions server = {.address = options.address,
                                .port = options.port,
                                .token = options.token,
                                .connections_max = options.connections_max};
  CONVOY_ASSIGN_OR_RETURN(
      impl->server, Server::start(server, [raw = impl.get()](const auto& path, const auto& query) {
        return raw->answer(path, query);
      }));
  return std::unique_ptr<Page>(new Page(std::move(impl)));
}

void Page::job(const JobInfo& job) {
  const std::lock_guard lock(impl_->mutex);
  impl_->summary.job(job);
}

void Page::batch(const Batch& batch) {
  const std::lock_guard lock(impl_->mutex);
  impl_->summary.batch(batch);
}

void Page::clock(const ClockSample& sample) {
  const std::lock_guard lock(impl_->mutex);
  impl_->summary.clock(sample);
}

void Page::set_verdicts(const std::vector<Verdict>& verdicts) {
  const std::lock_guard lock(impl_->mutex);
  impl_->summary.set_verdicts(verdicts);
}

void Page::set_hints(const std::vector<Hint>& hints) {
  const std::lock_guard lock(impl_->mutex);
  impl_->summary.set_hints(hints);
}

uint16_t Page::port() const {
  return impl_->server->port();
}

std::string Page::url() const {
  return "http://" + impl_->options.address + ":" + std::to_string(port()) + "/";
}

}  // namespace convoy::trace
