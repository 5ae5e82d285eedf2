// SPDX-License-Identifier: Apache-2.0
// A guest in a file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "tests/migration/engine/pair.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

class File : public MigrationPair {
 protected:
  File() : MigrationPair(1), file_(::memfd_create("guest", MFD_CLOEXEC)) {
    source = std::make_unique<MigrationSource>(loop, source_vmm.context,
                                               source_vmm, source_options);
    destination = std::make_unique<MigrationDestination>(
        loop, destination_vmm.context, destination_vmm, destination_options);
  }

  UniqueFd open() const {
    return UniqueFd(::open(path().c_str(), O_RDWR | O_CLOEXEC));
  }
  std::string path() const {
    return "/proc/self/fd/" + std::to_string(file_.get());
  }
  off_t size() const {
    struct stat info {};
    EXPECT_EQ(::fstat(file_.get(), &info), 0);
    return info.st_size;
  }

  void save() {
    source->save(open(), keep(source_status));
    ASSERT_TRUE(run_until([this] { return source_status.has_value(); }));
  }
  void restore() {
    destination_status.reset();
    destination->restore(open(), keep(destination_status));
    ASSERT_TRUE(run_until([this] { return destination_status.has_value(); }));
  }

  const UniqueFd file_;
};

TEST_F(File, HoldsAGuestWhole) {
  source_vmm.toys[0]->serve(3);
  save();
  ASSERT_TRUE(source_status->ok()) << *source_status;
  EXPECT_EQ(source_outcome(), MigrationOutcome::kMoved);
  EXPECT_FALSE(source_vmm.running);
  EXPECT_EQ(source->progress().stream, static_cast<uint64_t>(size()));
  restore();
  expect_moved();
  EXPECT_EQ(destination_vmm.toys[0]->backend().queues[0].base, VringBase{3});
}

TEST_F(File, IsASnapshotIfTheGuestGoesOn) {
  save();
  ASSERT_TRUE(source_status->ok()) << *source_status;
  const std::string then = source_vmm.content();
  ASSERT_TRUE(take_back().ok());
  EXPECT_TRUE(source_vmm.running);
  expect_devices_run(source_vmm);
  source_vmm.guest_writes(0x7000, 100, 0x99);
  restore();
  ASSERT_TRUE(destination_status->ok()) << *destination_status;
  EXPECT_TRUE(destination_vmm.content() == then);
}

TEST_F(File, ThatIsCutOffIsNoGuest) {
  save();
  const off_t whole = size();
  // Near its end every byte, before that here and there.
  for (off_t left = whole - 1; left >= 0;
       left -= left > whole - 100 ? 1 : 9973) {
    SCOPED_TRACE(left);
    ASSERT_EQ(::ftruncate(file_.get(), left), 0);
    restore();
    ASSERT_EQ(destination_status->code(), absl::StatusCode::kDataLoss)
        << *destination_status;
    ASSERT_EQ(destination_outcome(), MigrationOutcome::kNotMoved);
    ASSERT_FALSE(destination_vmm.running);
    expect_stopped(destination_vmm);
  }
  ASSERT_TRUE(take_back().ok());
}

TEST_F(File, ThatIsDamagedIsNoGuest) {
  save();
  const off_t whole = size();
  for (off_t at = 3; at < whole; at += 7919) {
    SCOPED_TRACE(at);
    std::byte byte;
    ASSERT_EQ(::pread(file_.get(), &byte, 1, at), 1);
    byte ^= std::byte{0x10};
    ASSERT_EQ(::pwrite(file_.get(), &byte, 1, at), 1);
    restore();
    ASSERT_FALSE(destination_status->ok());
    ASSERT_FALSE(destination_vmm.running);
    byte ^= std::byte{0x10};
    ASSERT_EQ(::pwrite(file_.get(), &byte, 1, at), 1);
  }
  restore();
  expect_moved();
}

TEST_F(File, ThatIsFullLeavesTheGuestRunning) {
  source->save(UniqueFd(::open("/dev/full", O_RDWR | O_CLOEXEC)),
               keep(source_status));
  ASSERT_TRUE(run_until([this] { return source_status.has_value(); }));
  EXPECT_EQ(source_outcome(), MigrationOutcome::kNotMoved);
  EXPECT_THAT(std::string(source_status->message()), HasSubstr("space"));
  EXPECT_TRUE(source_vmm.running);
  expect_devices_run(source_vmm);
}

TEST_F(File, MayBeAPipeThatNobodyReads) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  UniqueFd reader(fds[0]);
  source->save(UniqueFd(fds[1]), keep(source_status));
  loop.run_ready();
  reader.reset();
  ASSERT_TRUE(run_until([this] { return source_status.has_value(); }));
  EXPECT_EQ(source_status->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(source_outcome(), MigrationOutcome::kNotMoved);
  EXPECT_TRUE(source_vmm.running);
}

TEST_F(File, IsNothingThatIsNotOpen) {
  source->save(UniqueFd(), keep(source_status));
  destination->restore(UniqueFd(), keep(destination_status));
  ASSERT_TRUE(run());
  EXPECT_EQ(source_status->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(destination_status->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(source_vmm.running);
}

}  // namespace
}  // namespace vhost
