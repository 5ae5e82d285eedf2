// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/ctl.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "tools/minivm/control.h"
#include "tools/minivm/request.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

constexpr size_t kMostAnswerBytes = size_t{1} << 20;

absl::StatusOr<std::string> read_line(FdRef fd) {
  std::string out;
  std::array<char, 4096> buffer;
  while (out.size() <= kMostAnswerBytes) {
    const ssize_t got = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, "recv");
    if (got == 0) return absl::UnavailableError("the VM ended");
    out.append(buffer.data(), static_cast<size_t>(got));
    const size_t end = out.find('\n');
    if (end != std::string::npos) return out.substr(0, end);
  }
  return absl::DataLossError(
      absl::StrCat("an answer of more than ", kMostAnswerBytes, " bytes"));
}

// "name: value" lines, those of a member one step further in.
void append_text(const Json& value, const std::string& indent,
                 std::string& out) {
  for (const auto& [name, member] : value.items()) {
    absl::StrAppend(&out, indent, value.is_array() ? "-" : ctl::printable(name),
                    value.is_array() ? "" : ":");
    if (member.is_structured()) {
      absl::StrAppend(&out, "\n");
      append_text(member, indent + "  ", out);
    } else {
      const auto* const text = member.get_ptr<const std::string*>();
      absl::StrAppend(&out, " ",
                      ctl::printable(text != nullptr ? *text : member.dump()),
                      "\n");
    }
  }
}

}  // namespace

absl::Status run_ctl(const CtlOptions& options) {
  const absl::StatusOr<UniqueFd> socket = connect_control(options.socket);
  if (!socket.ok()) return socket.status();
  const std::string line = to_line(options.request);
  if (::send(socket->get(), line.data(), line.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(line.size())) {
    return errno_status(errno, "send");
  }
  const absl::StatusOr<std::string> answer = read_line(FdRef(*socket));
  if (!answer.ok()) return answer.status();
  Json document = Json::parse(*answer, nullptr, /*allow_exceptions=*/false);
  const auto ok = document.is_object() ? document.find("ok") : document.end();
  if (ok == document.end() || !ok->is_boolean()) {
    return absl::DataLossError("the answer makes no sense");
  }
  if (!*ok->get_ptr<const bool*>()) {
    const auto error = document.find("error");
    const bool told = error != document.end() && error->is_string();
    return absl::AbortedError(told ? *error->get_ptr<const std::string*>()
                                   : "no error given");
  }
  document.erase("ok");
  if (options.json) return ctl::print_json(document);
  std::string text;
  append_text(document, "", text);
  return ctl::print_text(text);
}

}  // namespace vhost::minivm
