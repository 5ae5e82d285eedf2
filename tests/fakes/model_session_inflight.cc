// SPDX-License-Identifier: Apache-2.0
//
// Messages about the inflight area.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/inflight.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

constexpr uint16_t kMaxNum = 32768;
constexpr uint64_t kAlignment = 64;

// Of 20 bytes as well as of 24.
wire::Inflight inflight_of(const ModelFrame& message) {
  std::array<std::byte, sizeof(wire::Inflight)> bytes = {};
  std::copy(message.payload.begin(), message.payload.end(), bytes.begin());
  return wire::read_prefix<wire::Inflight>(bytes).value_or(wire::Inflight{});
}

// The size of the area that `about` describes, for a device of `queues`.
absl::StatusOr<uint64_t> size_of(const wire::Inflight& about, size_t queues) {
  if (about.num_queues == 0 || about.num_queues > queues ||
      about.queue_size == 0 || about.queue_size > kMaxNum) {
    return absl::InvalidArgumentError(
        absl::StrCat(about.num_queues, " queues of ", about.queue_size,
                     " descriptors, of ", queues));
  }
  return inflight_area_size(RingFormat::kSplit, about.num_queues,
                            about.queue_size);
}

// Neither side can pull it from under the other.
absl::StatusOr<UniqueFd> make_area(uint64_t size) {
  UniqueFd fd(::memfd_create("inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return errno_status(errno, "memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS,
              F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return errno_status(errno, "inflight area");
  }
  return fd;
}

}  // namespace

bool ModelSession::leaves_inflight(uint64_t index) const {
  return has_protocol(kProtocolGetVringBaseInflight) &&
         vrings_[index]->notes_inflight();
}

// The specification's 20 bytes, or the 24 that a C compiler makes of them:
// answered as asked.
ModelSession::Answer ModelSession::get_inflight_fd(ModelFrame& message) {
  wire::Inflight about = inflight_of(message);
  const absl::StatusOr<uint64_t> size = size_of(about, vrings_.size());
  if (!size.ok()) return size.status();
  absl::StatusOr<UniqueFd> area = make_area(*size);
  if (!area.ok()) return area.status();
  answer_fd_ = *std::move(area);
  about.mmap_size = *size;
  about.mmap_offset = 0;
  const auto bytes = wire::bytes_of(about).first(message.payload.size());
  return Body(bytes.begin(), bytes.end());
}

ModelSession::Answer ModelSession::set_inflight_fd(ModelFrame& message) {
  if (!suspended()) {
    return absl::FailedPreconditionError("a ring is started");
  }
  const wire::Inflight about = inflight_of(message);
  const absl::StatusOr<uint64_t> size = size_of(about, vrings_.size());
  if (!size.ok()) return size.status();
  if (about.mmap_size < *size || about.mmap_offset % kAlignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(about.mmap_size, " bytes at ", about.mmap_offset,
                     " for an area of ", *size));
  }
  absl::StatusOr<std::shared_ptr<ModelMapping>> mapping =
      ModelMapping::map(message.fds[0], about.mmap_offset, *size);
  if (!mapping.ok()) return mapping.status();
  const size_t region_size =
      inflight_region_size(RingFormat::kSplit, about.queue_size);
  const auto region = [&](size_t i) {
    return std::span((*mapping)->data() + i * region_size, region_size);
  };
  for (size_t i = 0; i < about.num_queues; ++i) {
    const absl::Status status =
        check_inflight_region(region(i), RingFormat::kSplit, about.queue_size)
            .status();
    VHOST_RETURN_IF_ERROR(annotate(status, absl::StrCat("vq ", i)));
  }
  for (size_t i = 0; i < vrings_.size(); ++i) {
    const bool has_one = i < about.num_queues;
    vrings_[i]->set_inflight(has_one ? region(i) : std::span<std::byte>(),
                             about.queue_size);
  }
  inflight_ = *std::move(mapping);
  return Body();
}

}  // namespace vhost::testing
