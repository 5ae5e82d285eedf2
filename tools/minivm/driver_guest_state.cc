// SPDX-License-Identifier: Apache-2.0
//
//   guest  := version u32, workload, finishing u8, resets u64,
//             count u32, device*, count u32, worker*,
//             count u32, (gpa u64, size u64)*       memory in use
//   device := name bytes, driver bytes              driver_state.h
//   worker := ended u8, report, disk or net, if it has not ended
//   disk   := client bytes, phase u8, over u8, time, first_failure bytes, run
//   net    := client bytes, client bytes where there are two, burst u64, time
//
// Workload, report and time: workload_state.cc; run: journal_run_state.cc.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/minivm/driver_guest.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kMostName = 64;                       // Bytes.
constexpr size_t kMostDriverState = size_t{64} << 20;  // Bytes.
constexpr uint32_t kMostRanges = 1 << 16;

}  // namespace

absl::StatusOr<std::string> DriverGuest::save() const {
  if (!all(&Worker::parked)) {
    return absl::FailedPreconditionError("save: the guest is not paused");
  }
  StateWriter out;
  out.u32(kVersion);
  save_workload(workload_, out);
  out.boolean(finishing_);
  out.u64(report().resets);
  out.u32(static_cast<uint32_t>(devices_.size()));
  for (DriverDevice* const device : devices_) {
    const absl::StatusOr<DriverState> driver = device->driver().save();
    if (!driver.ok()) return driver.status();
    out.bytes(device->name());
    out.bytes(encode(*driver));
  }
  out.u32(static_cast<uint32_t>(workers_.size()));
  for (const std::unique_ptr<Worker>& worker : workers_) {
    VHOST_RETURN_IF_ERROR(annotate(worker->save(out), "save"));
  }
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  memory_.for_each_in_use([&ranges](uint64_t gpa, uint64_t size) {
    ranges.emplace_back(gpa, size);
  });
  out.u32(static_cast<uint32_t>(ranges.size()));
  for (const auto& [gpa, size] : ranges) {
    out.u64(gpa);
    out.u64(size);
  }
  return out.take();
}

absl::Status DriverGuest::load(absl::string_view state) {
  if (!workers_.empty()) {
    return absl::FailedPreconditionError(
        "load: the guest has a workload already");
  }
  StateReader in(state);
  absl::Status status = load_all(in);
  status.Update(in.finish());
  // What does not run leaves no half of a guest.
  if (!status.ok()) workers_.clear();
  return annotate(status, "load");
}

absl::Status DriverGuest::load_all(StateReader& in) {
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, " of a guest"));
  }
  const Workload workload = load_workload(in);
  finishing_ = in.boolean();
  resets_ = in.u64();
  VHOST_RETURN_IF_ERROR(load_devices(workload, in));
  make_workers(workload);
  const uint32_t workers = in.u32();
  if (workers != workers_.size()) {
    in.refuse(absl::StrCat(workers, " workers, not ", workers_.size()));
  }
  VHOST_RETURN_IF_ERROR(in.status());
  for (const std::unique_ptr<Worker>& worker : workers_) {
    VHOST_RETURN_IF_ERROR(worker->load(in));
    if (finishing_) worker->set_command(Worker::Command::kFinish);
  }
  // ORDER: what is not adopted by now is nobody's.
  const uint32_t ranges = in.count(kMostRanges, 16);
  for (uint32_t i = 0; i < ranges && in.ok(); ++i) {
    const uint64_t gpa = in.u64();
    VHOST_RETURN_IF_ERROR(memory_.retire(gpa, in.u64()));
  }
  return in.status();
}

absl::Status DriverGuest::load_devices(const Workload& workload,
                                       StateReader& in) {
  const uint32_t devices = in.u32();
  if (devices != devices_.size()) {
    in.refuse(absl::StrCat(devices, " devices, not ", devices_.size()));
  }
  VHOST_RETURN_IF_ERROR(in.status());
  for (DriverDevice* const device : devices_) {
    const std::string name(in.bytes(kMostName));
    const absl::string_view bytes = in.bytes(kMostDriverState);
    if (name != device->name()) {
      in.refuse(absl::StrCat("another device than ", device->name()));
    }
    VHOST_RETURN_IF_ERROR(in.status());
    const absl::StatusOr<DriverState> driver = decode_driver_state(bytes);
    if (!driver.ok()) return annotate(driver.status(), name);
    VHOST_RETURN_IF_ERROR(device->load(workload, *driver));
  }
  return absl::OkStatus();
}

}  // namespace vhost::minivm
