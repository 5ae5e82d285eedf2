// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/fake_kernel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kRings = 2;
constexpr uint32_t kMaxRingSize = 32768;
constexpr uint32_t kMaxBase = 0xffff;

bool holds(const std::vector<FakeVhostNet::Region>& table, uint64_t user,
           uint64_t size) {
  return std::any_of(
      table.begin(), table.end(), [&](const FakeVhostNet::Region& region) {
        return user >= region.user && user - region.user <= region.size &&
               size <= region.size - (user - region.user);
      });
}

bool reachable(const FakeVhostNet::Device& device,
               const FakeVhostNet::Ring& ring) {
  const uint64_t num = ring.num;
  return num != 0 && holds(device.table, ring.desc, 16 * num) &&
         holds(device.table, ring.avail, 4 + 2 * num) &&
         holds(device.table, ring.used, 4 + 8 * num);
}

void signal_fd(const UniqueFd& fd) {
  const uint64_t one = 1;
  if (fd.valid()) static_cast<void>(!::write(fd.get(), &one, sizeof(one)));
}

template <typename T>
T read_arg(const void* arg) {
  T out;
  std::memcpy(&out, arg, sizeof(out));
  return out;
}

}  // namespace

int PlannedErrno::take(unsigned long request) {
  const auto found = plans_.find(request);
  if (found == plans_.end()) return 0;
  Plan& plan = found->second;
  if (plan.before > 0) {
    --plan.before;
    return 0;
  }
  const int error = plan.error;
  if (--plan.times == 0) plans_.erase(found);
  return error;
}

bool is_eventfd(int fd) {
  std::array<char, 64> target = {};
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  const ssize_t size =
      ::readlink(link.c_str(), target.data(), target.size() - 1);
  return size > 0 && std::string(target.data()) == "anon_inode:[eventfd]";
}

// A device is closed with its file.
class FakeVhostNet::File final : public VhostFile {
 public:
  explicit File(FakeVhostNet& kernel) : kernel_(kernel) {
    kernel_.devices_.push_back(&device_);
  }
  ~File() override { std::erase(kernel_.devices_, &device_); }

  int ioctl(unsigned long request, void* arg) override {
    const int error = kernel_.planned.take(request);
    return error != 0 ? error : kernel_.request(device_, request, arg);
  }

 private:
  FakeVhostNet& kernel_;
  Device device_;
};

VhostFileOpener FakeVhostNet::opener() {
  return [this](const std::string&) {
    return absl::StatusOr<std::unique_ptr<VhostFile>>(
        std::make_unique<File>(*this));
  };
}

UniqueFd FakeVhostNet::make_tap() {
  UniqueFd tap(::memfd_create("tap", MFD_CLOEXEC));
  taps_.insert(tap.get());
  return tap;
}

FakeVhostNet::Ring* FakeVhostNet::ring(uint32_t queue) {
  const size_t device = queue / kRings;
  return device < devices_.size() ? &devices_[device]->rings[queue % kRings]
                                  : nullptr;
}

int FakeVhostNet::request(Device& device, unsigned long request, void* arg) {
  switch (request) {
    case VHOST_GET_FEATURES:
      std::memcpy(arg, &features, sizeof(features));
      return 0;
    case VHOST_SET_FEATURES: {
      const auto wanted = read_arg<uint64_t>(arg);
      if ((wanted & ~features) != 0) return EOPNOTSUPP;
      device.features = wanted;
      return 0;
    }
    case VHOST_SET_OWNER:
      if (device.owned) return EBUSY;
      device.owned = true;
      return 0;
    default:
      break;
  }
  if (!device.owned) return EPERM;
  if (request == VHOST_SET_MEM_TABLE) return set_table(device, arg);
  if (request == VHOST_SET_LOG_BASE) {
    device.log_base = read_arg<uint64_t>(arg);
    return 0;
  }
  return vring_request(device, request, arg);
}

int FakeVhostNet::set_table(Device& device, const void* arg) {
  const auto* bytes = static_cast<const std::byte*>(arg);
  const auto count = read_arg<uint32_t>(bytes);
  if (read_arg<uint32_t>(bytes + 4) != 0) return EOPNOTSUPP;
  if (count > max_regions) return E2BIG;
  std::vector<Region> table(count);
  for (uint32_t i = 0; i < count; ++i) {
    const auto region = read_arg<vhost_memory_region>(
        bytes + sizeof(vhost_memory) + i * sizeof(vhost_memory_region));
    table[i] = {region.guest_phys_addr, region.memory_size,
                region.userspace_addr};
  }
  device.table = std::move(table);
  for (const Ring& ring : device.rings) {
    // Accepted, but the ring is dead.
    if (ring.tap >= 0 && !reachable(device, ring)) signal_fd(ring.err);
  }
  return 0;
}

// All of these begin with the index of a ring, read before anything else.
int FakeVhostNet::vring_request(Device& device, unsigned long request,
                                void* arg) {
  const auto index = read_arg<uint32_t>(arg);
  if (index >= kRings) return ENOBUFS;
  Ring& ring = device.rings[index];
  const auto state = read_arg<vhost_vring_state>(arg);
  const auto file = read_arg<vhost_vring_file>(arg);
  const bool running = ring.tap >= 0;
  switch (request) {
    case VHOST_SET_VRING_NUM:
      if (running) return EBUSY;
      if (state.num > kMaxRingSize || !std::has_single_bit(state.num)) {
        return EINVAL;
      }
      ring.num = state.num;
      return 0;
    case VHOST_SET_VRING_BASE:
      if (running) return EBUSY;
      if (state.num > kMaxBase) return EINVAL;
      ring.base = state.num;
      return 0;
    case VHOST_GET_VRING_BASE:
      std::memcpy(static_cast<std::byte*>(arg) + 4, &ring.base, 4);
      return 0;
    case VHOST_SET_VRING_ADDR: {
      const auto addr = read_arg<vhost_vring_addr>(arg);
      if ((addr.flags & ~(1u << VHOST_VRING_F_LOG)) != 0) return EOPNOTSUPP;
      if (addr.avail_user_addr % 2 != 0 || addr.used_user_addr % 4 != 0 ||
          addr.log_guest_addr % 4 != 0) {
        return EINVAL;
      }
      ring.desc = addr.desc_user_addr;
      ring.used = addr.used_user_addr;
      ring.avail = addr.avail_user_addr;
      ring.logs = addr.flags != 0;
      return 0;
    }
    case VHOST_SET_VRING_KICK:
      return set_notifier(ring.kick, file.fd);
    case VHOST_SET_VRING_CALL:
      return set_notifier(ring.call, file.fd);
    case VHOST_SET_VRING_ERR:
      return set_notifier(ring.err, file.fd);
    case VHOST_NET_SET_BACKEND:
      return set_backend(device, ring, file.fd);
    default:
      return ENOTTY;
  }
}

int FakeVhostNet::set_notifier(UniqueFd& notifier, int fd) {
  if (fd == -1) {
    notifier.reset();
    return 0;
  }
  if (::fcntl(fd, F_GETFD) < 0) return EBADF;
  if (!is_eventfd(fd)) return EINVAL;
  notifier = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return 0;
}

int FakeVhostNet::set_backend(Device& device, Ring& ring, int fd) {
  if (fd == -1) {
    ring.tap = -1;
    return 0;
  }
  if (!taps_.contains(fd)) return ENOTSOCK;
  if (!reachable(device, ring)) return EFAULT;
  ring.tap = fd;
  return 0;
}

}  // namespace vhost::testing
