// SPDX-License-Identifier: Apache-2.0
//
// A virtual machine of one disk, as small as can be: it plugs memory, hands the
// disk's queues to a back-end, reads the first sector as its guest would, and
// pauses.
//
//   vhost-model-blk --socket-path disk.sock --blk-file disk.img &
//   embed disk.sock
#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <vhostdev/event_loop.h>
#include <vhostdev/features.h>
#include <vhostdev/flight_record.h>
#include <vhostdev/split_virtqueue.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "disk.h"
#include "vm.h"
#include "vm_disk.h"

namespace {

constexpr uint32_t kSector = 512;

// Turns the loop until `over` says so; an error if the device is lost or
// nothing happens for five seconds.
absl::Status turn_until(Vm& vm, const VmDisk& device,
                        absl::FunctionRef<bool()> over) {
  const auto deadline = vm.loop->now() + std::chrono::seconds(5);
  while (!over()) {
    if (device.lost) return *device.lost;
    const auto left = deadline - vm.loop->now();
    if (left.count() <= 0) return absl::DeadlineExceededError("too slow");
    VHOST_RETURN_IF_ERROR(vm.loop->run_once(left));
  }
  return absl::OkStatus();
}

// The same for an operation that `begin` begins.
absl::Status finish(Vm& vm, const VmDisk& device,
                    absl::FunctionRef<void(vhost::Completion)> begin) {
  // Outlives this call: the operation may still be under way when it fails.
  auto result = std::make_shared<std::optional<absl::Status>>();
  begin([result](absl::Status status) { *result = std::move(status); });
  VHOST_RETURN_IF_ERROR(
      turn_until(vm, device, [&] { return result->has_value(); }));
  return **result;
}

// The guest's half of queue 0.
class Guest {
 public:
  Guest(Vm& vm, VmDisk& device) : vm_(vm), device_(device) {}

  // Lays the ring out; before the device starts.
  absl::Status set_up() {
    const vhost::VirtqueueConfig queue = device_.queue(vhost::QueueIndex{0});
    const uint64_t num = queue.num;
    vhost::SplitVirtqueue::Options options;
    options.num = queue.num;
    options.desc = vm_.memory.translate(queue.desc_gpa, 16 * num);
    options.avail = vm_.memory.translate(queue.avail_gpa, 6 + 2 * num);
    options.used = vm_.memory.translate(queue.used_gpa, 6 + 8 * num);
    auto ring = vhost::SplitVirtqueue::create(options);
    if (ring.ok()) ring_ = *std::move(ring);
    return ring.status();
  }

  // Reads the first sector; while the device runs.
  absl::StatusOr<std::array<std::byte, kSector>> read_first_sector() {
    VHOST_RETURN_IF_ERROR(submit_read());
    if (ring_->publish()) {
      VHOST_RETURN_IF_ERROR(device_.kick(0)->signal());
    }
    VHOST_RETURN_IF_ERROR(wait_for_the_call());
    std::array<vhost::RingCompletion, 1> done;
    const auto taken = ring_->poll(done);
    if (!taken.ok()) return taken.status();
    const std::byte* const buffer = vm_.memory.translate(kBuffer, kSpace);
    if (*taken != 1 || buffer[kHeader + kSector] != std::byte{0}) {
      return absl::DataLossError("the device did not read");
    }
    std::array<std::byte, kSector> sector;
    std::memcpy(sector.data(), buffer + kHeader, kSector);
    return sector;
  }

 private:
  // Where the request is in guest memory: header, data, status.
  static constexpr uint64_t kBuffer = 0x20'0000;
  static constexpr uint32_t kHeader = 16;
  static constexpr uint32_t kSpace = kHeader + kSector + 1;

  absl::Status submit_read() {
    std::byte* const buffer = vm_.memory.translate(kBuffer, kSpace);
    // Type 0 is a read, and its sector is 0.  The status says that it failed,
    // until the device says something else.
    std::memset(buffer, 0, kHeader);
    buffer[kHeader + kSector] = std::byte{1};
    auto request = ring_->begin(3, /*cookie=*/0);
    if (!request.ok()) return request.status();
    VHOST_RETURN_IF_ERROR(request.add_readable(kBuffer, kHeader));
    VHOST_RETURN_IF_ERROR(request.add_writable(kBuffer + kHeader, kSector));
    VHOST_RETURN_IF_ERROR(request.add_writable(kBuffer + kHeader + kSector, 1));
    return request.submit();
  }

  absl::Status wait_for_the_call() {
    const vhost::EventNotifier& call = *device_.call(0);
    const auto watch =
        vm_.loop->watch(call.read_fd(), {.readable = true},
                        [&call](vhost::IoEvents) { call.test_and_clear(); });
    // False: the request is complete already, and nobody will call.
    if (!ring_->enable_interrupts()) return absl::OkStatus();
    return turn_until(vm_, device_, [&] { return ring_->has_completions(); });
  }

  Vm& vm_;
  VmDisk& device_;
  std::unique_ptr<vhost::SplitVirtqueue> ring_;
};

absl::Status run(const char* socket) {
  Vm vm;
  VHOST_RETURN_IF_ERROR(vm.plug_ram(0, 16 << 20));
  VmDisk device;
  Guest guest(vm, device);
  VHOST_RETURN_IF_ERROR(guest.set_up());

  Disk disk(vm.context, socket, device);
  VHOST_RETURN_IF_ERROR(finish(
      vm, device, [&](vhost::Completion done) { disk.plug(std::move(done)); }));
  const vhost::FeatureSet features{vhost::kFeatureVersion1};
  VHOST_RETURN_IF_ERROR(finish(vm, device, [&](vhost::Completion done) {
    disk.driver_ok(features, std::move(done));
  }));

  const auto sector = guest.read_first_sector();
  if (!sector.ok()) return sector.status();
  std::fwrite(sector->data(), 1, sector->size(), stdout);

  return finish(vm, device,
                [&](vhost::Completion done) { disk.pause(std::move(done)); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: embed SOCKET > first-sector\n");
    return 2;
  }
  const absl::Status status = run(argv[1]);
  if (status.ok()) return 0;
  // What failed, then what was known of the device when it did.
  std::fprintf(
      stderr, "embed: %s\n%s",
      status.ToString(absl::StatusToStringMode::kWithNoExtraData).c_str(),
      vhost::flight_record_of(status).c_str());
  return 1;
}
