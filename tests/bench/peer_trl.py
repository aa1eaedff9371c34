"""peer_trl.py -- whole PPO iterations of TRL's experimental PPOTrainer, to stand beside work_ppo.c.

    peer_trl.py shape=gpt2-124m batch=8 prompt=32 new=32 epochs=4 minibatches=1 threads=2

PPOTrainer.train() is one loop; a callback at the end of each update holds it until the driver's next "go". So a round goes from the start of an
update (the sampling of prompts) to the start of the next. The four models have random weights; no end token exists, and the padding id lies
outside the vocabulary, so every response has `new` tokens and none is masked, as on our side. Its best settings here: no bf16 and no gradient
checkpointing (its defaults, both slower on a CPU), fused AdamW, sdpa attention, all responses generated and scored in one batch.
"""

import contextlib
import os
import sys
import tempfile
import time

import peer


class End(Exception):
    """The driver has said "end"."""


def tell(**figures):
    """The trainer prints on standard output, which main() has turned to standard error: lines for the driver go to the real one."""
    with contextlib.redirect_stdout(sys.__stdout__):
        peer.tell(**figures)


def wait_for_go():
    if not sys.stdin.readline().startswith("go"):
        raise End


def models(shape):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(1)
    config = peer.config_of(shape)
    policy = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    reference = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    reference.load_state_dict(policy.state_dict())
    config.num_labels = 1
    value, reward = (AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa") for _ in range(2))
    return policy, reference, value, reward


def tokenizer_stub(vocab):
    """What PPOTrainer asks of a tokenizer: an end token and a padding token, neither of which a model can draw."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{id}": id for id in range(vocab)} | {"<pad>": vocab, "<end>": vocab + 1}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def main():
    options = peer.options(sys.argv[1:], shape="gpt2-124m", batch=8, prompt=32, new=32, epochs=4, minibatches=1)
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    sys.stdout = sys.stderr  # the trainer prints there
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(options["threads"])
    policy, reference, value, reward = models(options["shape"])
    vocab = policy.config.vocab_size
    batch = options["batch"]

    class Rounds(TrainerCallback):
        def on_train_begin(self, args, state, control, **rest):
            tell(ready=True, setup_seconds=time.perf_counter() - peer.STARTED)
            wait_for_go()
            self.since = time.perf_counter()

        def on_step_end(self, args, state, control, **rest):
            tell(seconds=time.perf_counter() - self.since, new_tokens=batch * options["new"])
            wait_for_go()
            self.since = time.perf_counter()

    prompts = torch.randint(vocab, (4 * batch, options["prompt"]), generator=torch.Generator().manual_seed(7)).tolist()
    with tempfile.TemporaryDirectory() as directory:
        config = PPOConfig(
            output_dir=directory, per_device_train_batch_size=batch, gradient_accumulation_steps=1, total_episodes=batch * 10000,
            num_ppo_epochs=options["epochs"], num_mini_batches=options["minibatches"], local_rollout_forward_batch_size=batch,
            response_length=options["new"], temperature=1.0, stop_token=None, num_sample_generations=0, use_cpu=True,
            bf16=False, gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=1e-6, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no", seed=1)
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer_stub(vocab), model=policy, ref_model=reference, reward_model=reward,
            value_model=value, train_dataset=Dataset.from_dict({"input_ids": prompts}),
            data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])}, callbacks=[Rounds()])
        try:
            trainer.train()
        except End:
            pass
    tell(peak_bytes=peer.peak_bytes())


if __name__ == "__main__":
    main()
