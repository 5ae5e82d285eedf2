// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/pattern.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// What a file holds, block by block.
class FileCheck {
 public:
  explicit FileCheck(std::optional<uint64_t> seed) : seed_(seed) {}

  void add(std::span<const std::byte> block) {
    const std::optional<PatternTag> tag = read_pattern(block);
    // Without a seed all blocks must have that of the first one.
    if (!seed_.has_value() && tag.has_value()) seed_ = tag->seed;
    const PatternTag expected = {
        .seed = seed_.value_or(0),
        .sequence = tag.has_value() ? tag->sequence : 0,
        .address = bytes_};
    if (tag == expected) {
      first_pass_ = std::min(first_pass_, expected.sequence);
      last_pass_ = std::max(last_pass_, expected.sequence);
    } else if (errors_.mismatches++ == 0) {
      errors_.first = describe_mismatch(block, expected);
    }
    bytes_ += kPatternBlock;
  }

  absl::Status print(bool json) const {
    if (!json) {
      return print_text(absl::StrCat("checked:    ", human_bytes(bytes_),
                                     "\nmismatches: ", errors_.mismatches,
                                     "\n"));
    }
    Json document = Json::object();
    document["bytes"] = bytes_;
    document["mismatches"] = errors_.mismatches;
    if (errors_.mismatches > 0) document["first_mismatch"] = errors_.first;
    if (seed_.has_value()) document["seed"] = *seed_;
    if (last_pass_ > 0) document["passes"] = {first_pass_, last_pass_};
    return print_json(document);
  }

  absl::Status result() const {
    if (bytes_ == 0) return absl::DataLossError("the file is empty");
    if (errors_.mismatches == 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(errors_.mismatches, " of ",
                                            bytes_ / kPatternBlock,
                                            " blocks differ: ", errors_.first));
  }

 private:
  std::optional<uint64_t> seed_;
  uint64_t bytes_ = 0;
  PatternErrors errors_;
  uint64_t first_pass_ = UINT64_MAX;
  uint64_t last_pass_ = 0;
};

}  // namespace

absl::Status run_blk_check_file(const Options& options) {
  const absl::StatusOr<UniqueFd> input = open_input(options.input);
  if (!input.ok()) return input.status();
  FileCheck check(options.seed);
  std::vector<std::byte> piece(size_t{1} << 20);
  while (true) {
    const absl::StatusOr<size_t> got = read_full(*input, piece);
    if (!got.ok()) return got.status();
    if (*got % kPatternBlock != 0) {
      return absl::DataLossError("the file ends in the middle of a block");
    }
    for (size_t at = 0; at < *got; at += kPatternBlock) {
      check.add(std::span(piece).subspan(at, kPatternBlock));
    }
    if (*got < piece.size()) break;
  }
  VHOST_RETURN_IF_ERROR(check.print(options.json));
  return check.result();
}

}  // namespace vhost::ctl
