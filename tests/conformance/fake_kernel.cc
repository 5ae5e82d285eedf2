// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/fake_kernel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kAccessPlatform = uint64_t{1} << kFeatureAccessPlatform;

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

template <typename T>
int answer(void* arg, const T& value, size_t at = 0) {
  std::memcpy(static_cast<std::byte*>(arg) + at, &value, sizeof(value));
  return 0;
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
class FakeKernel::File final : public VhostFile {
 public:
  explicit File(FakeKernel& kernel) : kernel_(kernel) {
    device_.rings.resize(kernel.rings_);
    std::array<int, 2> ends = {-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0) {
      device_.read_end = UniqueFd(ends[0]);
      device_.write_end = UniqueFd(ends[1]);
    }
    kernel_.devices_.push_back(&device_);
  }
  ~File() override { std::erase(kernel_.devices_, &device_); }

  int ioctl(unsigned long request, void* arg) override {
    kernel_.journal.push_back(request);
    const int error = kernel_.planned.take(request);
    return error != 0 ? error : kernel_.request(device_, request, arg);
  }
  int read(std::span<std::byte> out, size_t& size) override {
    if (device_.outbox.empty()) return EAGAIN;
    const IotlbMessage message = device_.outbox.front();
    device_.outbox.pop_front();
    std::byte token{};
    if (::read(device_.read_end.get(), &token, 1) != 1) return EIO;
    size = std::min(out.size(), message.size());
    std::copy_n(message.begin(), size, out.begin());
    return 0;
  }
  int write(std::span<const std::byte> message) override {
    kernel_.journal.push_back(0);
    const int error = std::exchange(kernel_.fail_writes, 0);
    return error != 0 ? error : kernel_.take_iotlb(device_, message);
  }
  FdRef fd() const override { return device_.read_end; }

 private:
  FakeKernel& kernel_;
  Device device_;
};

VhostFileOpener FakeKernel::opener() {
  return [this](const std::string&) {
    return absl::StatusOr<std::unique_ptr<VhostFile>>(
        std::make_unique<File>(*this));
  };
}

KernelSystem FakeKernel::system() {
  return {.open = opener(),
          .max_memory_regions = [this] { return uint64_t{max_regions}; }};
}

UniqueFd FakeKernel::make_tap() {
  UniqueFd tap(::memfd_create("tap", MFD_CLOEXEC));
  taps_.insert(tap.get());
  return tap;
}

size_t FakeKernel::count(unsigned long request) const {
  return static_cast<size_t>(
      std::count(journal.begin(), journal.end(), request));
}

FakeKernel::Ring* FakeKernel::ring(uint32_t queue) {
  const size_t device = queue / rings_;
  return device < devices_.size() ? &devices_[device]->rings[queue % rings_]
                                  : nullptr;
}

bool FakeKernel::running(uint32_t queue) {
  if (ring(queue) == nullptr) return false;
  const Device& device = *devices_[queue / rings_];
  if (!ring(queue)->kick.valid()) return false;
  switch (kind_) {
    case Kind::kNet:
      return ring(queue)->tap >= 0;
    case Kind::kVsock:
      return device.running;
    case Kind::kScsi:
      return !device.endpoint.empty();
  }
  return false;
}

// ---------------------------------------------------------------------------
// Requests of the device
// ---------------------------------------------------------------------------

int FakeKernel::request(Device& device, unsigned long request, void* arg) {
  if (const int done = feature_request(device, request, arg); done >= 0) {
    return done;
  }
  if (request == VHOST_SCSI_GET_ABI_VERSION && kind_ == Kind::kScsi) {
    return answer(arg, scsi_abi);
  }
  if (!device.owned) return EPERM;
  return owned_request(device, request, arg);
}

// What works without an owner; -1: another request.
int FakeKernel::feature_request(Device& device, unsigned long request,
                                void* arg) {
  switch (request) {
    case VHOST_GET_FEATURES:
      return answer(arg, features);
    case VHOST_SET_FEATURES:
      return set_features(device, read_arg<uint64_t>(arg), 0);
    case VHOST_GET_FEATURES_ARRAY:
      if (features_high == 0) return -1;
      return answer(arg, std::array<uint64_t, 2>{features, features_high}, 8);
    case VHOST_SET_FEATURES_ARRAY: {
      if (features_high == 0) return -1;
      const auto array = read_arg<KernelFeaturesArray>(arg);
      return set_features(device, array.words[0], array.words[1]);
    }
    case VHOST_GET_BACKEND_FEATURES:
      return answer(arg, backend_features);
    case VHOST_SET_BACKEND_FEATURES: {
      const auto wanted = read_arg<uint64_t>(arg);
      if ((wanted & ~backend_features) != 0) return EOPNOTSUPP;
      device.backend_features = wanted;
      return 0;
    }
    case VHOST_SET_FORK_FROM_OWNER:
      if (!has_fork_choice) return ENOTTY;
      if (device.owned) return EBUSY;
      device.fork = read_arg<uint8_t>(arg) != 0;
      return 0;
    case VHOST_GET_FORK_FROM_OWNER:
      if (!has_fork_choice) return ENOTTY;
      return answer(arg, static_cast<uint8_t>(device.fork));
    case VHOST_SET_OWNER:
      if (device.owned) return EBUSY;
      device.owned = true;
      return 0;
    default:
      return -1;
  }
}

int FakeKernel::set_features(Device& device, uint64_t low, uint64_t high) {
  if ((low & ~features) != 0 || (high & ~features_high) != 0) {
    return EOPNOTSUPP;
  }
  device.features = low;
  device.features_high = high;
  if ((low & kAccessPlatform) != 0) {
    device.iotlb = true;
    device.translations.clear();  // Linux begins with an empty one each time.
  }
  return 0;
}

int FakeKernel::owned_request(Device& device, unsigned long request,
                              void* arg) {
  switch (request) {
    case VHOST_RESET_OWNER: {
      if (kind_ != Kind::kNet) return ENOTTY;
      Device fresh;
      fresh.rings.resize(rings_);
      fresh.read_end = std::move(device.read_end);
      fresh.write_end = std::move(device.write_end);
      device = std::move(fresh);
      return 0;
    }
    case VHOST_SET_MEM_TABLE:
      return set_table(device, arg);
    case VHOST_SET_LOG_BASE:
      device.log_base = read_arg<uint64_t>(arg);
      return 0;
    case VHOST_SET_LOG_FD:
      return set_notifier(device.log_event, read_arg<int>(arg));
    case VHOST_NEW_WORKER:
    case VHOST_FREE_WORKER:
    case VHOST_ATTACH_VRING_WORKER:
    case VHOST_GET_VRING_WORKER:
      return worker_request(device, request, arg);
    case VHOST_VSOCK_SET_GUEST_CID:
    case VHOST_VSOCK_SET_RUNNING:
      if (kind_ == Kind::kVsock) return vsock_request(device, request, arg);
      break;
    case VHOST_SCSI_SET_ENDPOINT:
    case VHOST_SCSI_CLEAR_ENDPOINT:
    case VHOST_SCSI_SET_EVENTS_MISSED:
    case VHOST_SCSI_GET_EVENTS_MISSED:
      if (kind_ == Kind::kScsi) return scsi_request(device, request, arg);
      break;
    default:
      break;
  }
  return vring_request(device, request, arg);
}

int FakeKernel::worker_request(Device& device, unsigned long request,
                               void* arg) {
  if (!has_workers) return ENOTTY;
  const auto index = read_arg<uint32_t>(arg);
  if (request == VHOST_NEW_WORKER) {
    device.workers.insert(next_worker_);
    return answer(arg, next_worker_++);
  }
  if (request == VHOST_FREE_WORKER) {
    const bool used =
        std::any_of(device.rings.begin(), device.rings.end(),
                    [&](const Ring& ring) { return ring.worker == index; });
    if (used) return EBUSY;
    return device.workers.erase(index) == 0 ? ENODEV : 0;
  }
  if (index >= rings_) return ENOBUFS;
  if (request == VHOST_GET_VRING_WORKER) {
    return answer(arg, device.rings[index].worker, 4);
  }
  const auto wanted = read_arg<vhost_vring_worker>(arg);
  if (!device.workers.contains(wanted.worker_id)) return ENODEV;
  device.rings[index].worker = wanted.worker_id;
  return 0;
}

int FakeKernel::set_table(Device& device, const void* arg) {
  const auto* bytes = static_cast<const std::byte*>(arg);
  const auto entries = read_arg<uint32_t>(bytes);
  if (read_arg<uint32_t>(bytes + 4) != 0) return EOPNOTSUPP;
  if (entries > max_regions) return E2BIG;
  std::vector<Region> table(entries);
  for (uint32_t i = 0; i < entries; ++i) {
    const auto region = read_arg<vhost_memory_region>(
        bytes + sizeof(vhost_memory) + i * sizeof(vhost_memory_region));
    table[i] = {region.guest_phys_addr, region.memory_size,
                region.userspace_addr};
  }
  device.table = std::move(table);
  for (const Ring& ring : device.rings) {
    // Accepted, but the ring is dead.
    const bool runs = ring.tap >= 0 && !device.iotlb;
    if (runs && !reachable(device, ring)) signal_fd(ring.err);
  }
  return 0;
}

int FakeKernel::vsock_request(Device& device, unsigned long request,
                              void* arg) {
  if (request == VHOST_VSOCK_SET_GUEST_CID) {
    const auto cid = read_arg<uint64_t>(arg);
    if (cid <= 2 || cid >= 0xffff'ffff) return EINVAL;
    if (cids_in_use.contains(cid)) return EADDRINUSE;
    device.cid = cid;
    return 0;
  }
  const bool run = read_arg<int>(arg) != 0;
  for (const Ring& ring : device.rings) {
    if (run && !reachable(device, ring)) return EFAULT;
  }
  device.running = run;
  return 0;
}

int FakeKernel::scsi_request(Device& device, unsigned long request, void* arg) {
  if (request == VHOST_SCSI_SET_EVENTS_MISSED) {
    device.events_missed = read_arg<uint32_t>(arg) != 0;
    return 0;
  }
  if (request == VHOST_SCSI_GET_EVENTS_MISSED) {
    return answer(arg, uint32_t{device.events_missed});
  }
  const auto target = read_arg<vhost_scsi_target>(arg);
  const std::string name =
      absl::StrCat(target.vhost_wwpn, "/", target.vhost_tpgt);
  if (request == VHOST_SCSI_CLEAR_ENDPOINT) {
    if (device.endpoint.empty()) return ENODEV;
    if (device.endpoint != name) return EINVAL;
    device.endpoint.clear();
    return 0;
  }
  if (!targets.contains(name)) return EEXIST;
  for (const Ring& ring : device.rings) {
    // Rings that the guest does not use pass.
    if (ring.num != 0 && !reachable(device, ring)) return EFAULT;
  }
  device.endpoint = name;
  return 0;
}

}  // namespace vhost::testing
