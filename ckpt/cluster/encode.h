#pragma once

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/replica/piece_store.h"
#include "ckpt/service/cluster.h"

// Between plain values and the messages of cluster.proto.
namespace convoy::ckpt {

inline constexpr uint32_t kClusterVersion = 2;

void set_failure(proto::ClusterFailure& to, const Status& status);
Status get_failure(const proto::ClusterFailure& from);

void set_part(proto::PartSummary& to, const PartSummary& part);
// kInvalidArgument for what no node would write.
Result<PartSummary> get_part(const proto::PartSummary& from);

void set_event(proto::Event& to, const StepEvent& event);
StepEvent get_event(const proto::Event& from);

void set_piece(proto::PieceInfo& to, const PieceInfo& piece);
PieceInfo get_piece(const proto::PieceInfo& from);

}  // namespace convoy::ckpt
