// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/qemu_inflight.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "migration/bytes.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint8_t kSubsectionMark = 5;

struct Section {
  absl::string_view name;
  uint32_t version;
};
constexpr Section kOuter = {"vhost-user-blk/inflight", 1};
constexpr Section kBuffer = {"vhost-inflight-region/buffer", 0};

void put_section(std::vector<std::byte>& out, const Section& section) {
  put(out, kSubsectionMark);
  put(out, static_cast<uint8_t>(section.name.size()));
  put(out, bytes_of(section.name));
  put(out, section.version);
}

// What is there must fit; what is missing may still come.
absl::Status take_section(Taker& taker, const Section& section) {
  const auto wrong = [&section] {
    return absl::DataLossError(
        absl::StrCat("inflight: not a section ", section.name));
  };
  const auto mark = taker.take<uint8_t>();
  if (taker.complete() && mark != kSubsectionMark) return wrong();
  const auto length = taker.take<uint8_t>();
  if (taker.complete() && length != section.name.size()) return wrong();
  const auto name = taker.take(section.name.size());
  if (taker.complete() && text_of(name) != section.name) return wrong();
  const auto version = taker.take<uint32_t>();
  if (taker.complete() && version != section.version) {
    return absl::UnimplementedError(absl::StrCat(
        "inflight: section ", section.name, " of version ", version));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::byte> encode_qemu_inflight(const QemuInflight& inflight,
                                            QemuInflightForm form) {
  std::vector<std::byte> out;
  const bool plain = form == QemuInflightForm::kPlain;
  if (inflight.area.empty() && !plain) return out;
  if (!plain) put_section(out, kOuter);
  put(out, uint64_t{inflight.area.size()});
  if (inflight.area.empty()) return out;
  put(out, inflight.queue_size);
  if (!plain) put_section(out, kBuffer);
  put(out, inflight.area);
  return out;
}

absl::StatusOr<std::optional<DecodedQemuInflight>> decode_qemu_inflight(
    std::span<const std::byte> in, QemuInflightForm form) {
  const bool plain = form == QemuInflightForm::kPlain;
  DecodedQemuInflight out;
  Taker taker(in);
  if (!plain) VHOST_RETURN_IF_ERROR(take_section(taker, kOuter));
  const auto size = taker.take<uint64_t>();
  if (size > kMaxInflightArea) {
    return absl::ResourceExhaustedError(
        absl::StrCat("inflight: an area of ", size, " bytes"));
  }
  if (taker.complete() && size == 0 && !plain) {
    return absl::DataLossError("inflight: a section without an area");
  }
  if (size != 0 || !plain) {
    out.inflight.queue_size = taker.take<uint16_t>();
    if (taker.complete() && out.inflight.queue_size == 0) {
      return absl::DataLossError("inflight: an area of queues without entries");
    }
    if (!plain) VHOST_RETURN_IF_ERROR(take_section(taker, kBuffer));
    const auto area = taker.take(static_cast<size_t>(size));
    out.inflight.area.assign(area.begin(), area.end());
  }
  if (!taker.complete()) return std::nullopt;
  out.bytes = in.size() - taker.left();
  return std::optional(std::move(out));
}

}  // namespace vhost
