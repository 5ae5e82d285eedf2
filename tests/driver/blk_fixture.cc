// SPDX-License-Identifier: Apache-2.0
#include "tests/driver/blk_fixture.h"

#include <sys/socket.h>

#include <array>

namespace vhost {

void BlkTest::start_backend() {
  if (disk == nullptr) {
    disk = testing::ModelBlk::on_memory(kDiskSize, disk_options).value();
  }
  backend =
      std::make_unique<testing::ModelBackend>(disk.get(), backend_options);
}

absl::Status BlkTest::connect(uint32_t queues) {
  std::array<int, 2> ends = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return errno_status(errno, "socketpair");
  }
  UniqueFd theirs(ends[0]);
  auto ours = std::make_shared<UniqueFd>(ends[1]);
  VHOST_RETURN_IF_ERROR(backend->connect(std::move(theirs)));
  VHOST_RETURN_IF_ERROR(backend->start_thread());
  driver = std::make_unique<VirtioDriver>(
      context, dma, make_vhost_user_ops(UseSocket{std::move(ours)}),
      driver_options);
  const auto agreed = driver->reset(wanted);
  if (!agreed.ok()) return agreed.status();
  start_options.queues = queues;
  const auto started = driver->start(start_options);
  if (!started.ok()) return started.status();
  auto made = BlkClient::create(*driver, client_options);
  if (!made.ok()) return made.status();
  client = *std::move(made);
  return absl::OkStatus();
}

void BlkTest::fill(const DmaSpan& span, uint8_t seed) {
  for (uint64_t i = 0; i < span.size; ++i) {
    span.data[i] = static_cast<std::byte>(seed + i * 7 + i / 251);
  }
}

bool BlkTest::is_filled(const DmaSpan& span, uint8_t seed) {
  for (uint64_t i = 0; i < span.size; ++i) {
    if (span.data[i] != static_cast<std::byte>(seed + i * 7 + i / 251)) {
      return false;
    }
  }
  return true;
}

}  // namespace vhost
