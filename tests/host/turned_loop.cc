// SPDX-License-Identifier: Apache-2.0
#include "tests/host/turned_loop.h"

#include <gtest/gtest.h>
#ifdef VHOSTDEV_TEST_GLIB
#include <glib.h>
#endif

#include "vhostdev/glib_event_loop.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::testing {
namespace {

class EpollTurned final : public TurnedLoop {
 public:
  EventLoop& loop() override { return *loop_; }
  void turn(Duration wait) override { EXPECT_TRUE(loop_->run_once(wait).ok()); }

 private:
  std::unique_ptr<EpollEventLoop> loop_ = *EpollEventLoop::create();
};

#ifdef VHOSTDEV_TEST_GLIB
class GlibTurned final : public TurnedLoop {
 public:
  ~GlibTurned() override {
    loop_.reset();
    g_main_context_unref(context_);
  }
  EventLoop& loop() override { return *loop_; }
  void turn(Duration wait) override {
    if (wait == Duration(0)) {
      g_main_context_iteration(context_, FALSE);
      return;
    }
    const auto timer = loop_->timer(loop_->now() + wait, [] {});
    g_main_context_iteration(context_, TRUE);
  }

 private:
  GMainContext* context_ = g_main_context_new();
  std::unique_ptr<EventLoop> loop_ = make_glib_event_loop(context_);
};
#endif

class ManualTurned final : public TurnedLoop {
 public:
  EventLoop& loop() override { return loop_; }
  void turn(Duration wait) override { loop_.advance(wait); }

 private:
  ManualEventLoop loop_;
};

}  // namespace

std::vector<LoopKind> loop_kinds() {
  return {LoopKind::kEpoll,
#ifdef VHOSTDEV_TEST_GLIB
          LoopKind::kGlib,
#endif
          LoopKind::kManual};
}

std::string name_of(LoopKind kind) {
  switch (kind) {
    case LoopKind::kEpoll:
      return "Epoll";
    case LoopKind::kGlib:
      return "Glib";
    case LoopKind::kManual:
      return "Manual";
  }
  return "";
}

void PrintTo(LoopKind kind, std::ostream* out) { *out << name_of(kind); }

std::unique_ptr<TurnedLoop> make_turned_loop(LoopKind kind) {
  switch (kind) {
    case LoopKind::kEpoll:
      return std::make_unique<EpollTurned>();
#ifdef VHOSTDEV_TEST_GLIB
    case LoopKind::kGlib:
      return std::make_unique<GlibTurned>();
#endif
    default:
      return std::make_unique<ManualTurned>();
  }
}

}  // namespace vhost::testing
