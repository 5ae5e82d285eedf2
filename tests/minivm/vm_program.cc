// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/vm_program.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace vhost::testing {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string last_line(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t end = text.rfind('\n');
  return end == std::string::npos ? text : text.substr(end + 1);
}

UniqueFd output_file(const std::string& path) {
  return UniqueFd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  const MonotonicTime until = std::chrono::steady_clock::now() + kVmPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

absl::StatusOr<std::unique_ptr<VmProgram>> VmProgram::start(
    const std::vector<std::string>& options) {
  auto out = std::make_unique<VmProgram>();
  std::vector<std::string> command = {"minivm", "run", "--json", "--control",
                                      out->control()};
  command.insert(command.end(), options.begin(), options.end());
  const UniqueFd standard_out = output_file(out->dir_.file("out"));
  const UniqueFd standard_error = output_file(out->dir_.file("err"));
  auto process = Process::start(
      command,
      {.in = {}, .out = standard_out, .err = standard_error, .extra = {}});
  if (!process.ok()) return process.status();
  out->process_ = *std::move(process);
  // It answers, or ended.
  const bool up = eventually([&] {
    return out->ctl({"status"}).ok() ||
           out->process_->wait(Duration(0)).has_value();
  });
  if (!up) return absl::DeadlineExceededError("minivm does not answer");
  return out;
}

absl::StatusOr<nlohmann::json> VmProgram::ctl(std::vector<std::string> words) {
  words.insert(words.begin(), {"minivm", "ctl", control()});
  words.push_back("--json");
  const Finished run = run_program(words);
  if (run.exit != 0) return absl::AbortedError(run.err);
  nlohmann::json answer = nlohmann::json::parse(run.out, nullptr, false);
  if (!answer.is_object()) return absl::DataLossError(run.out);
  return answer;
}

absl::Status VmProgram::connect() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = control();
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience = {.tv_sec = kVmPatience / std::chrono::seconds(1),
                            .tv_usec = 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience,
                   sizeof(patience)) != 0 ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("connect ", path));
  }
  connection_ = std::move(fd);
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> VmProgram::ask(const nlohmann::json& request) {
  if (!connection_.valid()) {
    const absl::Status connected = connect();
    if (!connected.ok()) return connected;
  }
  const std::string line = absl::StrCat(request.dump(), "\n");
  ::send(connection_.get(), line.data(), line.size(), MSG_NOSIGNAL);
  std::string text;
  std::array<char, 4096> buffer;
  while (text.empty() || text.back() != '\n') {
    const ssize_t got =
        ::recv(connection_.get(), buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      connection_.reset();
      return absl::UnavailableError(absl::StrCat("no answer to ", line));
    }
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  nlohmann::json answer = nlohmann::json::parse(text, nullptr, false);
  if (!answer.is_object()) return absl::DataLossError(text);
  if (!answer.value("ok", false)) {
    return absl::AbortedError(answer.value("error", text));
  }
  return answer;
}

uint64_t VmProgram::workload(const std::string& name) {
  const absl::StatusOr<nlohmann::json> stats = ask({{"command", "stats"}});
  if (!stats.ok()) return kNoAnswer;
  return stats->value("workload", nlohmann::json::object())
      .value(name, uint64_t{0});
}

::testing::AssertionResult VmProgram::gets_on(uint64_t requests) {
  const auto done = [this] {
    const uint64_t writes = workload("writes");
    return writes == kNoAnswer ? 0 : writes + workload("reads");
  };
  const uint64_t before = done();
  if (workload("writes") == kNoAnswer) {
    return ::testing::AssertionFailure() << "it does not answer";
  }
  if (eventually([&] { return done() >= before + requests; })) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << done() - before << " requests, from " << before << " on; "
         << ask({{"command", "status"}}).value_or(nullptr) << " "
         << ask({{"command", "stats"}}).value_or(nullptr);
}

VmProgram::End VmProgram::end(int signal, Duration runs) {
  if (signal != 0) process_->signal(signal);
  End out;
  out.exit = process_->wait(runs + kVmPatience);
  out.errors = contents(dir_.file("err"));
  out.report = nlohmann::json::parse(last_line(contents(dir_.file("out"))),
                                     nullptr, false);
  // So that a test may look for members in it.
  if (!out.report.is_object()) out.report = nlohmann::json::object();
  return out;
}

absl::StatusOr<std::unique_ptr<ServedDisk>> ServedDisk::start(DiskServer server,
                                                              uint64_t size,
                                                              uint32_t queues) {
  auto out = std::make_unique<ServedDisk>();
  out->server_ = server;
  out->queues_ = queues;
  const absl::Status made = make_image(out->dir_.file("image"), size);
  if (!made.ok()) return made;
  const absl::Status started = out->start_again();
  if (!started.ok()) return started;
  return out;
}

bool ServedDisk::overwrite() const {
  const UniqueFd file(::open(dir_.file("image").c_str(), O_RDWR | O_CLOEXEC));
  const off_t size = file.valid() ? ::lseek(file.get(), 0, SEEK_END) : 0;
  return size > 0 && ::ftruncate(file.get(), 0) == 0 &&
         ::ftruncate(file.get(), size) == 0;
}

absl::Status ServedDisk::start_again() {
  process_ = nullptr;
  auto process = start_disk(server_, dir_.file("image"), socket(), queues_);
  if (!process.ok()) return process.status();
  process_ = *std::move(process);
  return absl::OkStatus();
}

nlohmann::json VmProgramTest::end_well(int signal, Duration runs) {
  const VmProgram::End end = vm_->end(signal, runs);
  EXPECT_EQ(end.exit, 0) << end.errors;
  for (const char* const fault :
       {"faults", "lost", "stale", "torn", "misplaced", "doubled",
        "failed_requests", "lost_interrupts", "in_flight"}) {
    EXPECT_EQ(end.report.value(fault, -1), 0) << fault << ": " << end.report;
  }
  EXPECT_EQ(end.report.value("state", ""), "ended");
  EXPECT_GT(end.report.value("verified", 0), 0);
  return end.report;
}

}  // namespace vhost::testing
