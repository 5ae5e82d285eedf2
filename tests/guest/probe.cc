// SPDX-License-Identifier: Apache-2.0
//
// What harness_test.py runs in the guest: a program that ends in every way a
// program can.  The first argument says how; probe.cc is all of it, so that a
// failure is the harness's.

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// `size` bytes of all values, the same for the same `seed`.
std::string noise(uint32_t seed, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<char>(seed >> 24);
  }
  return bytes;
}

// 1 MiB on stdout, 64 KiB on stderr, then the arguments on stdout.
int print(const std::vector<std::string>& arguments) {
  bool all = write_all(1, noise(1, 1 << 20)) && write_all(2, noise(2, 1 << 16));
  for (const std::string& argument : arguments) {
    all = all && write_all(1, argument + '\0');
  }
  return all ? 3 : 1;
}

int list_vhost_devices() {
  glob_t found = {};
  if (glob("/dev/vhost-*", 0, nullptr, &found) != 0) return 1;
  for (size_t i = 0; i < found.gl_pathc; ++i) puts(found.gl_pathv[i]);
  globfree(&found);
  return 0;
}

int crash_the_kernel() {
  const int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
  return fd >= 0 && write_all(fd, "c") ? 1 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string how = arguments.empty() ? "" : arguments[0];
  if (how == "print") return print(arguments);
  if (how == "devices") return list_vhost_devices();
  if (how == "signal") return raise(SIGSEGV);
  if (how == "panic") return crash_the_kernel();
  if (how == "hang") {
    puts("before");
    fflush(stdout);
    for (;;) pause();
  }
  return 2;
}
