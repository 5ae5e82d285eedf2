// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VSOCK_CID_OPS_H_
#define TESTS_VSOCK_CID_OPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vhostdev/testing/fake_vhost_ops.h"

namespace vhost::testing {

// A back-end that is told the guest's CID, as the kernel's is; everything else
// is the fake's.  It forgets the CID when it is opened again.
class CidOps final : public VhostOps {
 public:
  struct Record {
    std::optional<uint64_t> cid;
    std::set<uint64_t> taken;  // By other guests.
    bool takes_cid = true;
  };

  explicit CidOps(std::unique_ptr<FakeVhostOps> inner)
      : inner_(std::move(inner)) {}

  std::shared_ptr<Record> record() const { return record_; }

  const BackendTraits& traits() const override { return inner_->traits(); }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override {
    inner_->attach(loop, sink);
  }
  void pump(MonotonicTime deadline) override { inner_->pump(deadline); }
  void close(const absl::Status& why) override { inner_->close(why); }

 private:
  const std::unique_ptr<FakeVhostOps> inner_;
  const std::shared_ptr<Record> record_ = std::make_shared<Record>();
};

}  // namespace vhost::testing

#endif  // TESTS_VSOCK_CID_OPS_H_
