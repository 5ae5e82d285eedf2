// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VSOCK_VSOCK_GUEST_H_
#define TESTS_VSOCK_VSOCK_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/test_disk.h"
#include "vhostdev/vsock_client.h"

namespace vhost::testing {

// A guest with a socket device: a driver and a client for it, on this thread.
class VsockGuest {
 public:
  struct Options {
    uint32_t queues = 3;
    uint32_t depth = 64;
    uint32_t config_size = kVsockConfigSize;
    VsockClient::Options client = {};
  };
  VsockGuest(std::unique_ptr<VhostOps> ops, Options options);

  absl::Status start();
  absl::Status stop();
  void drop_client() { client_ = nullptr; }

  VsockClient& client() { return *client_; }
  VirtioDriver& driver() { return driver_; }
  TestVm& vm() { return vm_; }

  // Takes packets until `done`; false after kPatience, or at the device's end.
  bool until(absl::FunctionRef<bool()> done);

  // Connects and waits for the answer.
  // Errors: as VsockStreamInfo::status.
  absl::StatusOr<VsockStream> connect(uint32_t port,
                                      uint64_t cid = kVsockHostCid);
  // Sends all of `bytes` and takes as many that come back.
  absl::StatusOr<std::vector<std::byte>> echo(VsockStream stream,
                                              std::span<const std::byte> bytes);
  VsockStreamInfo info(VsockStream stream) { return *client_->info(stream); }

 private:
  const Options options_;
  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop_ = *EpollEventLoop::create();
  TestVm vm_{*loop_};
  VirtioDriver driver_;
  std::unique_ptr<VsockClient> client_;
};

// Bytes that differ from those of another `seed` and from their neighbours.
std::vector<std::byte> some_bytes(size_t size, uint32_t seed);

}  // namespace vhost::testing

#endif  // TESTS_VSOCK_VSOCK_GUEST_H_
