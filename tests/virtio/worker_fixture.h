// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VIRTIO_WORKER_FIXTURE_H_
#define TESTS_VIRTIO_WORKER_FIXTURE_H_

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/executor.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// One thread that does what it is given, in order.
class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor() : thread_([this] { work(); }) {}
  ~ThreadExecutor() override {
    {
      const absl::MutexLock lock(&mutex_);
      ending_ = true;
      news_.Signal();
    }
    thread_.join();
  }

  void run(absl::AnyInvocable<void()> work) override {
    const absl::MutexLock lock(&mutex_);
    queue_.push_back(std::move(work));
    news_.Signal();
  }

 private:
  void work() {
    while (true) {
      absl::AnyInvocable<void()> next;
      {
        const absl::MutexLock lock(&mutex_);
        while (!ending_ && queue_.empty()) news_.Wait(&mutex_);
        if (queue_.empty()) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      next();
    }
  }

  absl::Mutex mutex_;
  absl::CondVar news_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: uses all of the above.
};

// Where verbs of one name stand still, as a map of 100 GiB does.
class Barrier {
 public:
  void block(const std::string& verb) {
    const absl::MutexLock lock(&mutex_);
    verb_ = verb;
  }
  void release() {
    const absl::MutexLock lock(&mutex_);
    verb_.clear();
    opened_.SignalAll();
  }
  // On the worker, with the name of its verb.
  void pass(const std::string& verb) {
    const absl::MutexLock lock(&mutex_);
    if (verb != verb_) return;
    standing_ = true;
    while (!verb_.empty()) opened_.Wait(&mutex_);
    standing_ = false;
  }
  bool standing() {
    const absl::MutexLock lock(&mutex_);
    return standing_;
  }

 private:
  absl::Mutex mutex_;
  absl::CondVar opened_;
  std::string verb_ ABSL_GUARDED_BY(mutex_);
  bool standing_ ABSL_GUARDED_BY(mutex_) = false;
};

// A back-end whose verbs pass a barrier; says when and where it ends.
class BlockingOps final : public VhostOps {
 public:
  struct Record {
    Barrier barrier;
    absl::Mutex mutex;
    bool destroyed ABSL_GUARDED_BY(mutex) = false;
    std::thread::id destroyed_on ABSL_GUARDED_BY(mutex);
    absl::Status last ABSL_GUARDED_BY(mutex);  // Of the last verb.

    bool is_destroyed() {
      const absl::MutexLock lock(&mutex);
      return destroyed;
    }
  };

  BlockingOps(std::unique_ptr<VhostOps> inner, std::shared_ptr<Record> record)
      : inner_(std::move(inner)), record_(std::move(record)) {}
  ~BlockingOps() override {
    inner_.reset();
    const absl::MutexLock lock(&record_->mutex);
    record_->destroyed = true;
    record_->destroyed_on = std::this_thread::get_id();
  }

  const BackendTraits& traits() const override { return inner_->traits(); }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override {
    record_->barrier.pass(std::string(verb_name(verb)));
    return inner_->submit(
        std::move(verb), deadline,
        [record = record_, done = std::move(done)](BatchResult result) mutable {
          {
            const absl::MutexLock lock(&record->mutex);
            record->last = result.status;
          }
          done(std::move(result));
        });
  }
  void attach(EventLoop* loop, BackendSink* sink) override {
    inner_->attach(loop, sink);
  }
  void pump(MonotonicTime deadline) override { inner_->pump(deadline); }
  void close(const absl::Status& why) override { inner_->close(why); }
  BackendCounters counters() const override { return inner_->counters(); }

 private:
  std::unique_ptr<VhostOps> inner_;
  const std::shared_ptr<Record> record_;
};

}  // namespace vhost::testing

#endif  // TESTS_VIRTIO_WORKER_FIXTURE_H_
