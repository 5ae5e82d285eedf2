// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_ENGINE_PAIR_H_
#define TESTS_MIGRATION_ENGINE_PAIR_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "tests/migration/engine/open_fds.h"
#include "tests/migration/engine/toy_vmm.h"
#include "tests/migration/engine/wire.h"
#include "vhostdev/migration.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {

// Two VMMs in one process, a guest on the first, and a wire between them; time
// passes only while nobody has anything to do.
class MigrationPair : public NoFdLeft {
 protected:
  static constexpr auto kLongest = std::chrono::minutes(10);

  static MigrationTimeouts short_timeouts() {
    const auto ms = std::chrono::milliseconds(50);
    return {ms, ms, ms, ms, ms, ms, ms, ms, ms};
  }

  explicit MigrationPair(size_t devices = 2)
      : source_vmm(loop, devices), destination_vmm(loop, devices) {
    source_options.compare_ram = true;
    source_vmm.bring_up();
    loop.run_ready();
    // Something to move: not all zero, and not all different.
    source_vmm.guest_writes(1 << 20, 300 << 10, 0x11);
    source_vmm.guest_writes((2 << 20) + 123, 5, 0x22);
  }

  ~MigrationPair() override {
    source.reset();
    destination.reset();
    wire.reset();
    for (ToyVmm* vmm : {&source_vmm, &destination_vmm}) {
      EXPECT_EQ(vmm->writes.enabled, 0);
      EXPECT_FALSE(vmm->context.log().active());
      for (const auto& toy : vmm->toys) {
        EXPECT_THAT(toy->ops->misuse, ::testing::IsEmpty());
      }
    }
  }

  // Makes new ends and a new wire, and starts both.
  void start() {
    wire = std::make_unique<Wire>();
    if (source == nullptr) {
      source = std::make_unique<MigrationSource>(loop, source_vmm.context,
                                                 source_vmm, source_options);
    }
    if (destination == nullptr) {
      destination = std::make_unique<MigrationDestination>(
          loop, destination_vmm.context, destination_vmm, destination_options);
    }
    source_status.reset();
    destination_status.reset();
    destination->start(wire->destination_end(), keep(destination_status));
    source->start(wire->source_end(), keep(source_status));
    EXPECT_FALSE(source_status.has_value());
    EXPECT_FALSE(destination_status.has_value());
  }

  static Completion keep(std::optional<absl::Status>& status) {
    return [&status](absl::Status s) {
      EXPECT_FALSE(status.has_value()) << "completed twice";
      status = std::move(s);
    };
  }

  // Turns everything until `done`; false: it never is.
  bool run_until(absl::FunctionRef<bool()> done) {
    const MonotonicTime end = loop.now() + kLongest;
    while (loop.now() < end) {
      if (done()) return true;
      const bool ran = loop.run_ready() != 0;
      const bool moved = wire != nullptr && wire->turn();
      if (!ran && !moved) loop.advance(std::chrono::milliseconds(1));
    }
    return done();
  }
  bool run() {
    return run_until([this] {
      return source_status.has_value() && destination_status.has_value();
    });
  }
  // What is still on its way arrives.
  void settle() {
    const MonotonicTime end = loop.now() + std::chrono::seconds(2);
    run_until([&] { return loop.now() >= end; });
  }
  void migrate() {
    start();
    ASSERT_TRUE(run()) << to_string(source->progress().phase) << ", "
                       << to_string(destination->progress().phase);
  }

  MigrationOutcome source_outcome() const { return source->progress().outcome; }
  MigrationOutcome destination_outcome() const {
    return destination->progress().outcome;
  }

  // The guest runs there, with all it had.
  void expect_moved() {
    EXPECT_TRUE(source_status->ok()) << *source_status;
    EXPECT_TRUE(destination_status->ok()) << *destination_status;
    EXPECT_EQ(source_outcome(), MigrationOutcome::kMoved);
    EXPECT_EQ(destination_outcome(), MigrationOutcome::kMoved);
    EXPECT_FALSE(source_vmm.running);
    EXPECT_TRUE(destination_vmm.running);
    EXPECT_TRUE(source_vmm.content() == destination_vmm.content());
    EXPECT_EQ(destination_vmm.registers, source_vmm.registers);
    expect_stopped(source_vmm);
    expect_devices_run(destination_vmm);
  }
  // Whatever happened: at most one side runs it; and if none does, somebody can
  // say which one is to, and it is all there.
  void expect_one_side_runs() {
    EXPECT_FALSE(source_vmm.running && destination_vmm.running);
    EXPECT_EQ(source_vmm.running,
              source_outcome() == MigrationOutcome::kNotMoved);
    EXPECT_EQ(destination_vmm.running,
              destination_outcome() == MigrationOutcome::kMoved);
    if (source_vmm.running) {
      expect_devices_run(source_vmm);
      expect_stopped(destination_vmm);
    }
    if (destination_vmm.running) {
      expect_devices_run(destination_vmm);
      expect_stopped(source_vmm);
    }
  }
  // Where nobody runs it: both know that they do not know.
  bool is_fenced() const {
    return !source_vmm.running && !destination_vmm.running;
  }
  absl::Status take_back() {
    std::optional<absl::Status> status;
    source->take_back(keep(status));
    EXPECT_TRUE(run_until([&] { return status.has_value(); }));
    return status.value_or(absl::UnknownError("not over"));
  }
  absl::Status take_over() {
    std::optional<absl::Status> status;
    destination->take_over(keep(status));
    EXPECT_TRUE(run_until([&] { return status.has_value(); }));
    return status.value_or(absl::UnknownError("not over"));
  }
  // It runs here as before.
  void expect_here() {
    EXPECT_EQ(source_outcome(), MigrationOutcome::kNotMoved);
    EXPECT_TRUE(source_vmm.running);
    EXPECT_FALSE(destination_vmm.running);
    expect_stopped(destination_vmm);
  }
  static void expect_devices_run(ToyVmm& vmm) {
    for (const auto& toy : vmm.toys) {
      EXPECT_EQ(toy->dev().state(), DeviceState::kRunning) << toy->name();
      EXPECT_FALSE(toy->dev().logging()) << toy->name();
    }
  }
  static void expect_stopped(ToyVmm& vmm) {
    for (const auto& toy : vmm.toys) {
      EXPECT_NE(toy->dev().state(), DeviceState::kRunning) << toy->name();
      EXPECT_NE(toy->dev().state(), DeviceState::kStarting) << toy->name();
    }
  }

  testing::ManualEventLoop loop;
  ToyVmm source_vmm;
  ToyVmm destination_vmm;
  MigrationSource::Options source_options;
  MigrationDestination::Options destination_options;
  std::unique_ptr<Wire> wire;
  std::unique_ptr<MigrationSource> source;
  std::unique_ptr<MigrationDestination> destination;
  std::optional<absl::Status> source_status;
  std::optional<absl::Status> destination_status;
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_ENGINE_PAIR_H_
