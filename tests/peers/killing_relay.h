// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_KILLING_RELAY_H_
#define TESTS_PEERS_KILLING_RELAY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "backends/user/socket_io.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// Stands between a front-end and a back-end that cannot be told to die at a
// message: passes on what both say, and has the back-end killed when its n-th
// message is on its way.  One connection after another, on a thread of its own.
class KillingRelay {
 public:
  static constexpr uint64_t kNever = 0;

  // Listens at `from`; connects to `to`.  `kill` runs on the thread.
  KillingRelay(std::string from, std::string to, std::function<void()> kill)
      : from_(std::move(from)), to_(std::move(to)), kill_(std::move(kill)) {}
  ~KillingRelay();
  KillingRelay(const KillingRelay&) = delete;
  KillingRelay& operator=(const KillingRelay&) = delete;

  absl::Status start();

  // Once, at the `message`-th (from 1) of the front-end's from now on: before
  // the back-end has it, or after.  kNever: not at all.
  void kill_at(uint64_t message, bool before);

 private:
  void run();
  void serve(UniqueFd front);
  // Moves what there is from one to the other; false at the end.
  bool forward(FdRef front, FdRef back);
  static bool pass_on(FdRef from, FdRef to, size_t limit,
                      std::vector<std::byte>* copy);

  const std::string from_;
  const std::string to_;
  const std::function<void()> kill_;
  std::optional<user::Listener> listener_;
  std::atomic<bool> over_ = false;
  std::atomic<uint64_t> at_ = kNever;
  std::atomic<bool> before_ = false;
  std::thread thread_;

  // Of the message that the front-end is sending.
  std::vector<std::byte> header_;
  size_t payload_left_ = 0;
};

}  // namespace vhost::testing

#endif  // TESTS_PEERS_KILLING_RELAY_H_
