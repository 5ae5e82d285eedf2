// SPDX-License-Identifier: Apache-2.0
// The rings of a FakeKernel's devices, and the device IOTLB.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/fake_kernel.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kMaxRingSize = 32768;
constexpr uint32_t kMaxBase = 0xffff;
constexpr size_t kIotlbBody = 8;

template <typename T>
T read_arg(const void* arg) {
  T out;
  std::memcpy(&out, arg, sizeof(out));
  return out;
}

bool holds(const std::vector<FakeKernel::Region>& table, uint64_t user,
           uint64_t size) {
  return std::any_of(
      table.begin(), table.end(), [&](const FakeKernel::Region& region) {
        return user >= region.user && user - region.user <= region.size &&
               size <= region.size - (user - region.user);
      });
}

}  // namespace

// All of these begin with the index of a ring, read before anything else.
int FakeKernel::vring_request(Device& device, unsigned long request,
                              void* arg) {
  if (arg == nullptr) return EFAULT;
  const auto index = read_arg<uint32_t>(arg);
  if (index >= rings_) return ENOBUFS;
  Ring& ring = device.rings[index];
  const auto state = read_arg<vhost_vring_state>(arg);
  const auto file = read_arg<vhost_vring_file>(arg);
  const bool runs = ring.tap >= 0 || device.running;
  switch (request) {
    case VHOST_SET_VRING_NUM:
      if (runs) return EBUSY;
      if (state.num > kMaxRingSize || !std::has_single_bit(state.num)) {
        return EINVAL;
      }
      ring.num = state.num;
      return 0;
    case VHOST_SET_VRING_BASE:
      if (runs) return EBUSY;
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
    case VHOST_SET_VRING_ENDIAN:
      if (!has_cross_endian) return ENOTTY;
      if (runs) return EBUSY;
      ring.big_endian = state.num != 0;
      return 0;
    case VHOST_SET_VRING_BUSYLOOP_TIMEOUT:
      ring.busyloop = state.num;
      return 0;
    case VHOST_GET_VRING_BUSYLOOP_TIMEOUT:
      std::memcpy(static_cast<std::byte*>(arg) + 4, &ring.busyloop, 4);
      return 0;
    case VHOST_SET_VRING_KICK:
      return set_notifier(ring.kick, file.fd);
    case VHOST_SET_VRING_CALL:
      return set_notifier(ring.call, file.fd);
    case VHOST_SET_VRING_ERR:
      return set_notifier(ring.err, file.fd);
    case VHOST_NET_SET_BACKEND:
      return kind_ == Kind::kNet ? set_backend(device, ring, file.fd) : ENOTTY;
    default:
      return ENOTTY;
  }
}

int FakeKernel::set_notifier(UniqueFd& notifier, int fd) {
  if (fd == -1) {
    notifier.reset();
    return 0;
  }
  if (::fcntl(fd, F_GETFD) < 0) return EBADF;
  if (!is_eventfd(fd)) return EINVAL;
  notifier = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return 0;
}

int FakeKernel::set_backend(Device& device, Ring& ring, int fd) {
  if (fd == -1) {
    ring.tap = -1;
    return 0;
  }
  if (!taps_.contains(fd)) return ENOTSOCK;
  if (!reachable(device, ring)) return EFAULT;
  ring.tap = fd;
  return 0;
}

bool FakeKernel::reachable(Device& device, const Ring& ring) {
  const uint64_t num = ring.num;
  if (num == 0) return false;
  if (device.iotlb) {
    return translated(device, ring.desc, 16 * num) &&
           translated(device, ring.avail, 4 + 2 * num) &&
           translated(device, ring.used, 4 + 8 * num);
  }
  return holds(device.table, ring.desc, 16 * num) &&
         holds(device.table, ring.avail, 4 + 2 * num) &&
         holds(device.table, ring.used, 4 + 8 * num);
}

// ---------------------------------------------------------------------------
// The device IOTLB
// ---------------------------------------------------------------------------

// Asks for the first piece that is missing.
bool FakeKernel::translated(Device& device, uint64_t iova, uint64_t size) {
  for (uint64_t at = iova; at < iova + size;) {
    auto next = device.translations.upper_bound(at);
    if (next == device.translations.begin() ||
        at - std::prev(next)->first >= std::prev(next)->second.entry.size) {
      put_miss(device, at, IotlbAccess::kBoth);
      return false;
    }
    const auto& [first, update] = *std::prev(next);
    at = first + update.entry.size;
  }
  return true;
}

int FakeKernel::take_iotlb(Device& device, std::span<const std::byte> message) {
  const bool two = (device.backend_features & 2) != 0;
  if (message.size() != kIotlbMessageSize) return EINVAL;
  if (read_arg<uint32_t>(message.data()) != (two ? 2u : 1u)) return EINVAL;
  const auto body = read_arg<vhost_iotlb_msg>(message.data() + kIotlbBody);
  if (body.size == 0) return EINVAL;
  if (!device.iotlb || !device.owned) return EFAULT;
  if (body.type == VHOST_IOTLB_UPDATE) {
    device.translations[body.iova] = {
        .entry = {.iova = body.iova,
                  .size = body.size,
                  .gpa = 0,
                  .access = IotlbAccess{body.perm}},
        .user = body.uaddr};
    return 0;
  }
  std::erase_if(device.translations, [&](const auto& known) {
    return known.first <= body.iova + (body.size - 1) &&
           body.iova <= known.first + (known.second.entry.size - 1);
  });
  return 0;
}

void FakeKernel::put_miss(Device& device, uint64_t iova, IotlbAccess access) {
  vhost_iotlb_msg body = {};
  body.iova = iova;
  body.perm = static_cast<uint8_t>(access);
  body.type = VHOST_IOTLB_MISS;
  const uint32_t type = (device.backend_features & 2) != 0 ? 2 : 1;
  IotlbMessage message = {};
  std::memcpy(message.data(), &type, sizeof(type));
  std::memcpy(message.data() + kIotlbBody, &body, sizeof(body));
  put(device, message);
}

void FakeKernel::put(Device& device, const IotlbMessage& message) {
  device.outbox.push_back(message);
  const std::byte token{};
  if (::write(device.write_end.get(), &token, 1) != 1) device.outbox.pop_back();
}

void FakeKernel::ask(size_t device, uint64_t iova, IotlbAccess access) {
  put_miss(*devices_[device], iova, access);
}

void FakeKernel::send(size_t device, const IotlbMessage& message) {
  put(*devices_[device], message);
}

}  // namespace vhost::testing
