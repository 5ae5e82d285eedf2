// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/fake_vdpa.h"

#include <fcntl.h>

#include <algorithm>
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
    device_.set_status(0);
    device_.kernel_maps.clear();
    device_.device_maps.clear();
    device_.accepted_backend = 0;
    device_.owned = false;
    device_.open = false;
  }

  int ioctl(unsigned long request, void* arg) override {
    const int error = device_.planned.take(request);
    return error != 0 ? error : device_.request(request, arg);
  }
  int write(std::span<const std::byte> message) override {
    return device_.write(message);
  }

 private:
  FakeVdpa& device_;
};

VdpaFileOpener FakeVdpa::opener() {
  return [this](const std::string& path)
             -> absl::StatusOr<std::unique_ptr<VdpaFile>> {
    if (open) return absl::UnavailableError(path);
    return std::make_unique<File>(*this);
  };
}

bool FakeVdpa::mapped(uint64_t iova, uint64_t size) const {
  return std::any_of(device_maps.begin(), device_maps.end(),
                     [&](const auto& entry) {
                       const auto& [start, mapping] = entry;
                       return iova >= start && iova - start <= mapping.size &&
                              size <= mapping.size - (iova - start);
                     });
}

bool FakeVdpa::running(uint32_t queue) const {
  if (queue >= rings.size()) return false;
  const Ring& ring = rings[queue];
  const uint64_t num = ring.num;
  return (status & kStatusDriverOk) != 0 && !suspended && ring.ready &&
         ring.kick.valid() && num != 0 && mapped(ring.desc, 16 * num) &&
         mapped(ring.avail, 4 + 2 * num) && mapped(ring.used, 4 + 8 * num);
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
      if ((backend_features & bit(VHOST_BACKEND_F_SUSPEND)) == 0) {
        return EOPNOTSUPP;
      }
      suspended = true;
      return 0;
    default:
      return vring_request(request, arg);
  }
}

int FakeVdpa::fact_request(unsigned long request, void* arg, bool& known) {
  known = true;
  switch (request) {
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

int FakeVdpa::set_status(uint8_t wanted) {
  if (wanted == 0) {
    ++resets;
    status = 0;
    accepted = 0;
    suspended = false;
    const size_t count = rings.size();
    rings.clear();
    rings.resize(count);
    if ((accepted_backend & bit(kVdpaBackendIotlbPersist)) == 0) {
      device_maps.clear();
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

// Nearly every failure here is EFAULT.
int FakeVdpa::write(std::span<const std::byte> bytes) {
  if (bytes.size() != sizeof(vhost_msg_v2)) return EINVAL;
  if (!owned) return EFAULT;
  const auto message = read_arg<vhost_msg_v2>(bytes.data());
  if (message.type != VHOST_IOTLB_MSG_V2 ||
      (accepted_backend & bit(VHOST_BACKEND_F_IOTLB_MSG_V2)) == 0) {
    return EINVAL;
  }
  const vhost_iotlb_msg& iotlb = message.iotlb;
  switch (iotlb.type) {
    case VHOST_IOTLB_BATCH_BEGIN:
      ++open_batches;
      return 0;
    case VHOST_IOTLB_BATCH_END:
      if (open_batches == 0) return EINVAL;
      --open_batches;
      return 0;
    case VHOST_IOTLB_UPDATE:
      return update(iotlb.iova, {iotlb.size, iotlb.uaddr, iotlb.perm});
    case VHOST_IOTLB_INVALIDATE:
      if (iotlb.size == 0) return EINVAL;
      invalidate(iotlb.iova, iotlb.size);
      return 0;
    default:
      return EINVAL;
  }
}

int FakeVdpa::update(uint64_t iova, const Mapping& mapping) {
  if (mapping.size == 0) return EINVAL;
  uint64_t pinned = mapping.size;
  for (const auto& [start, known] : kernel_maps) {
    if (start < iova + mapping.size && iova < start + known.size) {
      return EFAULT;
    }
    pinned += known.size;
  }
  if (pinned > memory_lock_limit) return EFAULT;
  kernel_maps[iova] = mapping;
  device_maps[iova] = mapping;
  return 0;
}

void FakeVdpa::invalidate(uint64_t iova, uint64_t size) {
  const auto inside = [&](const auto& entry) {
    return entry.first < iova + size && iova < entry.first + entry.second.size;
  };
  std::erase_if(kernel_maps, inside);
  std::erase_if(device_maps, inside);
}

}  // namespace vhost::testing
