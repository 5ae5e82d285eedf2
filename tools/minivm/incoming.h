// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_INCOMING_H_
#define TOOLS_MINIVM_INCOMING_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/channel.h"
#include "tools/minivm/options.h"
#include "tools/minivm/vm_migration.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/migration.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// A VM that has no guest yet: one comes from another host, or from a file.
// Whoever connects while another one is being taken is let go at once.  Loop
// thread.
class Incoming {
 public:
  struct Hooks {
    // The parts of the VM, with nothing in them of an earlier attempt; they
    // outlive the next one.
    absl::AnyInvocable<absl::StatusOr<VmMigration::Parts>()> renew;
    // Lets the guest that was loaded run.
    absl::AnyInvocable<absl::Status()> start_guest;
    // It runs.  Called once.
    absl::AnyInvocable<void()> arrived;
    // None came, this time.  From a file: none will.
    absl::AnyInvocable<void(absl::Status)> failed;
  };

  // As --incoming or --restore of `options` say.
  // Errors: as ChannelListener::listen; of the file, with its name.
  static absl::StatusOr<std::unique_ptr<Incoming>> create(
      VhostContext& context, const RunOptions& options, Hooks hooks);
  // An attempt under way is dropped.
  ~Incoming();
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;

  // Takes guests from now on.
  void begin();

  // Takes none any more.  Errors: as MigrationDestination::cancel, where one is
  // being taken: `arrived` or `failed` is then still to come.
  absl::Status cancel();

  // The source does not run the guest and never will: it is started here.
  // Errors: as MigrationDestination::take_over.
  void take_over(Completion done);

  bool busy() const { return busy_; }  // A guest is being taken.
  // How the last attempt ended; kNone before the first and during one.
  MigrationOutcome outcome() const;
  // Where it listens, with its port; empty: it does not.
  std::string address() const;
  // Null: nothing was tried yet.
  ctl::Json json() const;

 private:
  Incoming(VhostContext& context, Hooks hooks);

  absl::Status listen(const ChannelAddress& address);
  void accepted(UniqueFd channel);
  absl::Status prepare();
  void over(const absl::Status& status);
  Completion then_over();

  VhostContext& context_;
  Hooks hooks_;
  bool ready_ = false;  // begin() was called.
  bool busy_ = false;
  bool arrived_ = false;
  UniqueFd file_;   // Until it is read.
  UniqueFd early_;  // The first who connected before begin().
  std::unique_ptr<ChannelListener> listener_;
  // ORDER: of destruction; the second uses the first.
  std::optional<VmMigration> vmm_;
  std::unique_ptr<MigrationDestination> destination_;
  // What is posted may come after this is gone.
  std::shared_ptr<Incoming*> self_ = std::make_shared<Incoming*>(this);
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_INCOMING_H_
