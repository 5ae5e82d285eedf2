// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_NET_MODEL_PAIR_H_
#define TESTS_NET_MODEL_PAIR_H_

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "tests/net/net_port.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_net.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {

// Two model network cards joined by a cable, each served on a thread of its
// own, and a port for each.
class ModelPair : public ::testing::Test {
 protected:
  // `ports.pairs` are the cards' too.
  void make(NetPort::Options ports = {}) {
    cards.pairs = static_cast<uint16_t>(ports.pairs);
    backend_options.queues = 2 * ports.pairs;
    std::array<VhostUserAddress, 2> addresses;
    for (size_t i = 0; i < 2; ++i) {
      nets[i] = std::make_unique<ModelNet>(cards);
      backends[i] =
          std::make_unique<ModelBackend>(nets[i].get(), backend_options);
    }
    ModelNet::join(*nets[0], *nets[1]);
    for (size_t i = 0; i < 2; ++i) addresses[i] = connect(*backends[i]);
    two.emplace(addresses[0], addresses[1], ports);
  }
  void start(NetPort::Options ports = {}) {
    make(std::move(ports));
    const absl::Status status = two->start();
    ASSERT_TRUE(status.ok()) << status;
  }

  static VhostUserAddress connect(ModelBackend& backend);

  NetClient& a() { return two->a.client(); }
  NetClient& b() { return two->b.client(); }

  ModelNetOptions cards;
  ModelOptions backend_options;
  // ORDER: of destruction.
  std::array<std::unique_ptr<ModelNet>, 2> nets;
  std::array<std::unique_ptr<ModelBackend>, 2> backends;
  std::optional<TwoPorts> two;
};

}  // namespace vhost::testing

#endif  // TESTS_NET_MODEL_PAIR_H_
