"""peer_torch.py -- PyTorch and transformers doing what work_train.c, work_generate.c and work_score.c do.

    peer_torch.py train   shape= batch= tokens= steps= lengths=FILE mask=0|1 compile=0|1
    peer_torch.py adamw   shape=
    peer_torch.py decode  shape= batch= prompt= new= cache=dynamic|static compile=0|1
    peer_torch.py prefill shape= batch= prompt=
    peer_torch.py score   shape= texts= lengths=FILE batch= mask=0|1
    and threads=, repeat= everywhere

Its best settings: fp32, sdpa attention, no dropout, fused AdamW, inference_mode; batches padded to their longest, longest with longest. mask=0 leaves
the attention mask out, which right-hand padding under a causal mask allows (padded positions carry no loss, nothing real sees them) and which is
faster; a plain data collator would pass one.
"""

import os
import sys
import time

from peer import config_of, options, read_lengths, serve

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the compile time is that of a first run

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()


def clock(work):
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def language_model(shape):
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config_of(shape), attn_implementation="sdpa")


def padded_batch(lengths, vocab, mask):
    """Right-hand padding to the longest: (rows, longest) ids, labels -100 on padding, and a mask where it is wanted."""
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    seen = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, vocab, (length,))
        labels[row, :length] = ids[row, :length]
        seen[row, :length] = 1
    full = all(length == longest for length in lengths)
    return dict(input_ids=ids, labels=labels, **({} if full or not mask else dict(attention_mask=seen)))


def train(words):
    o = options(words, shape="gpt2-124m", batch=4, tokens=256, steps=1, lengths="", mask=0, compile=0)
    torch.set_num_threads(o["threads"])
    model = language_model(o["shape"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    lengths = read_lengths(o["lengths"], o["steps"] * o["batch"], o["tokens"])
    runs = [lengths[i : i + o["batch"]] for i in range(0, len(lengths), o["batch"])]
    batches = [padded_batch(run, model.config.vocab_size, o["mask"]) for run in runs]
    run = torch.compile(model) if o["compile"] else model

    def step(batch):
        loss = run(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    ready = {}
    if o["compile"]:
        first = clock(lambda: step(batches[0]))
        ready["compile_seconds"] = first - clock(lambda: step(batches[0]))
    padded = sum(batch["input_ids"].numel() for batch in batches)
    figures = {}

    def once():
        figures["seconds"] = clock(lambda: figures.update(loss=[step(batch) for batch in batches][-1]))
        return dict(figures, tokens=sum(lengths), padded_tokens=padded)

    serve(once, o["repeat"], **ready)


def adamw(words):
    o = options(words, shape="gpt2-124m")
    torch.set_num_threads(o["threads"])
    model = language_model(o["shape"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    serve(lambda: dict(seconds=clock(optimizer.step), parameters=sum(p.numel() for p in model.parameters())), o["repeat"])


class FirstToken(transformers.StoppingCriteria):
    """Never stops; notes when the first token of the batch is there, which is when the prefill is over."""

    def __init__(self):
        self.at = None

    def __call__(self, input_ids, scores, **kwargs):
        self.at = self.at or time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def generate(model, ids, new, options):
    """Seconds of prefill and of the tokens after the first one, sampled at temperature 1."""
    first = FirstToken()
    config = transformers.GenerationConfig(max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0, top_p=1.0,
                                           eos_token_id=None, pad_token_id=0, **options)
    since = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config,
                             stopping_criteria=transformers.StoppingCriteriaList([first]))
    end = time.perf_counter()
    assert out.shape[1] == ids.shape[1] + new
    return first.at - since, end - first.at


def decode(words):
    o = options(words, shape="gpt2-124m", batch=1, prompt=32, new=64, cache="dynamic", compile=0)
    torch.set_num_threads(o["threads"])
    model = language_model(o["shape"]).eval()
    ids = torch.randint(0, model.config.vocab_size, (o["batch"], o["prompt"]))

    settings = {} if o["cache"] == "dynamic" else dict(cache_implementation=o["cache"])
    if o["compile"]:
        settings["compile_config"] = transformers.CompileConfig(mode="default")
        settings["compile_config"]._compile_all_devices = True  # else it is left out, in silence, on a processor

    def once():
        prefill, seconds = generate(model, ids, 1 + o["new"], settings)
        tokens = o["batch"] * o["new"]
        return dict(seconds=seconds, tokens=tokens, tokens_per_second=tokens / seconds, prefill_seconds=prefill)

    ready = {}
    if o["compile"]:
        ready["compile_seconds"] = clock(once) - clock(once)
    serve(once, o["repeat"], **ready)


def prefill(words):
    o = options(words, shape="gpt2-124m", batch=1, prompt=1023)
    torch.set_num_threads(o["threads"])
    model = language_model(o["shape"]).eval()
    ids = torch.randint(0, model.config.vocab_size, (o["batch"], o["prompt"]))

    def run():
        with torch.inference_mode():
            logits = model(ids, use_cache=True, logits_to_keep=1).logits[:, -1]
            return torch.multinomial(logits.softmax(-1), 1)

    def once():
        seconds = clock(run)
        return dict(seconds=seconds, tokens=ids.numel(), tokens_per_second=ids.numel() / seconds)

    serve(once, o["repeat"])


def score(words):
    o = options(words, shape="smol-135m", texts=512, tokens=128, lengths="", batch=16, mask=0)
    torch.set_num_threads(o["threads"])
    config = config_of(o["shape"])
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
    lengths = sorted(read_lengths(o["lengths"], o["texts"], o["tokens"]), reverse=True)
    runs = [lengths[i : i + o["batch"]] for i in range(0, len(lengths), o["batch"])]
    batches = [padded_batch(run, config.vocab_size, o["mask"]) for run in runs]
    for batch in batches:
        del batch["labels"]

    def run():
        with torch.inference_mode():
            return torch.cat([model(**batch, use_cache=False).logits for batch in batches])

    def once():
        seconds = clock(run)
        return dict(seconds=seconds, tokens=sum(lengths), padded_tokens=sum(batch["input_ids"].numel() for batch in batches))

    serve(once, o["repeat"])


if __name__ == "__main__":
    works = dict(train=train, adamw=adamw, decode=decode, prefill=prefill, score=score)
    if len(sys.argv) < 2 or sys.argv[1] not in works:
        sys.exit(__doc__)
    works[sys.argv[1]](sys.argv[2:])
