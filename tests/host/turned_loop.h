// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_HOST_TURNED_LOOP_H_
#define TESTS_HOST_TURNED_LOOP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "vhostdev/event_loop.h"

namespace vhost::testing {

// The event loops that a device must work on alike.
enum class LoopKind : uint8_t { kEpoll, kGlib, kManual };
// Those of them that this build has.
std::vector<LoopKind> loop_kinds();
std::string name_of(LoopKind kind);
void PrintTo(LoopKind kind, std::ostream* out);

// A loop, and how a test turns it.
class TurnedLoop {
 public:
  virtual ~TurnedLoop() = default;
  virtual EventLoop& loop() = 0;

  // Does what there is to do.  If there is nothing, waits up to `wait` for it;
  // a ManualEventLoop lets that time pass instead.
  virtual void turn(Duration wait) = 0;

  // Turns until `done`; false after a thousand turns.
  bool turn_until(const std::function<bool()>& done,
                  Duration wait = std::chrono::milliseconds(5)) {
    for (int i = 0; i < 1000; ++i) {
      if (done()) return true;
      turn(wait);
    }
    return done();
  }
};
std::unique_ptr<TurnedLoop> make_turned_loop(LoopKind kind);

}  // namespace vhost::testing

#endif  // TESTS_HOST_TURNED_LOOP_H_
