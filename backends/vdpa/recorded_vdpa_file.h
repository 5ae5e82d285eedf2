// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_RECORDED_VDPA_FILE_H_
#define BACKENDS_VDPA_RECORDED_VDPA_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "backends/vdpa/vdpa_file.h"
#include "vhostdev/request_log.h"

namespace vhost {

// The names that calls to a vhost-vdpa device are logged by.
std::span<const CallLog::Name> vdpa_call_names();

// A file whose calls are logged with the time they took.
class RecordedVdpaFile final : public VdpaFile {
 public:
  // `log`, of vdpa_call_names(), outlives it.
  RecordedVdpaFile(std::unique_ptr<VdpaFile> file, CallLog* log)
      : file_(std::move(file)), log_(log) {}

  int ioctl(unsigned long request, void* arg) override;
  int write(std::span<const std::byte> message) override;
  HostNotifierArea doorbell(uint32_t queue) override {
    return file_->doorbell(queue);
  }
  uint64_t memory_lock_limit() override { return file_->memory_lock_limit(); }

 private:
  int note(unsigned long request, MonotonicTime before, int error);

  const std::unique_ptr<VdpaFile> file_;
  CallLog* const log_;
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_RECORDED_VDPA_FILE_H_
