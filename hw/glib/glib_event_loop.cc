// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/glib_event_loop.h"

#include <glib-unix.h>
#include <glib.h>

#include <memory>
#include <thread>
#include <utility>

namespace vhost {
namespace {

struct SourceDeleter {
  void operator()(GSource* source) const {
    g_source_destroy(source);
    g_source_unref(source);
  }
};
using Source = std::unique_ptr<GSource, SourceDeleter>;

struct ContextDeleter {
  void operator()(GMainContext* context) const {
    g_main_context_unref(context);
  }
};

GIOCondition to_condition(IoEvents wanted) {
  return static_cast<GIOCondition>((wanted.readable ? G_IO_IN : 0) |
                                   (wanted.writable ? G_IO_OUT : 0) | G_IO_HUP |
                                   G_IO_ERR);
}

IoEvents from_condition(GIOCondition found) {
  return {.readable = (found & G_IO_IN) != 0,
          .writable = (found & G_IO_OUT) != 0,
          .hung_up = (found & (G_IO_HUP | G_IO_ERR)) != 0};
}

// GLib owns `callback` and holds it through a dispatch, so a callback may end
// its own watch: that is how a lost back-end is let go.
template <typename T>
void set_callback(GSource* source, GSourceFunc dispatch, T callback) {
  g_source_set_callback(source, dispatch, new T(std::move(callback)),
                        [](gpointer data) { delete static_cast<T*>(data); });
}

class GlibWatch final : public EventLoop::Watch {
 public:
  GlibWatch(GMainContext* context, FdRef fd, IoEvents wanted,
            EventLoop::IoCallback callback)
      : context_(context),
        fd_(fd),
        wanted_(wanted),
        callback_(
            std::make_shared<EventLoop::IoCallback>(std::move(callback))) {
    attach();
  }

  // The condition of GLib's fd source cannot be changed: a new one takes over.
  void set_events(IoEvents wanted) override {
    if (wanted == wanted_) return;
    wanted_ = wanted;
    attach();
  }

 private:
  using Shared = std::shared_ptr<EventLoop::IoCallback>;

  void attach() {
    source_.reset(g_unix_fd_source_new(fd_.get(), to_condition(wanted_)));
    GUnixFDSourceFunc dispatch = [](gint, GIOCondition found,
                                    gpointer data) -> gboolean {
      const Shared callback = *static_cast<Shared*>(data);
      (*callback)(from_condition(found));
      return G_SOURCE_CONTINUE;
    };
    set_callback(source_.get(), G_SOURCE_FUNC(dispatch), callback_);
    g_source_attach(source_.get(), context_);
  }

  GMainContext* context_;
  FdRef fd_;
  IoEvents wanted_;
  Shared callback_;
  Source source_;
};

class GlibTimer final : public EventLoop::Timer {
 public:
  GlibTimer(GMainContext* context, MonotonicTime when,
            EventLoop::Callback callback)
      : source_(g_timeout_source_new(0)) {
    // GLib's clock and steady_clock are both CLOCK_MONOTONIC; rounded up, a
    // timer is never early.
    const auto us =
        std::chrono::ceil<std::chrono::microseconds>(when.time_since_epoch());
    g_source_set_ready_time(source_.get(), us.count());
    GSourceFunc dispatch = [](gpointer data) -> gboolean {
      (*static_cast<EventLoop::Callback*>(data))();
      return G_SOURCE_REMOVE;
    };
    set_callback(source_.get(), dispatch, std::move(callback));
    g_source_attach(source_.get(), context);
  }

 private:
  Source source_;
};

class GlibEventLoop final : public EventLoop {
 public:
  explicit GlibEventLoop(GMainContext* context)
      : context_(g_main_context_ref(context)) {}

  std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                               IoCallback callback) override {
    return std::make_unique<GlibWatch>(context_.get(), fd, wanted,
                                       std::move(callback));
  }

  std::unique_ptr<Timer> timer(MonotonicTime when, Callback callback) override {
    return std::make_unique<GlibTimer>(context_.get(), when,
                                       std::move(callback));
  }

  // Sources of one priority are dispatched in the order they were attached.
  void post(Callback callback) override {
    GSource* source = g_idle_source_new();
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    GSourceFunc dispatch = [](gpointer data) -> gboolean {
      (*static_cast<Callback*>(data))();
      return G_SOURCE_REMOVE;
    };
    set_callback(source, dispatch, std::move(callback));
    g_source_attach(source, context_.get());
    g_source_unref(source);
  }

  bool on_loop_thread() const override {
    return std::this_thread::get_id() == thread_;
  }

 private:
  std::unique_ptr<GMainContext, ContextDeleter> context_;
  const std::thread::id thread_ = std::this_thread::get_id();
};

}  // namespace

std::unique_ptr<EventLoop> make_glib_event_loop(GMainContext* context) {
  return std::make_unique<GlibEventLoop>(
      context != nullptr ? context : g_main_context_default());
}

}  // namespace vhost
