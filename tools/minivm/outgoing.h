// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_OUTGOING_H_
#define TOOLS_MINIVM_OUTGOING_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "tools/minivm/channel.h"
#include "tools/minivm/control.h"
#include "tools/minivm/request.h"
#include "tools/minivm/vm_migration.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/migration.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// The guest of a VM leaves: for another host, or for a file.  One attempt at a
// time; after one that failed there may be another.  Loop thread.
class Outgoing {
 public:
  // `over` is called whenever an attempt is, after its answer was given, and
  // whenever the guest came back (take_back).  All parts outlive this.
  Outgoing(VhostContext& context, VmMigration::Parts parts,
           absl::AnyInvocable<void()> over);
  // An attempt under way is dropped.
  ~Outgoing();
  Outgoing(const Outgoing&) = delete;
  Outgoing& operator=(const Outgoing&) = delete;

  // Verbs migrate and save; the guest runs.  The answer comes when it is over:
  // migration_json(), or the error with who has the guest.
  // Errors: kFailedPrecondition  an attempt is under way.
  //         as ChannelConnector; of the file.
  //         as MigrationSource::start and save.
  void begin(const Request& request, ControlServer::Answer answer);

  // Errors: as MigrationSource::cancel.
  absl::Status cancel();

  // The guest is not at the other side and never will be: it goes on here.
  // Errors: as MigrationSource::take_back.
  void take_back(Completion done);

  // An attempt is under way, a taking back included.
  bool busy() const { return busy_; }
  // The guest is as it was before: nothing was tried, or it failed.
  bool has_guest() const;
  // How the last attempt ended; kNone before the first and during one.
  MigrationOutcome outcome() const;
  // Whether memory may still be added: nobody prepares for the end yet.
  bool takes_memory() const;
  // Null: nothing was tried yet.
  ctl::Json json() const;

 private:
  void connected(absl::StatusOr<UniqueFd> channel);
  // The file is open, and not yet under its name.
  absl::Status open_file();
  absl::Status keep_file();
  void moved(const absl::Status& status);
  void finish(const absl::Status& status);
  Completion then(void (Outgoing::*step)(const absl::Status&));

  VhostContext& context_;
  const VmMigration::Parts parts_;
  absl::AnyInvocable<void()> over_;
  bool busy_ = false;
  Request request_;
  ControlServer::Answer answer_;
  absl::Status failure_;  // Before the migration itself could begin.
  UniqueFd file_;
  std::unique_ptr<ChannelConnector> connector_;
  // ORDER: of destruction; the second uses the first.
  std::optional<VmMigration> vmm_;
  std::unique_ptr<MigrationSource> source_;
  // What is posted may come after this is gone.
  std::shared_ptr<Outgoing*> self_ = std::make_shared<Outgoing*>(this);
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_OUTGOING_H_
