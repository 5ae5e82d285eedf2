// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/program.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace vhost::testing {

Finished vhostctl(std::vector<std::string> arguments,
                  const RunOptions& options) {
  arguments.insert(arguments.begin(), "vhostctl");
  return run_program(arguments, options);
}

nlohmann::json document(const std::string& text) {
  // Anything behind the first document makes it fail too.
  nlohmann::json parsed = nlohmann::json::parse(text, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << "not one JSON document: " << text;
  EXPECT_TRUE(parsed.is_object()) << text;
  return parsed.is_object() ? parsed : nlohmann::json::object();
}

::testing::AssertionResult is_error_line(const std::string& text,
                                         const std::string& code) {
  if (!absl::StartsWith(text, absl::StrCat("vhostctl: ", code, ": "))) {
    return ::testing::AssertionFailure() << "no " << code << ": " << text;
  }
  if (text.find('\n') != text.size() - 1) {
    return ::testing::AssertionFailure() << "not one line: " << text;
  }
  return ::testing::AssertionSuccess();
}

void ModelDisk::serve(std::unique_ptr<ModelDevice> device,
                      ModelOptions options) {
  device_ = std::move(device);
  backend_ = std::make_unique<ModelBackend>(device_.get(), std::move(options));
  ASSERT_TRUE(backend_->listen_on(socket()).ok());
  ASSERT_TRUE(backend_->start_thread().ok());
}

void ModelDisk::serve(ModelOptions options) {
  auto disk = ModelBlk::on_memory(kSize);
  ASSERT_TRUE(disk.ok()) << disk.status();
  serve(*std::move(disk), std::move(options));
}

}  // namespace vhost::testing
