// qad convert: any checkpoint as another format; what had to change is said.
#include <chrono>

#include "checkpoint/formats.h"
#include "checkpoint/model_card.h"
#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "text/gguf_tokenizer.h"
#include "text/model_files.h"

namespace qad::cli {
namespace {

struct Options {
  std::string in, out, format = "auto", dtype = "auto";
};

struct Interrupted {};

std::optional<checkpoint::DType> dtype_of(const std::string& word) {
  if (word == "f32") return checkpoint::DType::f32;
  if (word == "bf16") return checkpoint::DType::bf16;
  return std::nullopt;
}

// Bytes, speed and what is left; gives read pages back, so that memory stays that of a few tensors.
class Watch {
 public:
  explicit Watch(const checkpoint::Checkpoint& source) : source_(source) { release(0); }

  void show(std::int64_t done, std::int64_t all) {
    if (interrupt_.asked()) throw Interrupted{};
    if (done - released_ > (std::int64_t{8} << 20)) release(done);
    const double took =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    if (took < 1) return;  // nobody waits for it
    const double speed = static_cast<double>(done) / took;
    progress_.show(fmt::format("{} of {}  {}/s  {} left", human_bytes(static_cast<double>(done)),
                               human_bytes(static_cast<double>(all)), human_bytes(speed),
                               human_time(static_cast<double>(all - done) / speed)),
                   done == all);
  }

 private:
  void release(std::int64_t done) {
    released_ = done;
    for (const MappedFile& file : source_.files) file.release_pages();
  }

  const checkpoint::Checkpoint& source_;
  Interrupt interrupt_;
  Progress progress_{"convert "};
  std::int64_t released_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

void add_convert(CLI::App& app) {
  Command command(app, "convert", "a checkpoint in another format (docs/formats.md)");
  auto o = std::make_shared<Options>();
  std::vector<std::string> words = {"auto"};
  for (const checkpoint::Format& f : checkpoint::formats()) words.emplace_back(f.name);
  command.required("in", o->in, "an HF folder, a .gguf or a llama2.c .bin");
  command.required("out", o->out, "folder to write, or a .gguf file");
  command.choice(
      "--format", o->format, words,
      "auto: gguf for a .gguf, else an HF folder, in ModelOpt's layout what is quantised");
  command.choice("--dtype", o->dtype, {"auto", "f32", "bf16"},
                 "of weights that are not quantised; auto: as stored, GGUF blocks become bf16");
  command.run([o] {
    checkpoint::check_writable_target(o->out, o->in);
    const checkpoint::Format& format =
        checkpoint::format_named(o->format != "auto"                       ? o->format
                                 : fs::path(o->out).extension() == ".gguf" ? "gguf"
                                                                           : "modelopt");
    check(o->dtype != "f32" || format.name != "hf-bf16", "convert",
          "--dtype f32: the format is hf-bf16; choose one of the two");
    const checkpoint::Checkpoint source = checkpoint::open(o->in);
    checkpoint::OutModel m = checkpoint::out_model(source, dtype_of(o->dtype));
    m.files = text::companion_files(source);
    m.name = checkpoint::model_name(o->in);
    m.about = checkpoint::about_of(o->in);
    if (m.about.empty()) m.about = fmt::format("Converted from {}.\n", m.name);
    if (format.name.starts_with("gguf")) m.tokenizer = text::gguf_tokenizer(source);
    checkpoint::check_format(format, o->out, m);
    std::vector<std::string> changes;
    try {
      Watch watch(source);
      m.progress = [&](std::int64_t done, std::int64_t all) { watch.show(done, all); };
      changes = format.write(o->out, m);
    } catch (const Interrupted&) {
      note("interrupted; nothing was written");
      return 130;
    }
    for (const std::string& change : changes) fmt::print("{}\n", change);
    fmt::print("wrote {} ({}): {} weights, {} further files\n", o->out, format.name,
               m.weights.size(), m.files.size());
    return 0;
  });
}

}  // namespace qad::cli
