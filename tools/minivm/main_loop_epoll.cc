// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "tools/minivm/main_loop.h"

namespace vhost::minivm {
namespace {

class EpollMainLoop final : public MainLoop {
 public:
  explicit EpollMainLoop(std::unique_ptr<EpollEventLoop> loop)
      : loop_(std::move(loop)) {}

  EventLoop& loop() override { return *loop_; }
  absl::Status turn() override { return loop_->run_once(Duration(-1)); }

 private:
  std::unique_ptr<EpollEventLoop> loop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MainLoop>> MainLoop::create() {
  absl::StatusOr<std::unique_ptr<EpollEventLoop>> loop =
      EpollEventLoop::create();
  if (!loop.ok()) return loop.status();
  return std::make_unique<EpollMainLoop>(*std::move(loop));
}

}  // namespace vhost::minivm
