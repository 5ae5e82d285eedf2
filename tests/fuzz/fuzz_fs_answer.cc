// SPDX-License-Identifier: Apache-2.0
//
// Answers of a file system device, of any bytes:
// operation:u8 data_size:u16 written:u16 answer...
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "hw/driver/fs_message.h"

namespace vhost {
namespace {

constexpr uint64_t kUnique = 2;

void check(bool condition) {
  if (!condition) std::abort();
}

void check_sound(const FsPending& pending, const FsCompletion& out,
                 const FsSession& session) {
  if (pending.op == FsOp::kInit) {
    check(session.major == kFuseMajor && session.minor <= kFuseMinor);
    check(session.max_read >= kFusePage && session.max_read <= 1 << 20);
  }
  if (pending.op == FsOp::kLookup) check(out.node.id > kFsRootNode);
  if (pending.op == FsOp::kLookup || pending.op == FsOp::kGetAttributes) {
    check((out.node.attributes.mode & S_IFMT) != 0);
    check(out.node.attributes.size <= INT64_MAX);
  }
  check(out.bytes <= pending.data_size);
}

void decode(std::span<const uint8_t> input) {
  FsPending pending;
  pending.op = FsOp{static_cast<uint8_t>(input[0] % 7)};
  pending.unique = kUnique;
  pending.data_size = input[1] | uint32_t{input[2]} << 8;
  const uint32_t written = input[3] | uint32_t{input[4]} << 8;
  std::vector<std::byte> answer(fs_answer_size(pending.op));
  const auto bytes = std::as_bytes(input.subspan(5));
  std::copy_n(bytes.begin(), std::min(bytes.size(), answer.size()),
              answer.begin());
  FsCompletion out;
  FsSession session;
  decode_fs_answer(pending, answer, written, out, session);
  if (out.status.ok()) check_sound(pending, out, session);
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 5) vhost::decode(std::span(data, size));
  return 0;
}
