// SPDX-License-Identifier: Apache-2.0
//
// Is the test kit usable from outside?  A device against the model back-end,
// both in this process.
#include <vhostdev/event_loop.h>
#include <vhostdev/testing/fake_vmm.h>
#include <vhostdev/testing/model_backend.h>
#include <vhostdev/testing/model_blk.h>
#include <vhostdev/vhost_context.h>
#include <vhostdev/vhost_dev.h>
#include <vhostdev/vhost_user.h>

#include <array>
#include <cstdio>
#include <memory>
#include <utility>

#include <sys/socket.h>

namespace {

absl::Status start_and_stop() {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) {
    return vhost::errno_status(errno, "socketpair");
  }
  auto disk = vhost::testing::ModelBlk::on_memory(1 << 20);
  if (!disk.ok()) return disk.status();
  vhost::testing::ModelBackend backend(disk->get());
  VHOST_RETURN_IF_ERROR(backend.connect(vhost::UniqueFd(ends[0])));
  VHOST_RETURN_IF_ERROR(backend.start_thread());

  auto loop = vhost::EpollEventLoop::create();
  if (!loop.ok()) return loop.status();
  vhost::VhostContext context(**loop);
  vhost::testing::FakeVirtioDevice device({.queues = 1, .num = 64});
  vhost::testing::FakeNotifierBinding notifiers;
  vhost::BackendEvents events;
  vhost::VhostDev dev(context,
                      vhost::make_vhost_user_ops(vhost::UseSocket{
                          std::make_shared<vhost::UniqueFd>(ends[1])}),
                      device, notifiers, events, /*services=*/nullptr, {});
  return dev.run([&](vhost::Completion done) { dev.init(std::move(done)); },
                 std::chrono::seconds(5));
}

}  // namespace

int main() {
  const absl::Status status = start_and_stop();
  std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
