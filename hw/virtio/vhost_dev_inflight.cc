// SPDX-License-Identifier: Apache-2.0
// The area in which a back-end notes the requests it has, so that a successor
// can finish them.
//
// Never mapped here: a back-end may make the file shorter at any time, and who
// touches a mapping behind its end dies of it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Whether the file holds what is said of it.
absl::Status check_extent(const InflightArea& area) {
  struct stat file = {};
  if (::fstat(area.fd->get(), &file) != 0) {
    return errno_status(errno, "inflight area");
  }
  const auto size = static_cast<uint64_t>(std::max<off_t>(file.st_size, 0));
  if (area.mmap_offset <= size && area.mmap_size <= size - area.mmap_offset) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat("inflight area of ", area.mmap_size,
                                          " bytes at ", area.mmap_offset,
                                          " in a file of ", size));
}

absl::Status fill_with_zeros(const InflightArea& area) {
  const int fd = area.fd->get();
  const auto offset = static_cast<off_t>(area.mmap_offset);
  const auto size = static_cast<off_t>(area.mmap_size);
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                  size) == 0) {
    return absl::OkStatus();
  }
  // Not every file has holes.
  constexpr std::array<std::byte, 4096> kZeros = {};
  for (off_t done = 0; done < size;) {
    const auto rest = static_cast<size_t>(size - done);
    const ssize_t wrote = ::pwrite(
        fd, kZeros.data(), std::min(rest, kZeros.size()), offset + done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return errno_status(errno, "inflight area");
    done += wrote;
  }
  return absl::OkStatus();
}

}  // namespace

// The area is indexed by the back-end's queues.
uint16_t VhostDev::Impl::inflight_queues() const {
  uint32_t count = 0;
  for (const Queue& queue : queues_) {
    count = std::max(count, to_int(queue.backend) + 1);
  }
  return static_cast<uint16_t>(count);
}

// The largest ring of the start under way.
uint16_t VhostDev::Impl::inflight_room() const {
  uint32_t largest = 0;
  for (const Planned& planned : attempt_.queues) {
    largest = std::max<uint32_t>(largest, planned.setup.num);
  }
  return static_cast<uint16_t>(largest);
}

// Whether a start has to ask for an area.
bool VhostDev::Impl::inflight_due() const {
  const uint16_t room = inflight_room();
  if (!options_.track_inflight || !traits().has_inflight || room == 0) {
    return false;
  }
  if (inflight_.fd == nullptr) return !inflight_unwanted_;
  // Of smaller rings than there are now.
  return inflight_.queue_size < room;
}

void VhostDev::Impl::get_inflight(uint16_t queue_size, Completion done) {
  begin({.name = "get inflight",
         .done = std::move(done),
         .states = {DeviceState::kReady},
         .make = [this, queue_size] { return get_inflight_task(queue_size); }});
}

Task VhostDev::Impl::get_inflight_task(uint16_t queue_size) {
  if (!traits().has_inflight) {
    co_return absl::UnimplementedError("back-end keeps no inflight area");
  }
  if (queue_size == 0) {
    co_return absl::InvalidArgumentError("rings of 0 descriptors");
  }
  if (inflight_.fd != nullptr) co_return absl::OkStatus();
  const MonotonicTime deadline = after(options_.start_timeout);
  Verb features = SetFeatures{.features = wire_features(false)};
  BatchResult set = co_await Submit(runner_, std::move(features), deadline);
  absl::Status status = judge(set);
  if (status.ok()) {
    Task area = obtain_inflight(queue_size, deadline);
    status = co_await area;
  }
  if (state() == DeviceState::kBroken) co_return status;
  Task rest = put_to_rest();
  status.Update(co_await rest);
  co_return status;
}

// After the features: the layout depends on them.
Task VhostDev::Impl::obtain_inflight(uint16_t queue_size,
                                     MonotonicTime deadline) {
  Verb verb =
      GetInflight{.num_queues = inflight_queues(), .queue_size = queue_size};
  BatchResult got = co_await Submit(runner_, std::move(verb), deadline);
  absl::Status status = judge(got);
  if (!status.ok()) co_return status;
  forget_inflight();
  if (got.inflight.fd == nullptr || got.inflight.mmap_size == 0) {
    inflight_unwanted_ = true;
    co_return status;
  }
  if (got.inflight.num_queues < inflight_queues() ||
      got.inflight.queue_size < queue_size) {
    co_return absl::DataLossError(
        absl::StrCat("inflight area for ", got.inflight.num_queues,
                     " rings of ", got.inflight.queue_size, "; asked for ",
                     inflight_queues(), " of ", queue_size));
  }
  status = check_extent(got.inflight);
  if (status.ok()) inflight_ = std::move(got.inflight);
  co_return status;
}

absl::Status VhostDev::Impl::inflight_changeable() const {
  using enum DeviceState;
  if (services_.answering()) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.name, ": called while a request of the back-end is answered"));
  }
  if (attempting()) return annotate(broken_error(), options_.name);
  return annotate(
      life_.expect(std::vector<DeviceState>{kCreated, kReady, kBroken}),
      options_.name);
}

absl::Status VhostDev::Impl::check_inflight(const InflightArea& area) const {
  if (area.fd == nullptr || !area.fd->valid() || area.mmap_size == 0) {
    return absl::InvalidArgumentError("inflight area without a descriptor");
  }
  if (area.num_queues != inflight_queues() || area.queue_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "inflight area for ", area.num_queues, " rings of ", area.queue_size,
        "; the back-end has ", inflight_queues()));
  }
  const absl::Status extent = check_extent(area);
  return extent.ok() ? extent : absl::InvalidArgumentError(extent.message());
}

absl::Status VhostDev::Impl::set_inflight(InflightArea area) {
  VHOST_RETURN_IF_ERROR(inflight_changeable());
  VHOST_RETURN_IF_ERROR(annotate(check_inflight(area), options_.name));
  forget_inflight();
  inflight_ = std::move(area);
  return absl::OkStatus();
}

absl::Status VhostDev::Impl::reset_inflight() {
  VHOST_RETURN_IF_ERROR(inflight_changeable());
  for (Queue& queue : queues_) queue.noted = false;
  if (inflight_.fd == nullptr) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(annotate(check_extent(inflight_), options_.name));
  return annotate(fill_with_zeros(inflight_), options_.name);
}

absl::Status VhostDev::Impl::free_inflight() {
  VHOST_RETURN_IF_ERROR(inflight_changeable());
  forget_inflight();
  return absl::OkStatus();
}

// What was noted in an area that is gone is not known to anybody.
void VhostDev::Impl::forget_inflight() {
  inflight_ = InflightArea();
  for (Queue& queue : queues_) queue.noted = false;
}

}  // namespace vhost
