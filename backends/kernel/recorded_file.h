// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_RECORDED_FILE_H_
#define BACKENDS_KERNEL_RECORDED_FILE_H_

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "backends/kernel/ioctl_seam.h"
#include "backends/kernel/refusal.h"
#include "vhostdev/request_log.h"

namespace vhost {

// A file whose calls are logged with the time they took.
class RecordedVhostFile final : public VhostFile {
 public:
  // `log`, of call_names(), outlives it.
  RecordedVhostFile(std::unique_ptr<VhostFile> file, CallLog* log)
      : file_(std::move(file)), log_(log) {}

  int ioctl(unsigned long request, void* arg) override {
    const MonotonicTime before = std::chrono::steady_clock::now();
    return note(request, before, file_->ioctl(request, arg));
  }
  int read(std::span<std::byte> out, size_t& size) override {
    const MonotonicTime before = std::chrono::steady_clock::now();
    const int error = file_->read(out, size);
    return error == EAGAIN ? error : note(kReadMessage, before, error);
  }
  int write(std::span<const std::byte> message) override {
    const MonotonicTime before = std::chrono::steady_clock::now();
    return note(kWriteMessage, before, file_->write(message));
  }
  FdRef fd() const override { return file_->fd(); }

 private:
  int note(unsigned long request, MonotonicTime before, int error) {
    log_->add(request, before, std::chrono::steady_clock::now() - before,
              error);
    return error;
  }

  const std::unique_ptr<VhostFile> file_;
  CallLog* const log_;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_RECORDED_FILE_H_
