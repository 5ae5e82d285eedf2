// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/kvm_platform.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tools/minivm/files.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/machine.h"
#include "tools/minivm/mmio_device.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr size_t kMostPayload = size_t{16} << 20;  // Bytes of an ELF file.
constexpr size_t kMostLine = 1024;

// What the guest writes to its serial port, line by line on standard error.
class SerialLog {
 public:
  ~SerialLog() {
    if (!line_.empty()) print();
  }

  void append(absl::string_view text) {
    for (const char c : text) {
      if (c != '\n' && c != '\r') line_ += c;
      if ((c == '\n' && !line_.empty()) || line_.size() == kMostLine) print();
    }
  }

 private:
  void print() {
    const std::string text =
        absl::StrCat("guest: ", ctl::printable(line_), "\n");
    line_.clear();
    // There is nobody to tell that standard error is closed.
    ctl::write_full(FdRef(2), std::as_bytes(std::span(text))).IgnoreError();
  }

  std::string line_;
};

// What this process writes to the guest's memory.
class MailboxWrites final : public DirtyProvider {
 public:
  absl::string_view name() const override { return "mailbox"; }
  absl::Status enable() override { return absl::OkStatus(); }
  absl::Status sync(DirtySink& sink) override {
    tell_dirty(kMailboxGpa, kMailboxSize, sink);
    return absl::OkStatus();
  }
  void disable() override {}
};

class KvmPlatform final : public Platform {
 public:
  explicit KvmPlatform(VhostContext& context) : context_(context) {}

  absl::Status build(AddressSpace& memory, const RunOptions& options,
                     const std::vector<std::byte>& tree) {
    PayloadOptions payload;
    payload.tree = tree;
    payload.workload = options.workload;
    if (!options.payload.empty()) {
      absl::StatusOr<std::vector<std::byte>> elf =
          read_file(options.payload, kMostPayload);
      if (!elf.ok()) return elf.status();
      payload.elf = *std::move(elf);
    }
    return make(memory, options, std::move(payload), /*connect=*/true);
  }

  // A place for a guest that comes.
  absl::Status wait(AddressSpace& memory, const RunOptions& options,
                    bool connect) {
    PayloadOptions payload;
    payload.comes = true;
    return make(memory, options, std::move(payload), connect);
  }

  std::vector<Device*> devices() override {
    std::vector<Device*> out;
    for (const auto& device : devices_) out.push_back(device.get());
    return out;
  }

  Guest& guest() override { return *guest_; }

  std::vector<DirtyProvider*> dirty_providers() override {
    return {&machine_->dirty_log(), &mailbox_};
  }

  absl::Status check_loaded() override {
    for (const auto& device : devices_) {
      VHOST_RETURN_IF_ERROR(device->check_core());
    }
    return absl::OkStatus();
  }

  // The guest reads configuration spaces without waiting.
  void prepare(Completion done) override {
    prepared_ = std::move(done);
    refresh(0);
  }

  absl::Status close() override {
    guest_->kill();
    absl::Status first;
    for (const auto& device : devices_) {
      first.Update(annotate(device->close(), device->name()));
    }
    return first;
  }

 private:
  absl::Status make(AddressSpace& memory, const RunOptions& options,
                    PayloadOptions payload, bool connect) {
    payload.serial = [this](absl::string_view text) { serial_.append(text); };
    absl::StatusOr<std::unique_ptr<Machine>> machine =
        Machine::create(context_.loop(), memory, {.cpus = options.cpus});
    if (!machine.ok()) return machine.status();
    machine_ = *std::move(machine);
    VHOST_RETURN_IF_ERROR(add_devices(options, connect));
    absl::StatusOr<std::unique_ptr<Guest>> guest = make_payload_guest(
        context_.loop(), memory, *machine_, std::move(payload));
    if (!guest.ok()) return guest.status();
    guest_ = *std::move(guest);
    return absl::OkStatus();
  }

  absl::Status add_devices(const RunOptions& options, bool connect) {
    const std::vector<std::string> names = device_names(options.devices);
    for (uint32_t i = 0; i < names.size(); ++i) {
      absl::StatusOr<std::unique_ptr<MmioDevice>> device = MmioDevice::create(
          context_, machine_->vm(), i, names[i], options.devices[i], options);
      if (!device.ok()) return device.status();
      if (connect) VHOST_RETURN_IF_ERROR((*device)->connect());
      machine_->add_device((*device)->gpa(), (*device)->transport());
      devices_.push_back(*std::move(device));
    }
    return absl::OkStatus();
  }

  void refresh(size_t next) {
    if (next == devices_.size()) {
      return std::exchange(prepared_, nullptr)(absl::OkStatus());
    }
    devices_[next]->refresh([this, next](const absl::Status& status) {
      if (status.ok()) return refresh(next + 1);
      std::exchange(prepared_,
                    nullptr)(annotate(status, devices_[next]->name()));
    });
  }

  VhostContext& context_;
  SerialLog serial_;
  Completion prepared_;
  MailboxWrites mailbox_;
  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<Machine> machine_;
  std::vector<std::unique_ptr<MmioDevice>> devices_;
  std::unique_ptr<Guest> guest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Platform>> make_kvm_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    const std::vector<std::byte>& tree) {
  auto out = std::make_unique<KvmPlatform>(context);
  VHOST_RETURN_IF_ERROR(out->build(memory, options, tree));
  return out;
}

absl::StatusOr<std::unique_ptr<Platform>> make_incoming_kvm_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    bool connect) {
  auto out = std::make_unique<KvmPlatform>(context);
  VHOST_RETURN_IF_ERROR(out->wait(memory, options, connect));
  return out;
}

}  // namespace vhost::minivm
