// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/tiny_guest.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

// Where what lies in the guest's memory.
constexpr uint64_t kLongTables = 0x2000;  // PML4, PDP, and two PDs behind it.
constexpr uint64_t kGdt = 0x6000;
constexpr uint64_t kIdt = 0x7000;
constexpr uint64_t kHandler = 0x8000;
constexpr uint64_t kHandlerStack = 0x9f00;
constexpr uint64_t kTss = 0xa000;
constexpr uint64_t kStack = 0xf000;
constexpr uint64_t kShared = 0x10000;
constexpr uint64_t kRing = 0x20000;
constexpr uint64_t kWait = 0x21000;

// In the shared page.
constexpr uint64_t kTell = kShared;
constexpr uint64_t kTold = kShared + 4;
constexpr uint64_t kInterrupts = kShared + 8;
constexpr uint64_t kEnd = kShared + 12;
constexpr uint64_t kReady = kShared + 16;

constexpr uint16_t kDonePort = 0x99;
constexpr uint64_t kUserPrivileges = 0x3000;  // RFLAGS.IOPL 3: may do I/O.

// Makes the interrupt controller send line 5 as vector 0x25, and nothing else.
constexpr uint8_t kController[] = {
    0xb0, 0x11, 0xe6, 0x20,  // mov $0x11,%al; out %al,$0x20  initialise
    0xb0, 0x20, 0xe6, 0x21,  // vectors from 0x20
    0xb0, 0x04, 0xe6, 0x21,  // the second one is at line 2
    0xb0, 0x01, 0xe6, 0x21,  // 8086 mode
    0xb0, 0xdf, 0xe6, 0x21,  // mask all but line 5
    0xb0, 0xff, 0xe6, 0xa1,  // and all of the second one
    0xfb,                    // sti
};

// rbx: the doorbell, r8d: rounds, r9d: values.
constexpr uint8_t kRingCode[] = {
    0x31, 0xc9,        // round: xor %ecx,%ecx
    0x89, 0x0b,        // value: mov %ecx,(%rbx)
    0xff, 0xc1,        //        inc %ecx
    0x44, 0x39, 0xc9,  //        cmp %r9d,%ecx
    0x75, 0xf7,        //        jne value
    0x41, 0xff, 0xc8,  //        dec %r8d
    0x75, 0xf0,        //        jne round
    0xe6, 0x99,        //        out %al,$0x99
    0xeb, 0xfe,        //        jmp .
};

// r10: the word that ends it; the next one says that it began.
constexpr uint8_t kWaitCode[] = {
    0x41, 0xc7, 0x42, 0x04, 0x01, 0x00, 0x00, 0x00,  // movl $1,4(%r10)
    0xf3, 0x90,                                      // again: pause
    0x41, 0x83, 0x3a, 0x00,                          //        cmpl $0,(%r10)
    0x74, 0xf8,                                      //        je again
    0xe6, 0x99,                                      //        out %al,$0x99
    0xeb, 0xfe,                                      //        jmp .
};

// Looks before it ends the interrupt: what is raised from there on is another.
constexpr uint8_t kHandlerCode[] = {
    0x50, 0x53,                    // push %rax; push %rbx
    0xbb, 0x00, 0x00, 0x01, 0x00,  // mov $kShared,%ebx
    0x8b, 0x03,                    // mov (%rbx),%eax       what was told
    0x89, 0x43, 0x04,              // mov %eax,4(%rbx)
    0xff, 0x43, 0x08,              // incl 8(%rbx)          one more interrupt
    0xb0, 0x20, 0xe6, 0x20,        // mov $0x20,%al; out %al,$0x20
    0x5b, 0x58, 0x48, 0xcf,        // pop %rbx; pop %rax; iretq
};
static_assert(kShared == 0x00010000);

// kvm_cpuid2 as C has it.  To C++ its header gives another size, and with it
// other numbers to the requests that take it.
struct Cpuid {
  static constexpr uint32_t kEntries = 128;
  static constexpr unsigned kHeader = 8;  // Bytes.

  uint32_t nent;
  uint32_t padding;
  kvm_cpuid_entry2 entries[kEntries];
};
static_assert(offsetof(Cpuid, entries) == Cpuid::kHeader);
constexpr unsigned long kGetSupportedCpuid =
    _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, Cpuid::kHeader);
constexpr unsigned long kSetCpuid2 =
    _IOC(_IOC_WRITE, KVMIO, 0x90, Cpuid::kHeader);

absl::Status failed(const char* what) { return errno_status(errno, what); }

kvm_segment segment(uint16_t selector, uint8_t type, uint8_t privilege) {
  kvm_segment out = {};
  out.limit = 0xffffffff;
  out.selector = selector;
  out.type = type;
  out.present = 1;
  out.dpl = privilege;
  out.s = 1;
  out.g = 1;
  return out;
}

}  // namespace

TinyGuest::TinyGuest(std::shared_ptr<MemoryRegion> ram)
    : ram_(std::move(ram)) {}

absl::StatusOr<std::unique_ptr<TinyGuest>> TinyGuest::create(
    std::shared_ptr<MemoryRegion> ram) {
  if (ram == nullptr) {
    auto made = MemoryRegion::create_memfd("guest", kRamSize);
    if (!made.ok()) return made.status();
    ram = *std::move(made);
  }
  std::unique_ptr<TinyGuest> guest(new TinyGuest(std::move(ram)));
  VHOST_RETURN_IF_ERROR(guest->set_up());
  return guest;
}

TinyGuest::~TinyGuest() {
  static_cast<void>(end());
  if (run_ != nullptr) ::munmap(run_, run_size_);
}

absl::Status TinyGuest::set_up() {
  kvm_ = UniqueFd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm_.valid()) {
    return absl::UnavailableError(failed("/dev/kvm").message());
  }
  vm_ = UniqueFd(::ioctl(kvm_.get(), KVM_CREATE_VM, 0));
  if (!vm_.valid()) return failed("KVM_CREATE_VM");
  if (::ioctl(vm_.get(), KVM_CREATE_IRQCHIP, 0) != 0) {
    return failed("KVM_CREATE_IRQCHIP");
  }
  kvm_userspace_memory_region memory = {};
  memory.memory_size = kRamSize;
  memory.userspace_addr = reinterpret_cast<uintptr_t>(ram_->host());
  if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &memory) != 0) {
    return failed("KVM_SET_USER_MEMORY_REGION");
  }
  cpu_ = UniqueFd(::ioctl(vm_.get(), KVM_CREATE_VCPU, 0));
  if (!cpu_.valid()) return failed("KVM_CREATE_VCPU");
  const int size = ::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) return failed("KVM_GET_VCPU_MMAP_SIZE");
  run_size_ = static_cast<size_t>(size);
  void* run = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED,
                     cpu_.get(), 0);
  if (run == MAP_FAILED) return failed("mmap of a vCPU");
  run_ = static_cast<kvm_run*>(run);
  write_tables();
  return set_up_cpu();
}

// One to one: 2 MiB of memory, and the gigabyte of the doorbell, uncached.
void TinyGuest::write_tables() {
  constexpr uint64_t kUserTable = 7;  // Present, writable, for user mode.
  constexpr uint64_t kUserPage = 0x87;
  constexpr uint64_t kUncached = 0x18;
  const auto entry = [this](uint64_t gpa, uint64_t value) {
    std::memcpy(ram_->host() + gpa, &value, sizeof(value));
  };
  entry(kLongTables, (kLongTables + 0x1000) | kUserTable);
  entry(kLongTables + 0x1000, (kLongTables + 0x2000) | kUserTable);
  entry(kLongTables + 0x1000 + 3 * 8, (kLongTables + 0x3000) | kUserTable);
  entry(kLongTables + 0x2000, kUserPage);
  for (uint64_t i = 0; i < 512; ++i) {
    entry(kLongTables + 0x3000 + i * 8,
          (0xc0000000 + i * 0x200000) | kUserPage | kUncached);
  }
  // Selectors: 8 the handler's code, 0x10 its data, 0x28 and 0x30 the user's.
  entry(kGdt + 0x08, 0x00af9b000000ffff);
  entry(kGdt + 0x10, 0x00cf93000000ffff);
  entry(kGdt + 0x28, 0x00cff3000000ffff);
  entry(kGdt + 0x30, 0x00affb000000ffff);
  entry(kTss + 4, kHandlerStack);
  // Every vector, so that an exception shows as a guest that never ends well.
  for (uint64_t vector = 0; vector < 256; ++vector) {
    entry(kIdt + vector * 16, 0x8e0000080000 | kHandler);
    entry(kIdt + vector * 16 + 8, 0);
  }
  load(kHandler, kHandlerCode);
  load(kRing, kController);
  load(kRing + sizeof(kController), kRingCode);
  load(kWait, kController);
  load(kWait + sizeof(kController), kWaitCode);
}

void TinyGuest::load(uint64_t gpa, std::span<const uint8_t> code) {
  std::memcpy(ram_->host() + gpa, code.data(), code.size());
}

absl::Status TinyGuest::set_up_cpu() {
  Cpuid cpuid = {};
  cpuid.nent = Cpuid::kEntries;
  if (::ioctl(kvm_.get(), kGetSupportedCpuid, &cpuid) != 0) {
    return failed("KVM_GET_SUPPORTED_CPUID");
  }
  if (::ioctl(cpu_.get(), kSetCpuid2, &cpuid) != 0) {
    return failed("KVM_SET_CPUID2");
  }
  kvm_sregs special = {};
  if (::ioctl(cpu_.get(), KVM_GET_SREGS, &special) != 0) {
    return failed("KVM_GET_SREGS");
  }
  special.cs = segment(0x33, 11, 3);
  special.cs.l = 1;
  special.ds = segment(0x2b, 3, 3);
  special.ds.db = 1;
  special.es = special.fs = special.gs = special.ss = special.ds;
  special.tr = segment(0x38, 11, 0);
  special.tr.base = kTss;
  special.tr.limit = 0x67;
  special.tr.s = 0;
  special.tr.g = 0;
  special.gdt.base = kGdt;
  special.gdt.limit = 0x47;
  special.idt.base = kIdt;
  special.idt.limit = 0xfff;
  special.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE.
  special.cr3 = kLongTables;
  special.cr4 = 0x620;   // OSXMMEXCPT, OSFXSR, PAE.
  special.efer = 0x501;  // LMA, LME, SCE.
  if (::ioctl(cpu_.get(), KVM_SET_SREGS, &special) != 0) {
    return failed("KVM_SET_SREGS");
  }
  return absl::OkStatus();
}

absl::Status TinyGuest::ring(uint32_t values, uint32_t rounds) {
  return start({.rip = kRing, .values = values, .rounds = rounds});
}

// An interrupt that comes while the controller is set up is lost: the guest's
// own fault, and none of our business.
absl::Status TinyGuest::wait_for_interrupts() {
  std::atomic_ref(word(kReady)).store(0);
  VHOST_RETURN_IF_ERROR(start({.rip = kWait, .values = 0, .rounds = 0}));
  if (becomes(kReady, 1)) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(end());
  return absl::DeadlineExceededError("the guest does not begin");
}

absl::Status TinyGuest::start(Registers registers) {
  VHOST_RETURN_IF_ERROR(end());
  std::atomic_ref(word(kEnd)).store(0);
  kvm_regs regs = {};
  regs.rip = registers.rip;
  regs.rsp = kStack;
  regs.rflags = 2 | kUserPrivileges;
  regs.rbx = kDoorbell;
  regs.r8 = registers.rounds;
  regs.r9 = registers.values;
  regs.r10 = kEnd;
  if (::ioctl(cpu_.get(), KVM_SET_REGS, &regs) != 0) {
    return failed("KVM_SET_REGS");
  }
  thread_ = std::thread([this] {
    absl::Status status = run();
    const absl::MutexLock lock(&mutex_);
    result_ = std::move(status);
  });
  return absl::OkStatus();
}

absl::Status TinyGuest::end() {
  if (!thread_.joinable()) return absl::OkStatus();
  std::atomic_ref(word(kEnd)).store(1);
  thread_.join();
  const absl::MutexLock lock(&mutex_);
  return result_;
}

absl::Status TinyGuest::run() {
  for (;;) {
    if (::ioctl(cpu_.get(), KVM_RUN, 0) != 0) {
      if (errno == EINTR) continue;
      return failed("KVM_RUN");
    }
    if (std::optional<absl::Status> over = handle_exit()) return *over;
  }
}

std::optional<absl::Status> TinyGuest::handle_exit() {
  const absl::MutexLock lock(&mutex_);
  const bool done =
      run_->exit_reason == KVM_EXIT_IO && run_->io.port == kDonePort;
  if (done) return absl::OkStatus();
  ++exits_;
  if (run_->exit_reason == KVM_EXIT_MMIO && run_->mmio.is_write != 0 &&
      run_->mmio.phys_addr == kDoorbell && run_->mmio.len == 4) {
    uint32_t value = 0;
    std::memcpy(&value, run_->mmio.data, sizeof(value));
    writes_.push_back(value);
    return std::nullopt;
  }
  kvm_regs regs = {};
  ::ioctl(cpu_.get(), KVM_GET_REGS, &regs);
  return absl::InternalError(absl::StrCat("guest: exit ", run_->exit_reason,
                                          " at ", absl::Hex(regs.rip)));
}

uint32_t& TinyGuest::word(uint64_t gpa) const {
  return *reinterpret_cast<uint32_t*>(ram_->host() + gpa);
}

void TinyGuest::tell(uint32_t what) {
  std::atomic_ref(word(kTell)).store(what);
}

uint32_t TinyGuest::told() const { return std::atomic_ref(word(kTold)).load(); }

bool TinyGuest::hears(uint32_t what) const { return becomes(kTold, what); }

bool TinyGuest::becomes(uint64_t gpa, uint32_t value) const {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (std::atomic_ref(word(gpa)).load() != value) {
    if (std::chrono::steady_clock::now() > limit) return false;
    // Not busy: KVM's own work needs a processor too.
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

uint32_t TinyGuest::interrupts() const {
  return std::atomic_ref(word(kInterrupts)).load();
}

std::vector<uint32_t> TinyGuest::writes() const {
  const absl::MutexLock lock(&mutex_);
  return writes_;
}

uint64_t TinyGuest::exits() const {
  const absl::MutexLock lock(&mutex_);
  return exits_;
}

}  // namespace vhost::testing
