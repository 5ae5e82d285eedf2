// SPDX-License-Identifier: Apache-2.0
//
// What a kernel's device sends: version:u8 message...
#include <cstdlib>
#include <span>

#include "backends/kernel/iotlb_message.h"

namespace vhost {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void decode(std::span<const uint8_t> input) {
  const auto version =
      input[0] % 2 == 0 ? IotlbVersion::kOne : IotlbVersion::kTwo;
  const auto message = std::as_bytes(input.subspan(1));
  const auto request = decode_iotlb(message, version);
  check(request.ok() || request.status().code() == absl::StatusCode::kDataLoss);
  if (!request.ok()) return;
  check(message.size() == kIotlbMessageSize);
  check(request->access != IotlbAccess::kNone);
  check(static_cast<uint8_t>(request->access) <= 3);
  // The same bytes mean nothing in the other version, and an answer is never
  // taken for a question.
  const auto other =
      version == IotlbVersion::kOne ? IotlbVersion::kTwo : IotlbVersion::kOne;
  check(!decode_iotlb(message, other).ok());
  UpdateIotlb update;
  update.entry = {
      .iova = request->iova, .size = 4096, .gpa = 0, .access = request->access};
  check(!decode_iotlb(encode_iotlb(update, version), version).ok());
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 1) vhost::decode(std::span(data, size));
  return 0;
}
