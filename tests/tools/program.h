// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_TOOLS_PROGRAM_H_
#define TESTS_TOOLS_PROGRAM_H_

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/peers/process.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"

namespace vhost::testing {

// Runs vhostctl with these arguments.
Finished vhostctl(std::vector<std::string> arguments,
                  const RunOptions& options = {});

// The one document that `text` is; the test fails if it is none, or more.
nlohmann::json document(const std::string& text);

// Whether `text` is one line that begins with "vhostctl: " and `code`.
::testing::AssertionResult is_error_line(const std::string& text,
                                         const std::string& code);

// A disk in memory that a ModelBackend serves, for vhostctl to find at
// socket().
class ModelDisk : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = uint64_t{4} << 20;

  // Serves `device`, or a plain disk with four queues.
  void serve(std::unique_ptr<ModelDevice> device, ModelOptions options = {});
  void serve(ModelOptions options = {});

  std::string socket() const { return dir_.file("disk.sock"); }

  TempDir dir_;
  std::unique_ptr<ModelDevice> device_;
  std::unique_ptr<ModelBackend> backend_;
};

}  // namespace vhost::testing

#endif  // TESTS_TOOLS_PROGRAM_H_
