"""peer_llama.py -- llama.cpp on an f32 GGUF of SmolLM2-135M's shape with random weights, doing what work_generate.c does.

    peer_llama.py decode  batch=1 prompt=32 new=64
    peer_llama.py prefill batch=1 prompt=512

All sequences of a step go through one llama_batch. The next token is the largest logit, which costs less than a draw. Only a prompt's last row has
logits. kv=f16, keys and values in half precision, is llama.cpp's default and was its fastest in the runs that we compared; kv=f32 is the dtype
of ours. flash= is its flash attention; -1 lets it choose.
"""

import ctypes
import os
import sys
import tempfile
import time

import numpy

from peer import options, serve

LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCAB, POSITIONS = 30, 576, 9, 3, 1536, 49152, 8192


def write_gguf(path):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    random = numpy.random.default_rng(1)

    def matrix(name, rows, columns):
        writer.add_tensor(name, (0.02 * random.standard_normal((rows, columns))).astype(numpy.float32))

    def gain(name):
        writer.add_tensor(name, numpy.ones(WIDTH, numpy.float32))

    matrix("token_embd.weight", VOCAB, WIDTH)  # without output.weight: tied
    gain("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        gain(block + "attn_norm.weight")
        matrix(block + "attn_q.weight", WIDTH, WIDTH)
        matrix(block + "attn_k.weight", WIDTH * KV_HEADS // HEADS, WIDTH)
        matrix(block + "attn_v.weight", WIDTH * KV_HEADS // HEADS, WIDTH)
        matrix(block + "attn_output.weight", WIDTH, WIDTH)
        gain(block + "ffn_norm.weight")
        matrix(block + "ffn_gate.weight", FFN, WIDTH)
        matrix(block + "ffn_up.weight", FFN, WIDTH)
        matrix(block + "ffn_down.weight", WIDTH, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """A model and one context with room for `batch` sequences of `capacity` tokens."""

    def __init__(self, batch, capacity, threads, kv, flash):
        import llama_cpp

        self.c = c = llama_cpp
        quiet = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(quiet, ctypes.c_void_p(0))
        self.quiet = quiet
        c.llama_backend_init()
        handle, path = tempfile.mkstemp(suffix=".gguf")
        os.close(handle)
        try:
            write_gguf(path)
            self.model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        finally:
            os.unlink(path)
        params = c.llama_context_default_params()
        params.n_ctx = batch * ((capacity + 255) // 256 * 256)
        params.n_batch = max(2048, batch * capacity)
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if kv == "f32":
            params.type_k = params.type_v = c.GGML_TYPE_F32
        params.flash_attn_type = flash
        self.context = c.llama_init_from_model(self.model, params)
        assert self.model and self.context, "llama.cpp did not take the model"
        self.batch = c.llama_batch_init(batch * capacity, 0, 1)

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), False)

    def run(self, rows):
        """rows: (token, position, sequence, wants logits). Largest logit's id for each that wants it."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        code = self.c.llama_decode(self.context, batch)
        assert code == 0, f"llama_decode: {code}"
        return [int(numpy.ctypeslib.as_array(self.c.llama_get_logits_ith(self.context, i), (VOCAB,)).argmax())
                for i, row in enumerate(rows) if row[3]]

    def prefill(self, prompts):
        return self.run([(int(token), position, sequence, position == len(prompt) - 1)
                         for sequence, prompt in enumerate(prompts) for position, token in enumerate(prompt)])


def main(work, words):
    o = options(words, batch=1, prompt=32 if work == "decode" else 512, new=64, kv="f16", flash=-1)
    batch, prompt, new = o["batch"], o["prompt"], o["new"]
    llama = Llama(batch, prompt + new + 1, o["threads"], o["kv"], o["flash"])
    prompts = numpy.random.default_rng(2).integers(0, VOCAB, (batch, prompt))

    def once():
        llama.clear()
        start = time.perf_counter()
        tokens = llama.prefill(prompts)
        first = time.perf_counter()
        if work == "prefill":
            return dict(seconds=first - start, tokens=batch * prompt, tokens_per_second=batch * prompt / (first - start))
        for step in range(new):
            tokens = llama.run([(token, prompt + step, sequence, True) for sequence, token in enumerate(tokens)])
        seconds = time.perf_counter() - first
        return dict(seconds=seconds, tokens=batch * new, tokens_per_second=batch * new / seconds, prefill_seconds=first - start)

    serve(once, o["repeat"])


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("decode", "prefill"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
