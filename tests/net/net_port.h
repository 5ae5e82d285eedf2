// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_NET_NET_PORT_H_
#define TESTS_NET_NET_PORT_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/test_disk.h"
#include "vhostdev/net_client.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {

// A network device in a VM: a driver and a client for it.
class NetPort {
 public:
  struct Options {
    uint32_t pairs = 1;
    uint32_t config_size = 0;
    uint32_t depth = 128;
    FeatureSet wanted = kNetWantedFeatures;
    NetClient::Options client = {};
  };

  // Not connected yet.  `loop` is the VM's.
  NetPort(TestVm& vm, EpollEventLoop* loop, VhostUserAddress address,
          Options options);

  // Connects, starts and makes a client; at first, or after stop().
  absl::Status start();
  // The two halves of it.
  absl::Status reset();
  absl::Status run();
  // What is still under way does not matter any more.
  absl::Status stop();

  VirtioDriver& driver() { return driver_; }
  NetClient& client() { return *client_; }
  void drop_client() { client_ = nullptr; }

 private:
  const Options options_;
  VirtioDriver driver_;
  std::unique_ptr<NetClient> client_;
};

// Two ports of one VM, one loop and one thread.
struct TwoPorts {
  TwoPorts(VhostUserAddress address_a, VhostUserAddress address_b,
           const NetPort::Options& options = {})
      : a(vm, loop.get(), std::move(address_a), options),
        b(vm, loop.get(), std::move(address_b), options) {}

  absl::Status start();
  absl::Status stop();

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop = *EpollEventLoop::create();
  TestVm vm{*loop};
  NetPort a;
  NetPort b;
};

}  // namespace vhost::testing

#endif  // TESTS_NET_NET_PORT_H_
