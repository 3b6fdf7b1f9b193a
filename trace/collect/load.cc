// What talks gRPC lies in libconvoy_cluster.
#include <convoy/base/library.h>
#include <convoy/trace/aggregator.h>
#include <convoy/trace/collector.h>

namespace convoy::trace {
namespace {

template <class T, class Options>
Result<std::unique_ptr<T>> start_there(const char* function, const Options& options) {
  using Start = Status(const Options&, std::unique_ptr<T>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found,
                          find_in_cluster_library(function, "traces of whole jobs"));
  std::unique_ptr<T> started;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Start*>(found)(options, started));
  return started;
}

}  // namespace

Result<std::unique_ptr<Collector>> Collector::start(const CollectorOptions& options) {
  return start_there<Collector>("convoy_trace_start_collector", options);
}

Result<std::unique_ptr<Aggregator>> Aggregator::start(const AggregatorOptions& options) {
  return start_there<Aggregator>("convoy_trace_start_aggregator", options);
}

}  // namespace convoy::trace
