// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/fake_vdpa.h"

#include <fcntl.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kOfferedRingSize = 256;
constexpr uint32_t kMaxRingSize = 512;  // Accepted all the same.

template <typename T>
T read_arg(const void* arg) {
  T out;
  std::memcpy(&out, arg, sizeof(out));
  return out;
}

template <typename T>
int give(void* arg, const T& value) {
  std::memcpy(arg, &value, sizeof(value));
  return 0;
}

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

int set_notifier(UniqueFd& notifier, int fd) {
  if (fd == -1) {
    notifier.reset();
    return 0;
  }
  if (::fcntl(fd, F_GETFD) < 0) return EBADF;
  if (!is_eventfd(fd)) return EINVAL;
  notifier = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return 0;
}

}  // namespace

// Closing resets the device and forgets its owner.
class FakeVdpa::File final : public VdpaFile {
 public:
  explicit File(FakeVdpa& device) : device_(device) { device_.open = true; }
  ~File() override {
    if (device_.held) return;
    device_.set_status(0);
    device_.spaces.clear();
    device_.in_batch.reset();
    device_.accepted_backend = 0;
    device_.owned = false;
    device_.open = false;
  }

  int ioctl(unsigned long request, void* arg) override {
    ++device_.requests;
    const int error = device_.planned.take(request);
    return error != 0 ? error : device_.request(request, arg);
  }
  int write(std::span<const std::byte> message) override {
    ++device_.messages;
    return device_.write(message);
  }
  HostNotifierArea doorbell(uint32_t queue) override {
    constexpr uint64_t kPage = 4096;
    HostNotifierArea area{
        .fd = UniqueFd(), .offset = queue * kPage, .size = kPage};
    if (device_.has_doorbells && queue < device_.rings.size()) {
      area.fd = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    }
    return area;
  }
  uint64_t memory_lock_limit() override { return device_.memory_lock_limit; }

 private:
  FakeVdpa& device_;
};

VdpaFileOpener FakeVdpa::opener() {
  return
      [this](
          const VhostVdpaDevice&) -> absl::StatusOr<std::unique_ptr<VdpaFile>> {
        if (open) return absl::UnavailableError("somebody has the device open");
        return std::make_unique<File>(*this);
      };
}

bool FakeVdpa::running(uint32_t queue) const {
  if (queue >= rings.size()) return false;
  const Ring& ring = rings[queue];
  const uint64_t num = ring.num;
  const auto moved = group_space.find(group_of(queue));
  const uint32_t asid = moved == group_space.end() ? 0 : moved->second;
  return (status & kStatusDriverOk) != 0 && !suspended && ring.ready &&
         ring.kick.valid() && num != 0 && mapped(asid, ring.desc, 16 * num) &&
         mapped(asid, ring.avail, 4 + 2 * num) &&
         mapped(asid, ring.used, 4 + 8 * num);
}

int FakeVdpa::request(unsigned long request, void* arg) {
  bool known = false;
  const int fact = fact_request(request, arg, known);
  if (known) return fact;
  switch (request) {
    case VHOST_SET_OWNER:
      return std::exchange(owned, true) ? EBUSY : 0;
    case VHOST_VDPA_SET_STATUS:
      return set_status(read_arg<uint8_t>(arg));
    case VHOST_SET_FEATURES:
      return set_features(read_arg<uint64_t>(arg));
    case VHOST_SET_BACKEND_FEATURES: {
      const auto wanted = read_arg<uint64_t>(arg);
      if ((wanted & ~backend_features) != 0) return EOPNOTSUPP;
      accepted_backend = wanted;
      return 0;
    }
    case VHOST_VDPA_GET_CONFIG:
    case VHOST_VDPA_SET_CONFIG:
      return config_request(request, arg);
    case VHOST_VDPA_SET_CONFIG_CALL:
      return set_notifier(config_call, read_arg<int>(arg));
    case VHOST_VDPA_SUSPEND:
      return suspend(true);
    case VHOST_VDPA_RESUME:
      return suspend(false);
    case VHOST_VDPA_GET_VRING_GROUP:
    case VHOST_VDPA_SET_GROUP_ASID:
      return group_request(request, arg);
    default:
      return vring_request(request, arg);
  }
}

int FakeVdpa::fact_request(unsigned long request, void* arg, bool& known) {
  known = true;
  switch (request) {
    case VHOST_VDPA_GET_DEVICE_ID:
      return give(arg, kDeviceIdBlock);
    case VHOST_VDPA_GET_GROUP_NUM:
      return give(arg, groups);
    case VHOST_VDPA_GET_AS_NUM:
      return give(arg, address_spaces);
    case VHOST_GET_FEATURES:
      return give(arg, features);
    case VHOST_GET_BACKEND_FEATURES:
      return give(arg, backend_features);
    case VHOST_VDPA_GET_STATUS:
      return give(arg, status);
    case VHOST_VDPA_GET_VQS_COUNT:
      return give(arg, static_cast<uint32_t>(rings.size()));
    case VHOST_VDPA_GET_VRING_NUM:
      return give(arg, static_cast<uint16_t>(kOfferedRingSize));
    case VHOST_VDPA_GET_CONFIG_SIZE:
      return give(arg, static_cast<uint32_t>(config.size()));
    case VHOST_VDPA_GET_IOVA_RANGE:
      return give(arg, vhost_vdpa_iova_range{iova_first, iova_last});
    default:
      known = false;
      return 0;
  }
}

int FakeVdpa::suspend(bool on) {
  const unsigned needed = on ? kVdpaSuspend : kVdpaResume;
  if ((backend_features & bit(needed)) == 0) return EOPNOTSUPP;
  suspended = on;
  return 0;
}

// The group is looked at as if it were a queue first.
int FakeVdpa::group_request(unsigned long request, void* arg) {
  if (!owned) return EPERM;
  const auto state = read_arg<vhost_vring_state>(arg);
  if (state.index >= rings.size()) return ENOBUFS;
  if (request == VHOST_VDPA_GET_VRING_GROUP) {
    return give(arg, vhost_vring_state{state.index, group_of(state.index)});
  }
  if (state.num >= address_spaces || state.index >= groups) return EINVAL;
  group_space[state.index] = state.num;
  return 0;
}

int FakeVdpa::set_status(uint8_t wanted) {
  if (wanted == 0) {
    ++resets;
    status = 0;
    accepted = 0;
    suspended = false;
    const size_t count = rings.size();
    rings.clear();
    rings.resize(count);
    group_space.clear();
    if ((accepted_backend & bit(kVdpaIotlbPersist)) == 0) {
      for (auto& [asid, space] : spaces) space.device.clear();
    }
    return 0;
  }
  if ((status & ~wanted) != 0) return EINVAL;
  status = wanted;
  if (!features_ok_sticks) {
    status = static_cast<uint8_t>(status & ~kStatusFeaturesOk);
  }
  return 0;
}

int FakeVdpa::set_features(uint64_t wanted) {
  if ((status & kStatusFeaturesOk) != 0) return EBUSY;
  if ((wanted & bit(kFeatureAccessPlatform)) == 0) return EINVAL;
  accepted = wanted;
  return 0;
}

int FakeVdpa::config_request(unsigned long request, void* arg) {
  auto* bytes = static_cast<std::byte*>(arg);
  const auto offset = read_arg<uint32_t>(bytes);
  const auto size = read_arg<uint32_t>(bytes + 4);
  if (uint64_t{offset} + size > config.size()) return EINVAL;
  std::byte* const data = bytes + sizeof(vhost_vdpa_config);
  if (request == VHOST_VDPA_GET_CONFIG) {
    std::memcpy(data, config.data() + offset, size);
  } else {
    std::memcpy(config.data() + offset, data, size);
  }
  return 0;
}

int FakeVdpa::vring_request(unsigned long request, void* arg) {
  if (!owned) return EPERM;
  const auto index = read_arg<uint32_t>(arg);
  if (index >= rings.size()) return ENOBUFS;
  Ring& ring = rings[index];
  const auto state = read_arg<vhost_vring_state>(arg);
  const auto file = read_arg<vhost_vring_file>(arg);
  switch (request) {
    case VHOST_SET_VRING_NUM:
      if (state.num > kMaxRingSize || !std::has_single_bit(state.num)) {
        return EINVAL;
      }
      ring.num = state.num;
      return 0;
    case VHOST_SET_VRING_BASE:
      ring.base = state.num;
      return 0;
    case VHOST_GET_VRING_BASE:
      std::memcpy(static_cast<std::byte*>(arg) + 4, &ring.base, 4);
      return 0;
    case VHOST_SET_VRING_ADDR: {
      const auto addr = read_arg<vhost_vring_addr>(arg);
      ring.desc = addr.desc_user_addr;
      ring.used = addr.used_user_addr;
      ring.avail = addr.avail_user_addr;
      return 0;
    }
    case VHOST_SET_VRING_KICK:
      return set_notifier(ring.kick, file.fd);
    case VHOST_SET_VRING_CALL:
      return set_notifier(ring.call, file.fd);
    case VHOST_VDPA_SET_VRING_ENABLE:
      ring.ready = state.num != 0;
      return 0;
    default:
      return ENOTTY;
  }
}

}  // namespace vhost::testing
