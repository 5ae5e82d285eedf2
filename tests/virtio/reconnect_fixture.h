// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VIRTIO_RECONNECT_FIXTURE_H_
#define TESTS_VIRTIO_RECONNECT_FIXTURE_H_

#include <utility>

#include "tests/virtio/device_fixture.h"

namespace vhost {

// A device that is to get its back-end back.
class ReconnectTest : public DeviceTest {
 protected:
  static VhostDev::Options with_policy() {
    VhostDev::Options options = options_for();
    options.reconnect.emplace();
    return options;
  }
  void make(BackendTraits traits = testing::like_vhost_user(),
            VhostDev::Options options = with_policy()) {
    DeviceTest::make(std::move(traits), std::move(options));
  }
  void make_ready(BackendTraits traits = testing::like_vhost_user(),
                  VhostDev::Options options = with_policy()) {
    DeviceTest::make_ready(std::move(traits), std::move(options));
  }
  void make_running(BackendTraits traits = testing::like_vhost_user(),
                    VhostDev::Options options = with_policy()) {
    DeviceTest::make_running(std::move(traits), std::move(options));
  }

  // The back-end ends, and is there again at once.
  void lose() { ops->lose(absl::UnavailableError("gone")); }
  // It ends, and nobody is there for now.
  void go_away() {
    ops->away = absl::UnavailableError("nobody is there");
    lose();
  }
  void come_back() { ops->away = absl::OkStatus(); }

  absl::Status reset() {
    return drive([this](Completion done) { dev->reset(std::move(done)); });
  }
};

}  // namespace vhost

#endif  // TESTS_VIRTIO_RECONNECT_FIXTURE_H_
