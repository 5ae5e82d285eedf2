// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_WORKER_H_
#define TOOLS_MINIVM_WORKER_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "tools/minivm/workload.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_bytes.h"

namespace vhost::minivm {

// A part of the guest that is played by a thread of this process: what it is
// told, and where it stands.  Methods on the loop's thread, if not said
// otherwise.
class Worker {
 public:
  enum class Command : uint8_t {
    kRun,
    kHold,    // Submit nothing more.
    kFinish,  // Check everything, then end.
    kKill,    // End now.
  };

  // Longest time between two looks at the command.
  static constexpr Duration kTurn = std::chrono::milliseconds(20);

  Worker(EventLoop& loop, std::string name);
  // It ended, or was never started.
  virtual ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Bytes that it takes of the driver's memory, at most; 0: it has them.
  virtual uint64_t memory_needed() const = 0;

  // `changed` runs on the loop whenever one of parked(), held() and ended() may
  // have become true.
  void start(absl::AnyInvocable<void()> changed);
  void set_paused(bool paused);
  void set_command(Command command);
  // kKill, and waits: a turn at most; a net's burst takes longer.
  void kill();

  // A part of Guest::save(): where it stands.  It is parked, or ended.
  // Errors: of the clients: a device was lost meanwhile.
  absl::Status save(StateWriter& out) const;
  // Goes on where another one stopped; before start().
  // Errors: the reader's; of the clients and the journal.
  absl::Status load(StateReader& in);

  bool parked() const;  // Paused, at a point between two requests.
  bool held() const;    // kHold, and nothing is in flight.
  bool ended() const;
  WorkloadReport report() const;

 protected:
  // What save() and load() do for one that has not ended.
  virtual absl::Status save_running(StateWriter& out) const = 0;
  virtual absl::Status load_running(StateReader& in) = 0;

  // What it does; on its thread.  It calls gate() at least once in a kTurn.
  // Errors: what it cannot go on after.
  virtual absl::Status run() = 0;

  // Waits here while the worker is paused, or held with nothing in flight.
  Command gate(bool idle);
  // `report` without its state and failure; the worker's thread.
  void publish(const WorkloadReport& report);
  void set_state(const char* state);

 private:
  void thread_main();
  void notify() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EventLoop& loop_;
  const std::string name_;
  mutable absl::Mutex mutex_;
  absl::CondVar told_;
  Command command_ ABSL_GUARDED_BY(mutex_) = Command::kRun;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool parked_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  const char* state_ ABSL_GUARDED_BY(mutex_) = "starting";
  WorkloadReport report_ ABSL_GUARDED_BY(mutex_);
  // Shared with what is posted: it may come after this is gone.
  std::shared_ptr<absl::AnyInvocable<void()>> changed_;
  std::thread thread_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_WORKER_H_
