// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/payload/driver.h"

namespace vhost::payload {
namespace {

Task task_of(u32 command) {
  switch (command) {
    case kRun:
      return Task::kWork;
    case kFinish:
      return Task::kCheck;
    default:
      return Task::kRest;
  }
}

}  // namespace

void Driver::set_up(const TreeFacts& tree, u32 cpus) {
  cpus_ = cpus;
  polled_ = mailbox->polled != 0;
  u32 nets = 0;
  u32 queues = 0;
  for (u32 i = 0; i < tree.device_count; ++i) {
    nets += Device(tree.devices[i]).kind() == kNetworkDevice ? 1 : 0;
  }
  for (u32 i = 0; i < tree.device_count; ++i) {
    const TreeDevice& found = tree.devices[i];
    Attention attention;
    attention.interrupts = found.has_line && found.line < 16 && !polled_;
    const u32 kind = Device(found).kind();
    if (kind == kBlockDevice) {
      disk_attention_[disk_count_] = attention;
      first_queue_[disk_count_] = queues;
      disks_[disk_count_].set_up(found, disk_count_);
      queues += disks_[disk_count_++].queues();
    } else if (kind == kNetworkDevice) {
      // Two are each other's peers; one alone is its own.
      const u32 peer = nets == 2 ? 1 - nic_count_ : nic_count_;
      nic_attention_[nic_count_] = attention;
      nics_[nic_count_].set_up(found, nic_count_, peer);
      ++nic_count_;
    } else if (kind != 0) {
      fail("a device of a kind without driver:", kind);
    }
  }
  mailbox->disks = disk_count_;
  mailbox->nets = nic_count_;
  mailbox->queues = queues;
}

template <typename Each>
void Driver::each_queue(u32 cpu, u32 disk, Each&& each) {
  for (u32 q = 0; q < disks_[disk].queues(); ++q) {
    if ((first_queue_[disk] + q) % cpus_ == cpu) each(disks_[disk].queue(q));
  }
}

template <typename Each>
void Driver::each_queue(u32 cpu, Each&& each) {
  for (u32 disk = 0; disk < disk_count_; ++disk) each_queue(cpu, disk, each);
}

void Driver::run(u32 cpu) {
  for (;;) {
    const u32 seen = get(interrupts_taken);
    if (get(mailbox->state) == kFailed || get(mailbox->state) == kEnded) {
      wait_for_interrupt(seen);
      continue;
    }
    const bool busy = turn(cpu);
    submit(cpu);
    answer();
    if (busy) continue;
    if (cpu == 0) {
      wait(seen);
    } else {
      pause();
    }
  }
}

// One look at everything; whether there was anything.
bool Driver::turn(u32 cpu) {
  bool busy = false;
  if (cpu == 0) {
    const u32 ticks = get(mailbox->ticks);
    const bool tick = ticks != ticks_;
    ticks_ = ticks;
    for (u32 i = 0; i < disk_count_; ++i) busy |= look_at_disk(i, tick);
    for (u32 i = 0; i < nic_count_; ++i) busy |= look_at_nic(i, tick);
    return busy;
  }
  if (get(stop_) != 0) {
    set(stopped_[cpu], 1u);
    while (get(stop_) != 0) pause();
    set(stopped_[cpu], 0u);
  }
  each_queue(cpu, [&busy](DiskQueue& queue) { busy |= queue.reap() != 0; });
  return busy;
}

// Whether the device interrupted; `restart` if it asks for a reset.
bool Driver::interrupted(Attention& attention, const Device& device,
                         bool& restart) {
  if (!device.has_line() || device.line() >= 16) return false;
  const u32 taken = get(line_counts[device.line()]);
  const u32 fresh = taken - attention.taken;
  if (fresh == 0) return false;
  attention.taken = taken;
  add<u64>(mailbox->interrupts, fresh);
  restart = device.acknowledge() && device.needs_reset();
  return true;
}

// With interrupts a ring that was armed is looked at only when there was one:
// else one that is missing would never be noticed.  The watchdog's second tick
// that finds the same work waiting says that it is.
template <typename Reap, typename HasUsed>
bool Driver::attend(Attention& attention, const Device& device, bool tick,
                    bool& restart, Reap&& reap, HasUsed&& has_used) {
  const bool interrupt = interrupted(attention, device, restart);
  const bool missing =
      tick && attention.armed && !interrupt && !restart && has_used();
  const bool lost = missing && attention.suspect;
  attention.suspect = missing;
  if (attention.armed && !interrupt && !lost) return false;
  attention.armed = false;
  const u32 done = reap();
  if (done != 0) attention.resets = 0;
  if (lost) add<u64>(mailbox->lost_interrupts, done);
  if (interrupt && done == 0) add<u64>(mailbox->empty_interrupts, 1);
  return done != 0;
}

bool Driver::look_at_disk(u32 index, bool tick) {
  bool wants_restart = false;
  const auto reap = [this, index] {
    u32 done = 0;
    each_queue(0, index, [&done](DiskQueue& queue) {
      queue.ring().disarm();
      done += queue.reap();
    });
    return done;
  };
  const auto has_used = [this, index] {
    bool any = false;
    each_queue(0, index,
               [&any](DiskQueue& queue) { any |= queue.ring().has_used(); });
    return any;
  };
  Attention& attention = disk_attention_[index];
  const bool busy = attend(attention, disks_[index].device(), tick,
                           wants_restart, reap, has_used);
  if (!wants_restart) return busy;
  restart(attention, &disks_[index], nullptr);
  return true;
}

bool Driver::look_at_nic(u32 index, bool tick) {
  bool wants_restart = false;
  Nic& nic = nics_[index];
  if (tick) nic.give_up_on_missing();
  const auto reap = [&nic] {
    nic.disarm();
    return nic.reap_sent() + nic.reap();
  };
  const auto has_used = [&nic] { return nic.has_used(); };
  Attention& attention = nic_attention_[index];
  const bool busy =
      attend(attention, nic.device(), tick, wants_restart, reap, has_used);
  if (!wants_restart) return busy;
  restart(attention, nullptr, &nic);
  return true;
}

void Driver::restart(Attention& attention, Disk* disk, Nic* nic) {
  // It could go on for ever: the device asks again while it is started.
  constexpr u32 kMostResets = 100;
  if (++attention.resets > kMostResets) {
    fail("a device wants to be reset again and again, times:", kMostResets);
  }
  // Its back-end may be away, and soon back: a fraction of a second.
  constexpr u64 kPatience = u64{1} << 29;
  if (attention.resets > 1) {
    for (const u64 begin = clock(); clock() - begin < kPatience;) pause();
  }
  set(stop_, 1u);
  for (u32 cpu = 1; cpu < cpus_; ++cpu) {
    while (get(stopped_[cpu]) == 0 && get(mailbox->state) != kFailed) pause();
  }
  if (disk != nullptr) disk->restart();
  if (nic != nullptr) nic->restart();
  add<u64>(mailbox->resets, 1);
  attention.armed = false;
  attention.suspect = false;
  set(stop_, 0u);
  // Or else the next restart would take an old answer for a new one.
  for (u32 cpu = 1; cpu < cpus_; ++cpu) {
    while (get(stopped_[cpu]) != 0 && get(mailbox->state) != kFailed) pause();
  }
}

bool Driver::arm_all() {
  bool quiet = true;
  for (u32 disk = 0; disk < disk_count_; ++disk) {
    Attention& attention = disk_attention_[disk];
    if (!attention.interrupts || attention.armed) continue;
    bool any = false;
    each_queue(0, disk, [&any](DiskQueue& queue) {
      queue.ring().arm();
      any |= queue.ring().has_used();
    });
    attention.armed = !any;
    quiet = quiet && !any;
  }
  for (u32 i = 0; i < nic_count_; ++i) {
    Attention& attention = nic_attention_[i];
    if (!attention.interrupts || attention.armed) continue;
    nics_[i].arm();
    attention.armed = !nics_[i].has_used();
    quiet = quiet && attention.armed;
  }
  return quiet;
}

// vCPU 0 has nothing to do; `seen` are the interrupts before it looked.
void Driver::wait(u32 seen) {
  if (polled_) return pause();
  for (u32 i = 0; i < disk_count_; ++i) {
    if (!disk_attention_[i].interrupts) return pause();
  }
  for (u32 i = 0; i < nic_count_; ++i) {
    if (!nic_attention_[i].interrupts) return pause();
  }
  if (arm_all()) wait_for_interrupt(seen);
}

// What minivm wants now.  Whoever looks at task_ later knows what this vCPU
// goes by: a command that is not there any more when it is noted would be
// followed behind the back of those who found all vCPUs agreed on the next.
u32 Driver::follow_command(u32 cpu) {
  for (;;) {
    const u32 command = get(mailbox->command);
    keep(task_[cpu], command);
    // Before anything is in flight, and before the second look: minivm, which
    // gives a command and then looks at the state, sees one or the other.
    if (task_of(command) == Task::kWork) tell_state(kHeld, kRunning);
    if (get(mailbox->command) == command) return command;
  }
}

void Driver::submit(u32 cpu) {
  const Task task = task_of(follow_command(cpu));
  bool checked = true;
  each_queue(cpu, [task, &checked](DiskQueue& queue) {
    queue.submit(task);
    checked = checked && queue.checked();
  });
  keep(checked_[cpu], task == Task::kCheck && checked ? 1u : 0u);
  if (cpu != 0 || task != Task::kWork) return;
  for (u32 i = 0; i < nic_count_; ++i) {
    const u32 peer = nic_count_ == 2 ? 1 - i : i;
    nics_[i].send(nics_[peer].last_received());
  }
}

void Driver::answer() {
  const u32 command = get(mailbox->command);
  if (command == kRun) return;
  // One vCPU at a time, from the look to the telling: what another one found
  // out before a release must not be told after it.
  if (!move(answering_, 0u, 1u)) return;
  const u32 state = get(mailbox->state);
  bool all = true;
  bool checked = true;
  for (u32 i = 0; i < cpus_; ++i) {
    all = all && get(task_[i]) == command;
    checked = checked && get(checked_[i]) != 0;
  }
  if (all) answer(command, state, checked);
  set(answering_, 0u);
}

void Driver::answer(u32 command, u32 state, bool checked) {
  const bool quiet = get(mailbox->in_flight) == 0;
  switch (command) {
    case kHold:
      if (quiet && state == kRunning) tell_state(kRunning, kHeld);
      return;
    case kFinish:
      tell_state(kHeld, kChecking);
      tell_state(kRunning, kChecking);
      if (quiet && checked) tell_state(kChecking, kEnded);
      return;
    default:
      fail("minivm gave an unknown command:", command);
  }
}

}  // namespace vhost::payload
