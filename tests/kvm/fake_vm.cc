// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/fake_vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace vhost::testing {
namespace {

bool take(FdRef eventfd) {
  uint64_t count = 0;
  return ::read(eventfd.get(), &count, sizeof(count)) == sizeof(count);
}

}  // namespace

struct FakeVm::Core {
  struct Irqfd {
    UniqueFd file;  // KVM keeps the file, whatever becomes of the number.
    uint32_t gsi = 0;
  };
  using Doorbell = std::pair<uint64_t, uint64_t>;  // Address and value.

  int ioctl(unsigned long request, void* arg);
  int ioeventfd(const kvm_ioeventfd& arg) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  int irqfd(const kvm_irqfd& arg) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  int line(const kvm_irq_level& arg) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  int planned(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void deliver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  absl::Mutex mutex;
  std::set<int> missing ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::deque<int>> plans ABSL_GUARDED_BY(mutex);
  std::vector<std::string> journal ABSL_GUARDED_BY(mutex);
  std::map<int, Irqfd> irqfds ABSL_GUARDED_BY(mutex);  // By number.
  std::map<Doorbell, UniqueFd> doorbells ABSL_GUARDED_BY(mutex);
  std::map<uint32_t, bool> high ABSL_GUARDED_BY(mutex);
  std::map<uint32_t, uint64_t> edges ABSL_GUARDED_BY(mutex);
};

class FakeVm::Seam final : public KvmVm {
 public:
  explicit Seam(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  int ioctl(unsigned long request, void* arg) override {
    return core_->ioctl(request, arg);
  }
  int extension(int capability) override {
    const absl::MutexLock lock(&core_->mutex);
    return core_->missing.contains(capability) ? 0 : 1;
  }

 private:
  std::shared_ptr<Core> core_;
};

int FakeVm::Core::ioctl(unsigned long request, void* arg) {
  const absl::MutexLock lock(&mutex);
  switch (request) {
    case KVM_IOEVENTFD:
      return ioeventfd(*static_cast<const kvm_ioeventfd*>(arg));
    case KVM_IRQFD:
      return irqfd(*static_cast<const kvm_irqfd*>(arg));
    case KVM_IRQ_LINE:
      return line(*static_cast<const kvm_irq_level*>(arg));
    default:
      return ENOTTY;
  }
}

int FakeVm::Core::planned(const std::string& name) {
  std::deque<int>& plan = plans[name];
  if (plan.empty()) return 0;
  const int error = plan.front();
  plan.pop_front();
  return error;
}

int FakeVm::Core::ioeventfd(const kvm_ioeventfd& arg) {
  const bool off = (arg.flags & KVM_IOEVENTFD_FLAG_DEASSIGN) != 0;
  const std::string name =
      off ? "KVM_IOEVENTFD deassign" : "KVM_IOEVENTFD assign";
  journal.push_back(absl::StrCat(name, " ", arg.datamatch));
  if (const int error = planned(name); error != 0) return error;
  if ((arg.flags & KVM_IOEVENTFD_FLAG_DATAMATCH) == 0 || arg.len != 4) {
    return EINVAL;
  }
  const Doorbell doorbell{arg.addr, arg.datamatch};
  if (off) return doorbells.erase(doorbell) == 1 ? 0 : ENOENT;
  UniqueFd file(::fcntl(arg.fd, F_DUPFD_CLOEXEC, 0));
  if (!file.valid()) return errno;
  return doorbells.emplace(doorbell, std::move(file)).second ? 0 : EEXIST;
}

int FakeVm::Core::irqfd(const kvm_irqfd& arg) {
  const bool off = (arg.flags & KVM_IRQFD_FLAG_DEASSIGN) != 0;
  const std::string name = off ? "KVM_IRQFD deassign" : "KVM_IRQFD assign";
  journal.push_back(name);
  if (const int error = planned(name); error != 0) return error;
  deliver();  // What was signalled while it was assigned.
  const int number = static_cast<int>(arg.fd);
  if (off) {
    irqfds.erase(number);
    return 0;
  }
  UniqueFd file(::fcntl(number, F_DUPFD_CLOEXEC, 0));
  if (!file.valid()) return errno;
  if (irqfds.contains(number)) return EBUSY;
  irqfds[number] = {std::move(file), arg.gsi};
  deliver();  // And what was signalled before.
  return 0;
}

int FakeVm::Core::line(const kvm_irq_level& arg) {
  journal.push_back(absl::StrCat("KVM_IRQ_LINE ", arg.level));
  if (const int error = planned("KVM_IRQ_LINE"); error != 0) return error;
  bool& now = high[arg.irq];
  if (!now && arg.level != 0) ++edges[arg.irq];
  now = arg.level != 0;
  return 0;
}

void FakeVm::Core::deliver() {
  for (const auto& [number, irqfd] : irqfds) {
    if (take(irqfd.file)) ++edges[irqfd.gsi];
  }
}

std::shared_ptr<FakeVm::Core> FakeVm::make_core() {
  return std::make_shared<Core>();
}

std::unique_ptr<KvmVm> FakeVm::seam() const {
  return std::make_unique<Seam>(core_);
}

void FakeVm::without(int capability) {
  const absl::MutexLock lock(&core_->mutex);
  core_->missing.insert(capability);
}

void FakeVm::fail_next(const std::string& request, int error) {
  const absl::MutexLock lock(&core_->mutex);
  core_->plans[request].push_back(error);
}

std::vector<std::string> FakeVm::take_journal() {
  const absl::MutexLock lock(&core_->mutex);
  return std::exchange(core_->journal, {});
}

bool FakeVm::write(uint64_t gpa, uint32_t value) {
  const absl::MutexLock lock(&core_->mutex);
  const auto found = core_->doorbells.find({gpa, value});
  if (found == core_->doorbells.end()) return false;
  const uint64_t one = 1;
  return ::write(found->second.get(), &one, sizeof(one)) == sizeof(one);
}

uint64_t FakeVm::interrupts(uint32_t gsi) {
  const absl::MutexLock lock(&core_->mutex);
  core_->deliver();
  return core_->edges[gsi];
}

size_t FakeVm::irqfds() const {
  const absl::MutexLock lock(&core_->mutex);
  return core_->irqfds.size();
}

size_t FakeVm::ioeventfds() const {
  const absl::MutexLock lock(&core_->mutex);
  return core_->doorbells.size();
}

}  // namespace vhost::testing
