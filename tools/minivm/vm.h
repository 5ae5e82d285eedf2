// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_VM_H_
#define TOOLS_MINIVM_VM_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/control.h"
#include "tools/minivm/device.h"
#include "tools/minivm/incoming.h"
#include "tools/minivm/memory.h"
#include "tools/minivm/options.h"
#include "tools/minivm/outgoing.h"
#include "tools/minivm/pauser.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// One virtual machine, all of it: memory, devices, a guest and its workload, a
// control socket.  Nothing of it is global: a process may have several.  Loop
// thread.
class Vm {
 public:
  // Makes the memory and connects the devices, and waits for that; the loop
  // need not turn yet, and outlives the VM.
  // Errors: of what failed, with the device's name.
  static absl::StatusOr<std::unique_ptr<Vm>> create(EventLoop& loop,
                                                    const RunOptions& options);
  // Kills the guest if it runs.
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Lets the guest run, or waits for one that moves here.  `ended` runs once,
  // on the loop, when its workload is over, or could not begin, or when it
  // moved away; close() is next.
  void start(absl::AnyInvocable<void()> ended);
  // Stops the devices and waits for that; not in a callback of the loop.  What
  // fails is part of the report.
  void close();

  // Asks the guest to check everything and to end; it goes on if it is paused.
  // Where it makes no progress for a minute, or at a second call, it is killed,
  // which is a fault.  A migration is cancelled first; one that cannot be any
  // more ends as it does.
  void finish();

  // What `minivm ctl` may ask.
  void handle(const Request& request, ControlServer::Answer answer);

  // What the guest did, and what went wrong outside of it.
  WorkloadReport report() const;

  // Where a guest may move to ("tcp:127.0.0.1:4444"); empty: nowhere.
  std::string incoming_address() const;

  // What its devices share: the dirty log, and memory slots.
  VhostContext& context() { return context_; }

 private:
  Vm(EventLoop& loop, const RunOptions& options);
  absl::Status build();

  // A place for a guest from elsewhere.
  absl::StatusOr<std::unique_ptr<Platform>> make_incoming(bool connect);
  // Whether one came that does not run, and perhaps does nowhere else.
  bool has_copy() const;
  VmMigration::Parts migration_parts();
  void take_platform(std::unique_ptr<Platform> platform);
  absl::StatusOr<VmMigration::Parts> renew();
  absl::Status build_incoming();
  absl::Status build_control();

  void start_guest(const absl::Status& prepared);
  absl::Status run_guest();
  void guest_ended();
  void end();
  // A migration is over, one way or the other.
  void migrated();
  void did_not_arrive(const absl::Status& why);
  void pause(const Request& request, ControlServer::Answer answer);
  void take_over(ControlServer::Answer answer);
  // Why `verb` cannot be done now; OK: it can.
  absl::Status check(Verb verb) const;
  // Where it is to finish: the next step, once nothing else is under way.
  void go_on_finishing();
  void watch_progress();
  // Tells `answer` what became of a pause or a resume.
  Completion answering(ControlServer::Answer answer);
  void kill(const absl::Status& why);

  std::string state() const;
  ctl::Json status() const;
  ctl::Json stats() const;
  void add_memory(uint64_t size, ControlServer::Answer answer);
  void remove_memory(uint64_t id, ControlServer::Answer answer);
  absl::Status set_masked(const Request& request, bool masked);

  EventLoop& loop_;
  const RunOptions options_;
  bool started_ = false;
  bool used_ = false;  // By an attempt to take a guest.
  bool finishing_ = false;
  bool guest_over_ = false;
  bool moved_ = false;
  bool over_ = false;
  std::string failure_;  // Outside of the guest; empty: none.
  absl::AnyInvocable<void()> ended_;
  // While it finishes: what it did last, and when that was.
  uint64_t progress_ = 0;
  MonotonicTime progress_at_;
  std::unique_ptr<EventLoop::Timer> progress_timer_;

  // What is posted may come after this is gone.
  std::shared_ptr<char> alive_ = std::make_shared<char>();

  // ORDER: of destruction; each uses those before it.
  AddressSpace address_space_;
  VhostContext context_;
  GuestMemory memory_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<Pauser> pauser_;
  std::unique_ptr<Outgoing> outgoing_;
  std::unique_ptr<Incoming> incoming_;  // Null: it began with a guest.
  std::unique_ptr<ControlServer> control_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_VM_H_
