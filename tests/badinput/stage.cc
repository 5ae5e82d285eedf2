// SPDX-License-Identifier: Apache-2.0
#include "tests/badinput/stage.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>

namespace vhost::badinput {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kFirstDimm = 16 * kMiB;
constexpr uint64_t kSecondDimm = 32 * kMiB;
constexpr uint32_t kConfigSize = 60;
constexpr unsigned kBlkConfigWce = 11;
constexpr uint32_t kWriteback = 32;  // Its byte in the configuration space.
// How time passes where nothing moves.
constexpr Duration kTick = std::chrono::milliseconds(5);

VhostDev::Options device_options(VhostDev::Options options, MaskMode masks) {
  options.name = "disk";
  options.queues = QueueMap::identity(2);
  options.config_size = kConfigSize;
  options.mask_mode = masks;
  options.init_timeout = std::chrono::seconds(1);
  options.start_timeout = std::chrono::seconds(1);
  options.drain_timeout = std::chrono::milliseconds(300);
  return options;
}

void prepare_nothing(Stage&) {}
void prepare_ready(Stage& stage) { ASSERT_TRUE(stage.init().status.ok()); }
void prepare_running(Stage& stage) { stage.run(); }

void prepare_dimm(Stage& stage) {
  ASSERT_TRUE(stage.memory.add(stage.dimm(kFirstDimm)).ok());
  stage.run();
}

// One section goes and another comes.
void change_memory(Stage& stage, Completion done) {
  stage.memory.begin();
  EXPECT_TRUE(stage.memory.remove(kFirstDimm).ok());
  EXPECT_TRUE(stage.memory.add(stage.dimm(kSecondDimm)).ok());
  EXPECT_EQ(stage.memory.commit(), absl::OkStatus());
  stage.context.when_memory_settled(std::move(done));
}

// Nobody waits for what a mask tells the back-end: over when it is told, or
// the device is broken.
void watch_mask(Stage& stage, Completion done) {
  stage.loop.post([&stage, done = std::move(done)]() mutable {
    if (stage.dev->state() == DeviceState::kBroken) {
      return done(stage.dev->broken_status());
    }
    const bool told = stage.meddler && !stage.meddler->requests().empty() &&
                      stage.meddler->unanswered() == 0;
    if (told && !stage.meddler->caught()) return done(absl::OkStatus());
    stage.timer = stage.loop.timer(stage.loop.now() + kTick,
                                   [&stage, done = std::move(done)]() mutable {
                                     watch_mask(stage, std::move(done));
                                   });
  });
}

void mask(Stage& stage, Completion done) {
  stage.dev->mask(QueueIndex{0});
  watch_mask(stage, std::move(done));
}

// Written, and read back from the back-end.
void configure(Stage& stage, Completion done) {
  static constexpr std::byte kZero{0};
  stage.dev->set_config(
      kWriteback, std::span(&kZero, 1), ConfigWriter::kDriver,
      [&stage, done = std::move(done)](absl::Status status) mutable {
        if (!status.ok()) return done(std::move(status));
        auto out = std::make_shared<std::byte>();
        stage.dev->get_config(
            kWriteback, std::span(out.get(), 1),
            [out, done = std::move(done)](absl::Status read) mutable {
              EXPECT_TRUE(!read.ok() || *out == kZero);
              done(std::move(read));
            });
      });
}

}  // namespace

Stage::Stage(Options options) : stuck_(std::move(options.stuck)) {
  guest.iommu = options.iommu;
  EXPECT_NE(testing::add_memory(memory, 0, kMiB), nullptr);
  auto made = testing::ModelBlk::on_memory(kMiB);
  EXPECT_TRUE(made.ok()) << made.status();
  disk = *std::move(made);
  std::string path = std::move(options.path);
  if (path.empty()) {
    path = dir.file("disk.sock");
    meddler.emplace(path, disk.get(), std::move(options.model));
  }
  dev = std::make_unique<VhostDev>(
      context, make_vhost_user_ops(ConnectTo{path}, options.user), guest,
      binding, events, &services,
      device_options(std::move(options.device), options.mask_mode));
}

Stage::~Stage() { settle(); }

void Stage::settle() {
  if (!meddler) {
    loop.run_ready();
    return;
  }
  // What is ready for ever (a device's notifier that nobody reads) must not
  // keep this going: two rounds without a message are the end.
  for (int idle = 0, rounds = 0; idle < 2; ++rounds) {
    ASSERT_LT(rounds, 10'000) << "it never ends";
    loop.run_ready();
    idle = meddler->step() || loop.posted() != 0 ? 0 : idle + 1;
  }
}

void Stage::pass(Duration time) {
  settle();
  loop.advance(time);
  settle();
}

std::shared_ptr<const Stage::Outcome> Stage::begin(
    absl::FunctionRef<void(Completion)> begin) {
  const auto outcome = std::make_shared<Outcome>();
  const MonotonicTime before = loop.now();
  begin([outcome, before, this](absl::Status status) {
    ++outcome->calls;
    outcome->status = std::move(status);
    outcome->took = loop.now() - before;
  });
  EXPECT_EQ(outcome->calls, 0) << "completed inside the call";
  settle();
  return outcome;
}

void Stage::finish(const Outcome& outcome, Duration patience) {
  settle();
  if (!meddler) {
    loop.run_until([&] { return outcome.calls != 0 || stuck_(); });
  }
  const MonotonicTime until = loop.now() + patience;
  while (outcome.calls == 0 && loop.now() < until) pass(kTick);
}

Stage::Outcome Stage::drive(absl::FunctionRef<void(Completion)> begin_it,
                            Duration patience) {
  const std::shared_ptr<const Outcome> outcome = begin(begin_it);
  finish(*outcome, patience);
  return *outcome;
}

Stage::Outcome Stage::init() {
  Outcome out = drive([this](Completion done) { dev->init(std::move(done)); });
  if (out.status.ok()) {
    const FeatureSet wce = {kBlkConfigWce, kFeatureVersion1};
    EXPECT_EQ(dev->ack_features(wce, wce & dev->backend_features()),
              absl::OkStatus());
  }
  return out;
}

Stage::Outcome Stage::start() {
  return drive([this](Completion done) { dev->start(std::move(done)); });
}

Stage::Outcome Stage::stop(StopReason reason) {
  return drive([&](Completion done) { dev->stop(reason, std::move(done)); });
}

void Stage::run() {
  using enum DeviceState;
  if (dev->state() == kCreated || dev->state() == kBroken) {
    const Outcome connected = init();
    ASSERT_TRUE(connected.status.ok()) << connected.status;
  }
  if (dev->state() == kReady) {
    const Outcome started = start();
    ASSERT_TRUE(started.status.ok()) << started.status;
  }
  ASSERT_EQ(dev->state(), kRunning);
}

void Stage::recover() {
  meddler->arm(Mischief::kNone);
  run();
  const Outcome stopped = stop(StopReason::kGuestReset);
  EXPECT_TRUE(stopped.status.ok()) << stopped.status;
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

MemorySection Stage::dimm(uint64_t gpa) {
  auto region = MemoryRegion::create_memfd("dimm", kMiB);
  EXPECT_TRUE(region.ok()) << region.status();
  MemorySection out;
  out.gpa = gpa;
  out.size = kMiB;
  out.region = *region;
  return out;
}

const std::vector<Action>& actions() {
  static const auto* const kActions = new std::vector<Action>{
      {"Connect", "init", prepare_nothing,
       [](Stage& stage, Completion done) { stage.dev->init(std::move(done)); }},
      {"Start", "start", prepare_ready,
       [](Stage& stage, Completion done) {
         stage.dev->start(std::move(done));
       }},
      {"Stop", "stop", prepare_running,
       [](Stage& stage, Completion done) {
         stage.dev->stop(StopReason::kVmPause, std::move(done));
       }},
      {"MemoryChange", "memory update", prepare_dimm, change_memory},
      {"Mask", "", prepare_running, mask},
      {"Config", "config", prepare_running, configure},
  };
  return *kActions;
}

namespace {

struct Course {
  size_t before = 0;
  std::vector<Meddler::Request> requests;
};

const Course& course_of(const Action& action) {
  static auto* const kKnown = new std::map<std::string, Course>();
  const auto known = kKnown->find(action.name);
  if (known != kKnown->end()) return known->second;
  Course course;
  Stage stage;
  action.prepare(stage);
  course.before = stage.meddler->requests().size();
  stage.meddler->arm(Mischief::kNone);
  const Stage::Outcome outcome = stage.drive(
      [&](Completion done) { action.begin(stage, std::move(done)); });
  EXPECT_EQ(outcome.status, absl::OkStatus());
  course.requests = stage.meddler->requests();
  return (*kKnown)[action.name] = std::move(course);
}

}  // namespace

const std::vector<Meddler::Request>& requests_of(const Action& action) {
  return course_of(action).requests;
}

size_t requests_before(const Action& action) {
  return course_of(action).before;
}

}  // namespace vhost::badinput
