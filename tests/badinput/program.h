// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BADINPUT_PROGRAM_H_
#define TESTS_BADINPUT_PROGRAM_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/badinput/meddler.h"
#include "tests/peers/process.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/model_blk.h"

namespace vhost::badinput {

// What vhostctl is given for each step of its own.
inline constexpr Duration kProgramTimeout = std::chrono::milliseconds(500);

// "vhostctl blk read" of one sector from the disk at `path`, to its end.
testing::Finished vhostctl_read(const std::string& path);

// Ends with 1, in time, and says why in one line that begins with `code` and
// holds `what`.
void expect_program_error(const testing::Finished& run, const std::string& code,
                          const std::string& what = "");

// A meddler on a thread of its own, for programs that wait themselves.
class MeddledDisk {
 public:
  explicit MeddledDisk(Mischief mischief, size_t at = Meddler::kNever,
                       testing::ModelOptions options = {});
  // The reply to `request` is `payload`.
  MeddledDisk(uint32_t request, const Bytes& payload);
  ~MeddledDisk() { finish(); }
  MeddledDisk(const MeddledDisk&) = delete;
  MeddledDisk& operator=(const MeddledDisk&) = delete;

  std::string path() const { return dir_.file("disk.sock"); }
  // Ends the thread; the requests that came.
  const std::vector<Meddler::Request>& finish();

 private:
  void begin(testing::ModelOptions options);
  void serve();

  testing::TempDir dir_;
  std::unique_ptr<testing::ModelBlk> disk_;
  std::optional<Meddler> meddler_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace vhost::badinput

#endif  // TESTS_BADINPUT_PROGRAM_H_
