// SPDX-License-Identifier: Apache-2.0
//
// A guest that goes on in another VM, over back-ends of its own.
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/minivm/vm_fixture.h"
#include "tools/minivm/driver_guest.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/memory.h"
#include "tools/minivm/pauser.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

// A VM without control socket: memory, devices, a guest.
class Host {
 public:
  explicit Host(EventLoop& loop)
      : context_(loop, address_space_),
        memory_(address_space_, context_, /*hugepages=*/false) {}

  absl::Status run(const RunOptions& options) {
    VHOST_RETURN_IF_ERROR(memory_.create(options.memory));
    return take(make_driver_platform(context_, address_space_, options));
  }

  // A place for the guest of `from`, with its memory.
  absl::Status receive(Host& from, const RunOptions& options) {
    VHOST_RETURN_IF_ERROR(memory_.create(from.memory_.pieces()));
    VHOST_RETURN_IF_ERROR(
        take(make_incoming_driver_platform(context_, address_space_, options)));
    for (const auto& region : from.platform_->driver_memory()->regions()) {
      VHOST_RETURN_IF_ERROR(platform_->driver_memory()->add_region(region));
      std::memcpy(address_space_.translate(region.gpa, region.size),
                  region.host, region.size);
    }
    return absl::OkStatus();
  }

  void close() { platform_ = nullptr; }

  Platform& platform() { return *platform_; }
  Guest& guest() { return platform_->guest(); }
  Pauser& pauser() { return *pauser_; }
  GuestMemory& memory() { return memory_; }

 private:
  absl::Status take(absl::StatusOr<std::unique_ptr<Platform>> platform) {
    if (!platform.ok()) return platform.status();
    platform_ = *std::move(platform);
    pauser_ = std::make_unique<Pauser>(context_.loop(), platform_->guest(),
                                       platform_->devices());
    return absl::OkStatus();
  }

  AddressSpace address_space_;
  VhostContext context_;
  GuestMemory memory_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<Pauser> pauser_;
};

class MoveTest : public VmFixture {
 protected:
  MoveTest() : disk_(*testing::ModelBlk::on_memory(kVmDiskSize)) {}
  ~MoveTest() override {
    for (const auto& host : {here_.get(), there_.get()}) {
      if (host != nullptr) host->guest().kill();
    }
  }

  // Another back-end of the same disk, behind the socket it returns.
  std::string serve() {
    backend_ = nullptr;
    const std::string socket = dir_.file(absl::StrCat("disk", served_++));
    backend_ = std::make_unique<testing::ModelBackend>(disk_.get());
    EXPECT_TRUE(backend_->listen_on(socket).ok());
    EXPECT_TRUE(backend_->start_thread().ok());
    return socket;
  }

  void make_here(const RunOptions& options) {
    here_ = std::make_unique<Host>(main_->loop());
    const absl::Status made = here_->run(options);
    ASSERT_TRUE(made.ok()) << made;
    ASSERT_TRUE(here_->guest().start([] {}).ok());
  }

  void get_on(Host& host, uint64_t count = 200) {
    const auto done = [&host] {
      const WorkloadReport now = host.guest().report();
      return now.reads + now.writes + now.frames_received;
    };
    const uint64_t before = done();
    ASSERT_TRUE(turn_until([&] {
      return done() >= before + count || !host.guest().report().failure.empty();
    }));
    ASSERT_EQ(host.guest().report().failure, "");
  }

  void pause(Host& host) {
    absl::Status paused = absl::UnknownError("never");
    host.pauser().pause(true, [&paused](absl::Status s) { paused = s; });
    ASSERT_TRUE(turn_until([&paused] { return !absl::IsUnknown(paused); }));
    ASSERT_TRUE(paused.ok()) << paused;
  }

  // The guest pauses here and is saved.
  void leave() {
    ASSERT_NO_FATAL_FAILURE(pause(*here_));
    auto saved = here_->guest().save();
    ASSERT_TRUE(saved.ok()) << saved.status();
    state_ = *std::move(saved);
    before_ = here_->guest().report();
  }

  // Its memory goes there, where `options` says what back-ends there are.
  void arrive(RunOptions options) {
    options.workload = {};
    there_ = std::make_unique<Host>(main_->loop());
    const absl::Status made = there_->receive(*here_, options);
    ASSERT_TRUE(made.ok()) << made;
  }

  // Both, of a guest with the disk.
  void move_memory(RunOptions options) {
    ASSERT_NO_FATAL_FAILURE(leave());
    options.devices[0].path = serve();
    arrive(options);
  }

  // And goes on there.
  void go_on() {
    const absl::Status loaded = there_->guest().load(state_);
    ASSERT_TRUE(loaded.ok()) << loaded;
    const WorkloadReport now = there_->guest().report();
    EXPECT_EQ(now.writes, before_.writes);
    EXPECT_EQ(now.reads, before_.reads);
    EXPECT_EQ(now.in_flight, before_.in_flight);
    here_->guest().kill();
    here_->close();
    here_ = nullptr;
    for (Device* const device : there_->platform().devices()) {
      absl::Status started = absl::UnknownError("never");
      device->resume([&started](absl::Status s) { started = s; });
      ASSERT_TRUE(turn_until([&] { return !absl::IsUnknown(started); }));
      ASSERT_TRUE(started.ok()) << started;
    }
    ASSERT_TRUE(there_->guest().start([this] { ended_ = true; }).ok());
  }

  void finish() {
    there_->guest().finish();
    ASSERT_TRUE(turn_until([this] { return ended_; }));
    const WorkloadReport report = there_->guest().report();
    EXPECT_EQ(report.total_faults(), 0u)
        << report.first_fault << report.failure;
    EXPECT_GE(report.writes, before_.writes);
    EXPECT_TRUE(there_->platform().close().ok());
  }

  std::unique_ptr<testing::ModelBlk> disk_;
  std::unique_ptr<testing::ModelBackend> backend_;
  int served_ = 0;
  std::unique_ptr<Host> here_;
  std::unique_ptr<Host> there_;
  std::string state_;
  WorkloadReport before_;
  bool ended_ = false;
};

// The journal of the first host judges what the second one reads.
TEST_F(MoveTest, ADisksGuestGoesOnAndFindsAllItWrote) {
  const RunOptions options = this->options(serve());
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_, 2000));
  ASSERT_NO_FATAL_FAILURE(move_memory(options));
  ASSERT_NO_FATAL_FAILURE(go_on());
  ASSERT_NO_FATAL_FAILURE(get_on(*there_));
  finish();
  EXPECT_GT(there_->guest().report().writes, before_.writes);
}

TEST_F(MoveTest, ItMovesOnAndOnAndMeanwhileItPolls) {
  RunOptions options = this->options(serve());
  options.workload.polled = true;
  options.workload.seed = 77;
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(get_on(*here_));
    ASSERT_NO_FATAL_FAILURE(move_memory(options));
    ASSERT_NO_FATAL_FAILURE(go_on());
    here_ = std::move(there_);
  }
  there_ = std::move(here_);
  ASSERT_NO_FATAL_FAILURE(get_on(*there_));
  finish();
}

TEST_F(MoveTest, ACheckThatIsUnderWayIsFinishedThere) {
  const RunOptions options = this->options(serve());
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_, 2000));
  here_->guest().finish();
  ASSERT_TRUE(turn_until(
      [this] { return here_->guest().report().state != "running"; }));
  ASSERT_NO_FATAL_FAILURE(move_memory(options));
  ASSERT_NO_FATAL_FAILURE(go_on());
  ASSERT_TRUE(turn_until([this] { return ended_; }));
  EXPECT_EQ(there_->guest().report().writes, before_.writes);
  EXPECT_EQ(there_->guest().report().total_faults(), 0u);
}

TEST_F(MoveTest, AfterAMoveThatFailedItGoesOnWhereItWas) {
  const RunOptions options = this->options(serve());
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
  ASSERT_NO_FATAL_FAILURE(pause(*here_));
  ASSERT_TRUE(here_->guest().save().ok());
  absl::Status resumed = absl::UnknownError("never");
  here_->pauser().resume([&resumed](absl::Status s) { resumed = s; });
  ASSERT_TRUE(turn_until([&] { return !absl::IsUnknown(resumed); }));
  ASSERT_TRUE(resumed.ok()) << resumed;
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
}

TEST_F(MoveTest, OnlyAPausedGuestIsSavedAndOnlyAnEmptyOneLoaded) {
  const RunOptions options = this->options(serve());
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  EXPECT_EQ(here_->guest().save().status().code(), kPrecondition);
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
  ASSERT_NO_FATAL_FAILURE(pause(*here_));
  const auto saved = here_->guest().save();
  ASSERT_TRUE(saved.ok());
  EXPECT_EQ(here_->guest().load(*saved).code(), kPrecondition);
}

// Whatever is cut off, nothing of it runs.
TEST_F(MoveTest, ATruncatedStateIsRefused) {
  RunOptions options = this->options(serve());
  options.workload.size = 16 * 4096;
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
  ASSERT_NO_FATAL_FAILURE(leave());
  constexpr size_t kCuts = 24;
  for (size_t i = 0; i < kCuts; ++i) {
    options.devices[0].path = serve();
    ASSERT_NO_FATAL_FAILURE(arrive(options));
    const size_t size = state_.size() * i / kCuts;
    const absl::Status loaded = there_->guest().load(state_.substr(0, size));
    EXPECT_EQ(loaded.code(), absl::StatusCode::kDataLoss) << loaded;
    EXPECT_THAT(std::string(loaded.message()), HasSubstr("load: "));
  }
  options.devices[0].path = serve();
  ASSERT_NO_FATAL_FAILURE(arrive(options));
  EXPECT_EQ(there_->guest().load(state_ + "x").code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(MoveTest, AVmWithOtherDevicesIsNoPlaceForIt) {
  const RunOptions options = this->options(serve());
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
  ASSERT_NO_FATAL_FAILURE(leave());
  RunOptions other = options;
  other.devices[0].path = serve();
  other.devices[0].queues = 2;
  ASSERT_NO_FATAL_FAILURE(arrive(other));
  EXPECT_EQ(there_->guest().load(state_).code(), kInvalid);
}

// Two network cards with a cable between them, whose back-ends have successors.
class MovingNets {
 public:
  MovingNets() { testing::ModelNet::join(near_, far_); }

  void serve(const std::string& near, const std::string& far) {
    near_end_ = nullptr;
    far_end_ = nullptr;
    near_end_ = serve(near_, near);
    far_end_ = serve(far_, far);
  }

 private:
  static std::unique_ptr<testing::ModelBackend> serve(
      testing::ModelNet& net, const std::string& socket) {
    testing::ModelOptions options;
    options.queues = 2;
    auto out = std::make_unique<testing::ModelBackend>(&net, options);
    EXPECT_TRUE(out->listen_on(socket).ok());
    EXPECT_TRUE(out->start_thread().ok());
    return out;
  }

  testing::ModelNet near_;
  testing::ModelNet far_;
  std::unique_ptr<testing::ModelBackend> near_end_;
  std::unique_ptr<testing::ModelBackend> far_end_;
};

using NetMoveTest = MoveTest;

TEST_F(NetMoveTest, NetsGoOnToo) {
  RunOptions options = nets_options();
  auto nets = std::make_unique<MovingNets>();
  nets->serve(options.devices[0].path, options.devices[1].path);
  ASSERT_NO_FATAL_FAILURE(make_here(options));
  ASSERT_NO_FATAL_FAILURE(get_on(*here_));
  options.devices[0].path = dir_.file("near2");
  options.devices[1].path = dir_.file("far2");
  ASSERT_NO_FATAL_FAILURE(leave());
  nets->serve(options.devices[0].path, options.devices[1].path);
  ASSERT_NO_FATAL_FAILURE(arrive(options));
  ASSERT_NO_FATAL_FAILURE(go_on());
  ASSERT_NO_FATAL_FAILURE(get_on(*there_));
  there_->guest().finish();
  ASSERT_TRUE(turn_until([this] { return ended_; }));
  const WorkloadReport report = there_->guest().report();
  EXPECT_EQ(report.total_faults(), 0u) << report.first_fault << report.failure;
  EXPECT_GT(report.frames_received, before_.frames_received);
  EXPECT_GT(report.received_by.at("net0"), 0u);
}

// ---------------------------------------------------------------------------

class GuestMemoryTest : public VmFixture {};

TEST_F(GuestMemoryTest, IsMadeAgainWhereItWas) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  AddressSpace memory;
  VhostContext context{main_->loop(), memory};
  GuestMemory pieces(memory, context, false);
  const std::vector<GuestMemory::Piece> wanted = {
      {.id = 0, .gpa = 0, .size = 8 * kMiB},
      {.id = 5, .gpa = kAddedMemoryBase + 64 * kMiB, .size = 2 * kMiB}};
  ASSERT_TRUE(pieces.create(wanted).ok());
  ASSERT_EQ(pieces.pieces().size(), 2u);
  EXPECT_EQ(pieces.pieces()[1].id, 5u);
  EXPECT_EQ(pieces.pieces()[1].name(), "ram5");
  EXPECT_NE(memory.translate(wanted[1].gpa, wanted[1].size), nullptr);
  absl::Status added = absl::UnknownError("never");
  const auto add = [&](const GuestMemory::Piece& piece) {
    added = absl::UnknownError("never");
    pieces.add(piece, [&added](absl::Status s) { added = s; });
    EXPECT_TRUE(turn_until([&added] { return !absl::IsUnknown(added); }));
    return added.code();
  };
  EXPECT_EQ(add({.id = 6, .gpa = kAddedMemoryBase, .size = kMiB}),
            absl::StatusCode::kOk);
  EXPECT_EQ(add({.id = 6, .gpa = kAddedMemoryBase + 2 * kMiB, .size = kMiB}),
            kInvalid);
  EXPECT_EQ(add({.id = 7, .gpa = kAddedMemoryBase, .size = kMiB}), kInvalid);
  EXPECT_EQ(add({.id = 7, .gpa = kMiB, .size = kMiB}), kInvalid);
  EXPECT_EQ(add({.id = 7, .gpa = kAddedMemoryBase + 100, .size = kMiB}),
            kInvalid);
  EXPECT_EQ(add({.id = 0, .gpa = 0, .size = kMiB}), kInvalid);
  // The next one has an id of its own.
  uint64_t next = 0;
  pieces.add(kMiB, [&next](const absl::StatusOr<GuestMemory::Piece>& piece) {
    next = piece.ok() ? piece->id : 99;
  });
  ASSERT_TRUE(turn_until([&next] { return next != 0; }));
  EXPECT_EQ(next, 7u);
}

TEST_F(GuestMemoryTest, PiecesOfNoVmAreRefusedAndNothingHappened) {
  AddressSpace memory;
  VhostContext context{main_->loop(), memory};
  GuestMemory pieces(memory, context, false);
  const GuestMemory::Piece first = {.id = 0, .gpa = 0, .size = 4096};
  const auto code_of = [&](std::vector<GuestMemory::Piece> wanted) {
    return pieces.create(wanted).code();
  };
  EXPECT_EQ(code_of({}), kInvalid);
  EXPECT_EQ(code_of({{.id = 1, .gpa = kAddedMemoryBase, .size = 4096}}),
            kInvalid);
  EXPECT_EQ(code_of({first, first}), kInvalid);
  EXPECT_EQ(code_of({first, {.id = 1, .gpa = 4096, .size = 4096}}), kInvalid);
  EXPECT_EQ(code_of({first, {.id = 1, .gpa = kAddedMemoryBase, .size = 5}}),
            kInvalid);
  EXPECT_EQ(code_of({{.id = 0, .gpa = 0, .size = uint64_t{4} << 30}}),
            kInvalid);
  EXPECT_TRUE(memory.sections().empty());
  EXPECT_EQ(code_of({first}), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace vhost::minivm
