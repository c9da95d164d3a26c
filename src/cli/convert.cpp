// qad convert: GGUF or llama2.c (or another HF folder) to a plain HF folder.
#include "checkpoint/convert.h"

#include "cli/commands.h"
#include "core/error.h"
#include "text/model_files.h"

namespace qad::cli {
namespace {

struct Options {
  std::string in, out, dtype = "auto";
};

std::optional<checkpoint::DType> dtype_of(const std::string& word) {
  if (word == "f32") return checkpoint::DType::f32;
  if (word == "bf16") return checkpoint::DType::bf16;
  return std::nullopt;
}

}  // namespace

void add_convert(CLI::App& app) {
  Command command(app, "convert", "GGUF or llama2.c to an HF folder");
  auto o = std::make_shared<Options>();
  command.required("in", o->in, "an HF folder, a .gguf or a llama2.c .bin");
  command.required("out", o->out, "folder to write");
  command.choice("--dtype", o->dtype, {"auto", "f32", "bf16"},
                 "of the weights; auto: as stored, GGUF blocks become bf16");
  command.run([o] {
    checkpoint::check_writable_target(o->out, o->in);
    const checkpoint::Checkpoint source = checkpoint::open(o->in);
    checkpoint::OutFolder folder = checkpoint::unquantized_folder(source, dtype_of(o->dtype));
    folder.files = text::companion_files(source);
    checkpoint::write_folder(o->out, folder);
    fmt::print("wrote {}: {} tensors, {} further files\n", o->out, folder.tensors.size(),
               folder.files.size());
    return 0;
  });
}

}  // namespace qad::cli
