// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MODEL_BLK_OPTIONS_H_
#define TOOLS_MODEL_BLK_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_fault.h"

namespace vhost::model_blk {

// What the command line asks for.
struct Options {
  bool help = false;
  bool print_capabilities = false;

  std::string socket_path;
  std::optional<int> fd;
  std::string blk_file;
  std::optional<uint64_t> size;  // Bytes of a disk in memory.
  bool read_only = false;
  uint32_t queues = 4;
  FeatureSet without_features;
  uint64_t without_protocol_features = 0;
  std::chrono::nanoseconds latency{0};
  bool newest_first = false;
  testing::ModelFault fault = testing::ModelFault::kNone;
  uint64_t fault_after = 0;
  // Of a connection, from 0: stops itself (SIGSTOP) before it is looked at.
  std::optional<uint64_t> stop_before_message;
  // Of its life, counted from 1; 0: never.
  uint64_t die_after_store = 0;
  uint64_t die_before_message = 0;
  uint64_t die_after_message = 0;
};

// Errors: kInvalidArgument  an option that does not exist, its value is wrong,
//                           or it does not go with another.
absl::StatusOr<Options> parse_options(int argc, char** argv);

// What --help prints.
extern const char kHelp[];

}  // namespace vhost::model_blk

#endif  // TOOLS_MODEL_BLK_OPTIONS_H_
