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
  CLI::App* command = app.add_subcommand("convert", "GGUF or llama2.c to an HF folder");
  auto o = std::make_shared<Options>();
  command->add_option("in", o->in, "an HF folder, a .gguf or a llama2.c .bin")->required();
  command->add_option("out", o->out, "folder to write")->required();
  command->add_option("--dtype", o->dtype, "auto (as stored; GGUF blocks become bf16), f32 or bf16")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->callback([o] {
    checkpoint::check_writable_target(o->out, o->in);
    const checkpoint::Checkpoint source = checkpoint::open(o->in);
    checkpoint::OutFolder folder = checkpoint::unquantized_folder(source, dtype_of(o->dtype));
    folder.files = text::companion_files(source);
    checkpoint::write_folder(o->out, folder);
    fmt::print("wrote {}: {} tensors, {} further files\n", o->out, folder.tensors.size(),
               folder.files.size());
  });
}

}  // namespace qad::cli
