// SPDX-License-Identifier: Apache-2.0
#include "tests/badinput/every_message.h"

#include <chrono>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "tests/badinput/footprint.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

// Of real time, for one disturbed operation and all around it: none of it
// waits, so this is for a machine that does something else.
constexpr Duration kRealLimit = std::chrono::seconds(10);

}  // namespace

void EveryMessage::each(
    Applies applies,
    absl::FunctionRef<void(Stage&, size_t, const Request&)> body) {
  const std::vector<Request>& requests = requests_of(action());
  ASSERT_FALSE(requests.empty());
  size_t tried = 0;
  for (size_t at = 0; at != requests.size(); ++at) {
    if (!applies(requests[at])) continue;
    ++tried;
    SCOPED_TRACE(absl::StrCat("message ", at, ", ", requests[at].name()));
    const auto began = std::chrono::steady_clock::now();
    const Footprint before = Footprint::now();
    {
      Stage stage;
      action().prepare(stage);
      body(stage, at, requests[at]);
    }
    EXPECT_EQ(Footprint::now(), before);
    EXPECT_LT(std::chrono::steady_clock::now() - began, kRealLimit);
    if (HasFatalFailure()) return;
  }
  EXPECT_NE(tried, 0u);
}

void EveryMessage::disturb_each(Mischief mischief, Applies applies,
                                Check check) {
  SCOPED_TRACE(absl::StrCat("mischief ", static_cast<int>(mischief)));
  each(applies, [&](Stage& stage, size_t at, const Request& request) {
    stage.meddler->arm(mischief, at);
    const Stage::Outcome outcome = stage.drive(
        [&](Completion done) { action().begin(stage, std::move(done)); });
    EXPECT_EQ(outcome.calls, 1);
    check(stage, outcome, request);
    stage.recover();
  });
}

void EveryMessage::expect_lost(const Stage& stage,
                               const Stage::Outcome& outcome,
                               absl::StatusCode code) {
  EXPECT_EQ(outcome.status.code(), code) << outcome.status;
  const std::string text(outcome.status.message());
  EXPECT_THAT(text, HasSubstr(action().verb));
  if (*action().verb != '\0') {
    EXPECT_THAT(text, StartsWith("disk: "));
  }
  EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
  EXPECT_THAT(stage.binding.call_notifiers, IsEmpty());
  if (std::string(action().name) == "Connect") {
    EXPECT_EQ(stage.dev->state(), DeviceState::kCreated);
    EXPECT_THAT(stage.events.broken_with, IsEmpty());
  } else {
    EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
    ASSERT_THAT(stage.events.broken_with, SizeIs(1));
    EXPECT_EQ(stage.events.broken_with[0].code(), code);
  }
}

std::string action_name(const ::testing::TestParamInfo<Action>& info) {
  return info.param.name;
}

void PrintTo(const Action& action, std::ostream* out) { *out << action.name; }

}  // namespace vhost::badinput
