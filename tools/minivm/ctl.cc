// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/ctl.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "tools/minivm/channel.h"
#include "tools/minivm/control.h"
#include "tools/minivm/ctl_progress.h"
#include "tools/minivm/request.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

std::string absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path out = std::filesystem::absolute(path, error);
  return error ? path : out.string();
}

// What the VM needs to know besides what was typed: it looks up no names, and
// has a folder of its own.
absl::StatusOr<Request> settled(Request request) {
  if (request.verb == Verb::kMigrate) {
    const absl::StatusOr<ChannelAddress> to = parse_channel(request.to);
    if (!to.ok()) return to.status();
    absl::StatusOr<ChannelAddress> number = resolve(*to);
    if (!number.ok()) return number.status();
    // A relative socket is beside the caller.
    if (!number->path.empty()) number->path = absolute(number->path);
    request.to = to_string(*number);
  }
  if (request.verb == Verb::kSave) request.to = absolute(request.to);
  return request;
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
  const absl::StatusOr<Request> request = settled(options.request);
  if (!request.ok()) return request.status();
  const absl::StatusOr<UniqueFd> socket = connect_control(options.socket);
  if (!socket.ok()) return socket.status();
  VHOST_RETURN_IF_ERROR(send_line(FdRef(*socket), to_line(*request)));
  const bool moves =
      request->verb == Verb::kMigrate || request->verb == Verb::kSave;
  if (moves && (options.progress || ::isatty(STDERR_FILENO) == 1)) {
    show_progress(options.socket, FdRef(*socket));
  }
  const absl::StatusOr<std::string> answer = receive_line(FdRef(*socket));
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
