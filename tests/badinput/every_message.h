// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BADINPUT_EVERY_MESSAGE_H_
#define TESTS_BADINPUT_EVERY_MESSAGE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/functional/function_ref.h"
#include "tests/badinput/stage.h"

namespace vhost::badinput {

// For each thing a VMM does: a test that does it once for each of its
// messages, with something wrong at that message.
class EveryMessage : public ::testing::TestWithParam<Action> {
 protected:
  using Request = Meddler::Request;
  using Check =
      absl::FunctionRef<void(Stage&, const Stage::Outcome&, const Request&)>;
  using Applies = absl::FunctionRef<bool(const Request&)>;

  static const Action& action() { return GetParam(); }
  static bool any(const Request&) { return true; }
  static bool answered(const Request& request) { return request.answered; }

  // Runs `body` for each request that `applies`, on a stage where the action
  // may begin.  Within bounded time, and nothing may be left of it.
  static void each(
      Applies applies,
      absl::FunctionRef<void(Stage&, size_t at, const Request&)> body);

  // Does the action with `mischief` at each request that `applies`; `check`
  // sees what became of it.  Afterwards the device must be of use again with a
  // back-end that does its part.
  static void disturb_each(Mischief mischief, Applies applies, Check check);

  // What every failure must be: told once, to the operation and (unless it
  // never was ready) to the VMM; of code `code`, and with the name of the
  // operation in front.
  static void expect_lost(const Stage& stage, const Stage::Outcome& outcome,
                          absl::StatusCode code);
};

std::string action_name(const ::testing::TestParamInfo<Action>& info);

// gtest's own way to show a value shows its bytes.
void PrintTo(const Action& action, std::ostream* out);

}  // namespace vhost::badinput

#endif  // TESTS_BADINPUT_EVERY_MESSAGE_H_
