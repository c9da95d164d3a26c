"""The data of recovery.py: chats and wiki text as lines of 1,024 token ids of ChatML, cut without regard to documents, as
the peer's figures were taken.

    python3 bench/cuda/recovery_data.py TOKENIZER.json DOCS.json.gz OUT

DOCS holds chat_train and chat_test (lists of chats, each a list of {"role", "content"}) and wiki_test (a text). The
figures in docs/results are on dolly, codegen-instruct, MATH with CoT, GSM8K, NVIDIA's synthetic chats and OASST (22.8k
chats, 5 % held out) and on wikitext-2's test part.
"""

import gzip, json, pathlib, sys

from tokenizers import Tokenizer

SYSTEM = {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}
LENGTH = 1024


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_truncation()
    docs, out = json.load(gzip.open(sys.argv[2], "rt")), pathlib.Path(sys.argv[3])

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    def chat(messages):
        return ids("".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in [SYSTEM, *messages]))

    def rows(texts):
        flat = [t for text in texts for t in text]
        return [flat[i:i + LENGTH] for i in range(0, len(flat) - LENGTH + 1, LENGTH)]

    def write(name, rows):
        lines = (json.dumps({"input_ids": r}, separators=(",", ":")) for r in rows)
        (out / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
        print(name, len(rows))

    out.mkdir(parents=True, exist_ok=True)
    held_out = rows(map(chat, docs["chat_test"]))
    write("chat_test", held_out[:128])
    write("chat_validation", held_out[128:160])
    write("chat_train", rows(map(chat, docs["chat_train"])))
    write("wiki_test", rows([ids(docs["wiki_test"])])[:128])


main()
