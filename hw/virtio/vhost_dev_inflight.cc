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
#include "hw/virtio/ring_layout.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/inflight.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr absl::string_view kGetInflight = "get inflight";

// Whether the file holds what is said of it.
absl::Status check_extent(const InflightArea& area) {
  struct stat file = {};
  // A pipe, or a file that some process or host serves, could keep whoever asks
  // for its size or reads it.  Only files in memory know seals, and no file
  // system is asked for them.
  if (::fcntl(area.fd->get(), F_GET_SEALS) < 0) {
    return absl::DataLossError("inflight area is not a file in memory");
  }
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

// A copy of the region of one queue.
absl::StatusOr<std::vector<std::byte>> region_of(const InflightArea& area,
                                                 BackendQueue queue,
                                                 RingFormat format) {
  VHOST_RETURN_IF_ERROR(check_extent(area));
  const uint64_t size = inflight_region_size(format, area.queue_size);
  const uint64_t begin = size * to_int(queue);
  if (begin + size > area.mmap_size) {
    return absl::DataLossError(absl::StrCat("inflight area of ", area.mmap_size,
                                            " bytes for ", area.num_queues,
                                            " rings of ", area.queue_size));
  }
  std::vector<std::byte> out(size);
  for (size_t done = 0; done < size;) {
    const ssize_t got =
        ::pread(area.fd->get(), out.data() + done, size - done,
                static_cast<off_t>(area.mmap_offset + begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, "inflight area");
    if (got == 0) return absl::DataLossError("inflight area was cut short");
    done += static_cast<size_t>(got);
  }
  return out;
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
  begin({.name = kGetInflight,
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
  // Queues that the back-end lacks are not started (fewer_queues_ok).
  const auto queues = static_cast<uint16_t>(
      std::min<uint32_t>(inflight_queues(), traits().max_queues));
  Verb verb = GetInflight{.num_queues = queues, .queue_size = queue_size};
  BatchResult got = co_await Submit(runner_, std::move(verb), deadline);
  absl::Status status = judge(got);
  if (!status.ok()) co_return status;
  forget_inflight();
  if (got.inflight.fd == nullptr || got.inflight.mmap_size == 0) {
    inflight_unwanted_ = true;
    co_return status;
  }
  if (got.inflight.num_queues < queues ||
      got.inflight.queue_size < queue_size) {
    co_return absl::DataLossError(absl::StrCat(
        "inflight area for ", got.inflight.num_queues, " rings of ",
        got.inflight.queue_size, "; asked for ", queues, " of ", queue_size));
  }
  status = check_extent(got.inflight);
  if (status.ok()) inflight_ = std::move(got.inflight);
  co_return status;
}

// Whether the area in which the back-end of `queue` noted its requests is
// there, and is told to the next one.
bool VhostDev::Impl::has_area_of(const Queue& queue) const {
  return queue.noted && traits().has_inflight && inflight_.fd != nullptr;
}

// A start whose rings do not fit asks for another area: there must be nothing
// in this one.
absl::Status VhostDev::Impl::check_inflight_room() const {
  const uint16_t room = inflight_room();
  if (inflight_.fd == nullptr || inflight_.queue_size >= room) {
    return absl::OkStatus();
  }
  for (const Planned& planned : attempt_.queues) {
    const Queue& queue = *find(planned.vq);
    const bool lost = queue.noted && queue.position == Position::kLost;
    if (!lost && !queue.suspended) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "vq ", to_int(planned.vq),
        ": its requests are in an inflight area for "
        "rings of ",
        inflight_.queue_size, ", not ", room, ": the guest must reset"));
  }
  return absl::OkStatus();
}

absl::Status VhostDev::Impl::inflight_changeable() const {
  using enum DeviceState;
  if (current_.has_value() && current_->name == kGetInflight) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.name, ": ", kGetInflight, " in progress"));
  }
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
  const uint16_t least = options_.fewer_queues_ok ? 1 : inflight_queues();
  if (area.num_queues < least || area.queue_size == 0 ||
      inflight_area_size(ring_format(), area.num_queues, area.queue_size) >
          area.mmap_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("inflight area for ", area.num_queues, " rings of ",
                     area.queue_size, "; the device has ", inflight_queues()));
  }
  const absl::Status extent = check_extent(area);
  if (!extent.ok()) return absl::InvalidArgumentError(extent.message());
  for (const Queue& queue : queues_) {
    if (to_int(queue.backend) >= area.num_queues) continue;
    const absl::StatusOr<std::vector<std::byte>> region =
        region_of(area, queue.backend, ring_format());
    if (!region.ok()) {
      return absl::InvalidArgumentError(region.status().message());
    }
    const absl::StatusOr<bool> used =
        check_inflight_region(*region, ring_format(), area.queue_size);
    if (used.ok()) continue;
    return annotate(absl::InvalidArgumentError(used.status().message()),
                    absl::StrCat("vq ", to_int(queue.index)));
  }
  return absl::OkStatus();
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

// Of the packed ring of `planned`, as the driver or a back-end left them.
absl::StatusOr<uint16_t> VhostDev::Impl::descriptor_flags(
    const Planned& planned, uint16_t index) {
  // Source: VIRTIO 1.3, struct pvirtq_desc.
  constexpr uint64_t kDescriptor = 16;
  constexpr uint64_t kFlags = 14;
  if (index >= planned.setup.num) {
    return absl::DataLossError(
        absl::StrCat("descriptor ", index, " of ", planned.setup.num));
  }
  const RingPart& ring = planned.setup.addr.desc;
  const uint64_t at = kDescriptor * index + kFlags;
  uint64_t user = ring.user + at;
  if (ring.user == 0) {
    const RingPart word = {.gpa = ring.gpa + at, .size = sizeof(uint16_t)};
    const absl::StatusOr<uint64_t> found = find_ring_word(word, planned.iotlb);
    if (!found.ok()) return found.status();
    user = *found;
  }
  // It lies where an index does: two bytes into something.
  return read_ring_index(user - 2, /*big_endian=*/false);
}

absl::StatusOr<std::optional<VringBase>> VhostDev::Impl::look_at_area(
    const Queue& queue, const Planned& planned) {
  const VringSetup& ring = planned.setup;
  const absl::StatusOr<std::vector<std::byte>> region =
      region_of(inflight_, queue.backend, planned.format);
  if (!region.ok()) return region.status();
  absl::StatusOr<LostRing> lost;
  if (planned.format == RingFormat::kPacked) {
    absl::Status readable;
    lost = look_at_packed(*region, inflight_.queue_size, [&](uint16_t index) {
      const absl::StatusOr<uint16_t> flags = descriptor_flags(planned, index);
      readable.Update(flags.status());
      return flags.value_or(uint16_t{0});
    });
    if (!readable.ok()) return readable;
  } else {
    const absl::StatusOr<uint16_t> used =
        ring_index(ring.addr.used, ring.big_endian, planned.iotlb);
    const absl::StatusOr<uint16_t> avail =
        ring_index(ring.addr.avail, ring.big_endian, planned.iotlb);
    if (!used.ok()) return used.status();
    if (!avail.ok()) return avail.status();
    lost = look_at_split(*region, inflight_.queue_size, *used, *avail);
  }
  if (!lost.ok()) return lost.status();
  if (!lost->tracked) return std::optional<VringBase>();
  return std::optional<VringBase>(lost->base);
}

// What was noted in an area that is gone is not known to anybody.
void VhostDev::Impl::forget_inflight() {
  inflight_ = InflightArea();
  for (Queue& queue : queues_) queue.noted = false;
}

}  // namespace vhost
