// SPDX-License-Identifier: Apache-2.0
#include <glib.h>

#include <utility>

#include "tools/minivm/main_loop.h"
#include "vhostdev/glib_event_loop.h"

namespace vhost::minivm {
namespace {

struct ContextDeleter {
  void operator()(GMainContext* context) const {
    g_main_context_unref(context);
  }
};
using Context = std::unique_ptr<GMainContext, ContextDeleter>;

// [glib]
class GlibMainLoop final : public MainLoop {
 public:
  GlibMainLoop()
      : context_(g_main_context_new()),
        loop_(make_glib_event_loop(context_.get())) {}

  EventLoop& loop() override { return *loop_; }

  absl::Status turn() override {
    g_main_context_iteration(context_.get(), TRUE);
    return absl::OkStatus();
  }

 private:
  // ORDER: of destruction; each uses those before it.
  Context context_;
  std::unique_ptr<EventLoop> loop_;
};
// [end]

}  // namespace

absl::StatusOr<std::unique_ptr<MainLoop>> MainLoop::create() {
  return std::make_unique<GlibMainLoop>();
}

}  // namespace vhost::minivm
