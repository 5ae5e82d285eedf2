// SPDX-License-Identifier: Apache-2.0
// What back-ends know moves with their devices: real sockets and pipes, states
// hashed and spliced, and all that can go wrong with them.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/fakes/sanitizer.h"
#include "tests/migration/engine/model_host.h"
#include "vhostdev/migration.h"

namespace vhost {
namespace {

using Fault = testing::ModelStateFault;
using State = MigrationDevice::State;
using testing::ModelStateOptions;

constexpr uint64_t kMiB = uint64_t{1} << 20;
// A quarter of it is enough for what one that was given up held up.
constexpr int kMsForAll = testing::kSanitizer ? 6000 : 1500;

// Two hosts, whose disks each have a state of their own.
class States : public TwoHosts {
 protected:
  void make(std::vector<ModelStateOptions> here,
            std::vector<ModelStateOptions> there, State kind) {
    for (size_t i = 0; i < here.size(); ++i) add_disk(std::string(1 << 20, 0));
    source = host("source", std::move(here));
    destination = host("destination", std::move(there));
    for (Host* one : {source.get(), destination.get()}) {
      for (const auto& toy : one->vmm->toys) toy->state_kind = kind;
    }
    bring_up();
  }
  void make_both(std::vector<ModelStateOptions> states, State kind) {
    auto same = states;
    make(std::move(states), std::move(same), kind);
  }

  void make_ends_with(Integrity integrity) {
    MigrationSource::Options out;
    out.integrity = integrity;
    out.compare_ram = true;
    MigrationDestination::Options in;
    in.integrity = integrity;
    for (MigrationTimeouts* t : {&out.timeouts, &in.timeouts}) {
      t->state = std::chrono::milliseconds(state_timeout_ms);
    }
    make_ends(out, in);
  }
  void migrate(Integrity integrity) {
    make_ends_with(integrity);
    start_ends();
  }

  testing::ModelStateReport loaded(size_t i) const {
    return destination->backends[i]->state_report();
  }

  int state_timeout_ms = 10000;

 private:
  std::unique_ptr<Host> host(absl::string_view name,
                             std::vector<ModelStateOptions> states) {
    return std::make_unique<Host>(*loop, folder, name, disks,
                                  [states = std::move(states)](size_t i) {
                                    testing::ModelOptions options;
                                    options.state = states[i];
                                    options.state.offered = true;
                                    return options;
                                  });
  }
};

std::string name_of(Integrity integrity) {
  return integrity == Integrity::kXxh3 ? "Hashed" : "Spliced";
}

class EitherWay : public States,
                  public ::testing::WithParamInterface<Integrity> {};

INSTANTIATE_TEST_SUITE_P(States, EitherWay,
                         ::testing::Values(Integrity::kXxh3,
                                           Integrity::kTransport),
                         [](const auto& param) {
                           return name_of(param.param);
                         });

TEST_P(EitherWay, NoByteOneByteAndManyMove) {
  const std::vector<uint64_t> sizes = {0, 1, 21 * kMiB + 7};
  std::vector<ModelStateOptions> states;
  for (const uint64_t size : sizes) states.push_back({.size = size});
  make_both(states, State::kNeeded);
  migrate(GetParam());
  expect_moved();
  uint64_t all = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(loaded(i).loaded, sizes[i]);
    EXPECT_TRUE(loaded(i).load_matches);
    EXPECT_TRUE(loaded(i).load_ended);
    EXPECT_EQ(loaded(i).vouched, 1u);
    all += sizes[i];
  }
  EXPECT_EQ(leaving->progress().state_bytes, all);
  EXPECT_EQ(coming->progress().state_bytes, all);
}

TEST_P(EitherWay, AGibibyteMoves) {
  constexpr uint64_t kSize = (testing::kSanitizer ? 64 : 1024) * kMiB;
  make_both({{.size = kSize}}, State::kNeeded);
  migrate(GetParam());
  expect_moved();
  EXPECT_EQ(loaded(0).loaded, kSize);
  EXPECT_TRUE(loaded(0).load_matches);
}

TEST_P(EitherWay, EightStatesMoveAtTheSameTime) {
  constexpr size_t kDevices = 8;
  const auto delay = std::chrono::milliseconds(100);
  make_both(std::vector<ModelStateOptions>(
                kDevices, {.size = 3 * kMiB + 1, .delay = delay}),
            State::kNeeded);
  migrate(GetParam());
  // All have begun before one can be over.
  ASSERT_TRUE(run_until(
      [this] { return leaving->progress().state_bytes != 0 || is_over(); }));
  for (const auto& backend : source->backends) {
    EXPECT_EQ(backend->state_report().saves, 1u);
  }
  expect_moved();
  for (size_t i = 0; i < kDevices; ++i) {
    EXPECT_EQ(loaded(i).loaded, 3 * kMiB + 1);
    EXPECT_TRUE(loaded(i).load_matches) << i;
  }
}

TEST_P(EitherWay, AFileHoldsThem) {
  make_both({{.size = 5 * kMiB + 3}, {.size = 9}}, State::kNeeded);
  make_ends_with(GetParam());
  const UniqueFd file(::memfd_create("guest", MFD_CLOEXEC));
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  const auto open = [&path] {
    return UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  };
  leaving->save(open(), keep(left));
  ASSERT_TRUE(run_until([this] { return left.has_value(); }));
  ASSERT_TRUE(left->ok()) << *left;
  coming->restore(open(), keep(came));
  expect_moved();
  EXPECT_EQ(loaded(0).loaded, 5 * kMiB + 3);
  EXPECT_TRUE(loaded(0).load_matches);
  EXPECT_EQ(loaded(1).loaded, 9u);
  EXPECT_TRUE(loaded(1).load_matches);
}

TEST_P(EitherWay, ABackEndThatTakesNoneIsRefusedBeforeAnythingMoves) {
  make_both({{.size = 9}}, State::kNeeded);
  destination->vmm->toys[0]->state_kind = State::kNone;
  migrate(GetParam());
  expect_here();
  EXPECT_EQ(source->backends[0]->state_report().saves, 0u);
}

TEST_P(EitherWay, WhoEndsInTheMiddleLeavesNothingBehind) {
  make_both({{.size = 64 * kMiB}, {.size = 64 * kMiB}}, State::kNeeded);
  migrate(GetParam());
  ASSERT_TRUE(run_until(
      [this] { return coming->progress().state_bytes > kMiB || is_over(); }));
  ASSERT_FALSE(is_over());
  coming.reset();
  leaving.reset();
  // The devices come to an end by themselves.
  EXPECT_TRUE(run_until(
      [this] { return source->backends[0]->state_report().checks == 1; }));
  // One that has a part of a state is good for nothing.
  EXPECT_TRUE(run_until([this] {
    for (const auto& toy : destination->vmm->toys) {
      if (toy->dev().state() == DeviceState::kBroken) return true;
    }
    return false;
  }));
}

// What one of the two back-ends does wrong.
struct Wrong {
  const char* name;
  Fault fault;
  uint64_t after = 0;
};

using WrongCase = std::tuple<Integrity, Wrong>;
std::string name_of_case(const ::testing::TestParamInfo<WrongCase>& param) {
  return std::get<1>(param.param).name + name_of(std::get<0>(param.param));
}

class WrongState : public States,
                   public ::testing::WithParamInterface<WrongCase> {
 protected:
  static Integrity integrity() { return std::get<0>(GetParam()); }
  // A state of which one end is faulty.
  static ModelStateOptions faulty() {
    const Wrong& wrong = std::get<1>(GetParam());
    return {.size = 6 * kMiB, .fault = wrong.fault, .fault_after = wrong.after};
  }
  static ModelStateOptions good() { return {.size = 6 * kMiB}; }
  void SetUp() override { state_timeout_ms = 300; }
};

// What both ends may do wrong, and what only this one may.
auto wrong_cases(std::vector<Wrong> faults) {
  for (const Wrong& common :
       {Wrong{"Refused", Fault::kRefuses}, Wrong{"Silent", Fault::kFallsSilent},
        Wrong{"SilentLater", Fault::kFallsSilent, 3 * kMiB},
        Wrong{"NotVouchedFor", Fault::kFailsCheck},
        Wrong{"NeverChecked", Fault::kNeverChecks},
        Wrong{"Dead", Fault::kDies, 2 * kMiB}}) {
    faults.push_back(common);
  }
  return ::testing::Combine(
      ::testing::Values(Integrity::kXxh3, Integrity::kTransport),
      ::testing::ValuesIn(faults));
}

class WrongSave : public WrongState {};

INSTANTIATE_TEST_SUITE_P(
    States, WrongSave, wrong_cases({{"CutShort", Fault::kEndsEarly, kMiB + 7}}),
    name_of_case);

TEST_P(WrongSave, LeavesTheGuestWhereItIs) {
  make({faulty(), good()}, {good(), good()}, State::kNeeded);
  migrate(integrity());
  expect_here();
}

TEST_P(WrongSave, OfWhatIsOptionalIsDoneWithout) {
  state_timeout_ms = kMsForAll;
  make({faulty(), good()}, {good(), good()}, State::kOptional);
  migrate(integrity());
  expect_moved();
  EXPECT_TRUE(loaded(1).load_matches);
  EXPECT_EQ(loaded(1).loaded, 6 * kMiB);
}

class WrongLoad : public WrongState {};

INSTANTIATE_TEST_SUITE_P(
    States, WrongLoad,
    wrong_cases({{"NotRead", Fault::kStopsReading, kMiB + 7},
                 {"NotReadAndVouchedFor", Fault::kStopsAndVouches, kMiB}}),
    name_of_case);

TEST_P(WrongLoad, LeavesTheGuestWhereItIs) {
  make({good(), good()}, {faulty(), good()}, State::kNeeded);
  migrate(integrity());
  expect_here();
}

TEST_P(WrongLoad, OfWhatIsOptionalIsDoneWithout) {
  state_timeout_ms = kMsForAll;
  make({good(), good()}, {faulty(), good()}, State::kOptional);
  migrate(integrity());
  expect_moved();
  EXPECT_TRUE(loaded(1).load_matches);
  EXPECT_EQ(loaded(1).loaded, 6 * kMiB);
}

}  // namespace
}  // namespace vhost
