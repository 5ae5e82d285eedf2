// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/moving_vm.h"

#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost::testing {

std::string Host::incoming() const {
  const auto status = vm->ask({{"command", "status"}});
  return status.ok() ? status->value("incoming", "") : "";
}

nlohmann::json Host::migration(const std::string& name) const {
  const auto status = vm->ask({{"command", "status"}});
  if (!status.ok() || !status->contains("migration")) return nullptr;
  return status->at("migration").value(name, nlohmann::json());
}

std::string Host::state() const {
  const auto status = vm->ask({{"command", "status"}});
  return status.ok() ? status->value("state", "") : "";
}

void MovingVmTest::use(DiskServer server) {
  const absl::Status installed = check_installed(server);
  if (!installed.ok()) GTEST_SKIP() << installed;
  server_ = server;
}

absl::StatusOr<std::unique_ptr<Host>> MovingVmTest::start_host(
    const std::vector<std::string>& options) {
  const absl::Status made = make_image(dir_.file("image"), kImageSize);
  if (!made.ok()) return made;
  auto out = std::make_unique<Host>();
  out->dir = std::make_unique<TempDir>();
  auto disk = serve(*out);
  if (!disk.ok()) return disk.status();
  out->disk = *std::move(disk);
  std::vector<std::string> words = machine_;
  words.push_back(
      absl::StrCat("--disk=socket=", out->socket(), ",queues=", kQueues));
  words.insert(words.end(), options.begin(), options.end());
  auto vm = VmProgram::start(words);
  if (!vm.ok()) return vm.status();
  out->vm = *std::move(vm);
  return out;
}

absl::StatusOr<std::unique_ptr<Process>> MovingVmTest::serve(const Host& host) {
  return start_disk(server_, dir_.file("image"), host.socket(), kQueues);
}

absl::Status MovingVmTest::kill_disk(Host& host) {
  host.disk = nullptr;
  auto disk = serve(host);
  if (disk.ok()) host.disk = *std::move(disk);
  return disk.status();
}

void MovingVmTest::start_source(const std::string& workload) {
  auto host = start_host({workload});
  ASSERT_TRUE(host.ok()) << host.status();
  here_ = *std::move(host);
  ASSERT_TRUE(here_->vm->gets_on()) << here_->vm->end(SIGTERM).errors;
}

absl::StatusOr<std::unique_ptr<Host>> MovingVmTest::start_destination() {
  auto host = start_host({"--incoming=tcp:127.0.0.1:0"});
  if (!host.ok()) return host;
  if ((*host)->incoming().empty()) {
    return absl::UnavailableError((*host)->vm->end(SIGTERM).errors);
  }
  return host;
}

absl::StatusOr<nlohmann::json> MovingVmTest::migrate(
    const Host& there, std::vector<std::string> options) {
  options.insert(options.begin(), {"migrate", there.incoming()});
  return here_->vm->ctl(std::move(options));
}

std::future<absl::StatusOr<nlohmann::json>> MovingVmTest::migrating(
    const std::string& to, std::vector<std::string> options) {
  options.insert(options.begin(), {"migrate", to});
  return std::async(std::launch::async,
                    [vm = here_->vm.get(), options = std::move(options)] {
                      return vm->ctl(options);
                    });
}

void MovingVmTest::take_over_at(std::unique_ptr<Host> there) {
  const VmProgram::End end = here_->vm->end();
  EXPECT_EQ(end.exit, 0) << end.errors;
  EXPECT_TRUE(end.report.value("moved", false)) << end.report;
  EXPECT_EQ(end.report.value("state", ""), "moved");
  EXPECT_EQ(end.report.value("faults", -1), 0) << end.report;
  here_ = std::move(there);
  EXPECT_TRUE(eventually([this] { return here_->state() == "running"; }));
  EXPECT_TRUE(here_->vm->gets_on());
}

::testing::AssertionResult MovingVmTest::reaches(const std::string& phase) {
  std::string now;
  bool begun = false;
  const bool done = eventually([&] {
    const std::string state = here_->state();
    begun = begun || state == "migrating";
    const nlohmann::json got = here_->migration("phase");
    now = got.is_string() ? got.get<std::string>() : "none";
    // One that moved away answers no more; before, the last one is over.
    return (begun && (now == phase || now == "over")) || state.empty();
  });
  if (done && now == phase) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "it is in phase " << now;
}

void MovingVmTest::end_well() {
  const VmProgram::End end = here_->vm->end(SIGTERM);
  EXPECT_EQ(end.exit, 0) << end.errors << end.report;
  EXPECT_EQ(end.report.value("faults", -1), 0) << end.report;
  EXPECT_EQ(end.report.value("in_flight", -1), 0) << end.report;
  EXPECT_EQ(end.report.value("state", ""), "ended");
  EXPECT_GT(end.report.value("verified", 0), 0);
}

int MovingVmTest::processes() {
  int out = 0;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc", ignored)) {
    std::ifstream file(entry.path() / "stat");
    std::string stat;
    std::getline(file, stat);
    // Behind the name, which may hold anything: the state, and the parent.
    const size_t name_end = stat.rfind(") ");
    pid_t parent = 0;
    char state = 0;
    if (name_end != stat.npos) {
      std::istringstream(stat.substr(name_end + 2)) >> state >> parent;
    }
    if (parent == ::getpid()) ++out;
  }
  return out;
}

}  // namespace vhost::testing
