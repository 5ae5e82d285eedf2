// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/gated_loop.h"

#include <fcntl.h>

#include <atomic>
#include <utility>
#include <vector>

#include "vhostdev/unique_fd.h"

namespace vhost {

// Loop thread only, but for `loop` and `gone`.
struct GatedLoop::Gate {
  explicit Gate(EventLoop& real) : loop(real) {}

  // On the loop's thread: now or, from the worker, soon.
  void on_loop(Callback work) {
    if (loop.on_loop_thread()) {
      work();
    } else {
      loop.post(std::move(work));
    }
  }

  // Runs a callback of the back-end.
  template <typename Work>
  void enter(Work work) {
    ++depth;
    work();
    if (--depth > 0) return;
    for (Callback& next : std::exchange(outside, {})) next();
  }

  // Runs what was posted, if not now then when the gate opens.
  static void pass(const std::shared_ptr<Gate>& gate, Callback callback) {
    if (gate->gone) return;
    if (!gate->closed) return gate->enter(std::move(callback));
    gate->held.push_back([weak = std::weak_ptr<Gate>(gate),
                          callback = std::move(callback)]() mutable {
      const std::shared_ptr<Gate> alive = weak.lock();
      if (alive != nullptr) pass(alive, std::move(callback));
    });
  }

  EventLoop& loop;
  bool closed = false;
  std::atomic<bool> gone = false;  // The back-end is; by whoever has it.
  int depth = 0;
  std::vector<Callback> held;     // Until the gate opens.
  std::vector<Callback> outside;  // Until depth is 0.
};

// A watch or a timer.  The real one belongs to the loop's thread.
struct GatedLoop::Source {
  std::shared_ptr<Gate> gate;
  std::atomic<bool> cancelled = false;  // By whoever has the back-end.
  UniqueFd fd;
  IoEvents wanted;
  IoCallback on_io;
  Callback on_time;
  std::unique_ptr<Watch> watch;
  std::unique_ptr<Timer> timer;

  static void listen(const std::shared_ptr<Source>& self) {
    if (self->cancelled) return;
    const std::weak_ptr<Source> weak = self;
    if (!self->fd.valid()) {
      // No descriptor was left: what cannot be watched is as good as hung up.
      self->gate->loop.post([weak] {
        const std::shared_ptr<Source> source = weak.lock();
        if (source != nullptr) ready(source, {.hung_up = true});
      });
      return;
    }
    self->watch =
        self->gate->loop.watch(self->fd, self->wanted, [weak](IoEvents events) {
          const std::shared_ptr<Source> source = weak.lock();
          if (source != nullptr) ready(source, events);
        });
  }

  static void ready(const std::shared_ptr<Source>& self, IoEvents events) {
    Gate& gate = *self->gate;
    if (self->cancelled) return;
    if (gate.closed) {
      // Level triggered: it says so again when it is watched again.  A hung-up
      // descriptor would say so all the time.
      self->watch.reset();
      gate.held.push_back([weak = std::weak_ptr<Source>(self)] {
        if (const auto source = weak.lock()) listen(source);
      });
      return;
    }
    const std::shared_ptr<Gate> keep = self->gate;
    keep->enter([&] { self->on_io(events); });
  }

  static void due(const std::shared_ptr<Source>& self) {
    if (self->cancelled) return;
    if (self->gate->closed) {
      self->gate->held.push_back([weak = std::weak_ptr<Source>(self)] {
        if (const auto source = weak.lock()) due(source);
      });
      return;
    }
    const std::shared_ptr<Gate> keep = self->gate;
    keep->enter([&] { self->on_time(); });
  }

  static void cancel(std::shared_ptr<Source> self) {
    self->cancelled = true;
    const std::shared_ptr<Gate> gate = self->gate;
    gate->on_loop([self = std::move(self)] {
      self->watch.reset();
      self->timer.reset();
    });
  }
};

class GatedLoop::WatchHandle final : public Watch {
 public:
  explicit WatchHandle(std::shared_ptr<Source> source)
      : source_(std::move(source)) {}
  ~WatchHandle() override { Source::cancel(std::move(source_)); }
  void set_events(IoEvents wanted) override {
    source_->gate->on_loop([source = source_, wanted] {
      source->wanted = wanted;
      if (source->watch != nullptr) source->watch->set_events(wanted);
    });
  }

 private:
  std::shared_ptr<Source> source_;
};

class GatedLoop::TimerHandle final : public Timer {
 public:
  explicit TimerHandle(std::shared_ptr<Source> source)
      : source_(std::move(source)) {}
  ~TimerHandle() override { Source::cancel(std::move(source_)); }

 private:
  std::shared_ptr<Source> source_;
};

GatedLoop::GatedLoop(EventLoop& loop) : gate_(std::make_shared<Gate>(loop)) {}

GatedLoop::~GatedLoop() { gate_->gone = true; }

void GatedLoop::close_gate() { gate_->closed = true; }

void GatedLoop::open_gate() {
  gate_->closed = false;
  // From the loop: the gate may be closed again by then.
  for (Callback& call : std::exchange(gate_->held, {})) {
    gate_->loop.post(std::move(call));
  }
}

bool GatedLoop::inside() const { return gate_->depth > 0; }

void GatedLoop::when_outside(Callback work) {
  if (inside()) {
    gate_->outside.push_back(std::move(work));
  } else {
    work();
  }
}

std::unique_ptr<EventLoop::Watch> GatedLoop::watch(FdRef fd, IoEvents wanted,
                                                   IoCallback callback) {
  auto source = std::make_shared<Source>();
  source->gate = gate_;
  source->fd = UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  source->wanted = wanted;
  source->on_io = std::move(callback);
  gate_->on_loop([source] { Source::listen(source); });
  return std::make_unique<WatchHandle>(std::move(source));
}

std::unique_ptr<EventLoop::Timer> GatedLoop::timer(MonotonicTime when,
                                                   Callback callback) {
  auto source = std::make_shared<Source>();
  source->gate = gate_;
  source->on_time = std::move(callback);
  gate_->on_loop([source, when] {
    if (source->cancelled) return;
    const std::weak_ptr<Source> weak = source;
    source->timer = source->gate->loop.timer(when, [weak] {
      const std::shared_ptr<Source> self = weak.lock();
      if (self != nullptr) Source::due(self);
    });
  });
  return std::make_unique<TimerHandle>(std::move(source));
}

void GatedLoop::post(Callback callback) {
  gate_->loop.post([gate = gate_, callback = std::move(callback)]() mutable {
    Gate::pass(gate, std::move(callback));
  });
}

bool GatedLoop::on_loop_thread() const { return gate_->loop.on_loop_thread(); }

MonotonicTime GatedLoop::now() const { return gate_->loop.now(); }

}  // namespace vhost
