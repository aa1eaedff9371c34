#!/usr/bin/env python3
"""Goldens of the three stages: a few steps of SFT, of the reward model, and whole PPO iterations, in PyTorch and float64.

    python3 tests/golden/make_stages.py          (numpy, torch, transformers, safetensors, h5py)

Written from the papers: the loss of a response's tokens (SFT), Ouyang et al. 2022 eq. 1 and Plackett-Luce (reward model), Schulman et al.
2016 (GAE) and 2017 (clipped surrogate), Ziegler et al. 2019 (KL reward, whitening, clipped values). Sequences run one at a time,
in plain loops, so nothing here knows of packing, units or lanes. The torch form of AdamW is PyTorch's own; the TF form is written out.

tests/golden/stages/ gets
    policy/ reference/ critic/      tiny models as Hugging Face directories: two LLaMA, and a GPT-2 with a scalar head; float32
    sft.jsonl ranked.jsonl pairs.jsonl order.jsonl      what SFT and the reward model read; a token is a byte, 256 is the end
    rollout-tf.h5 rollout-torch.h5  experience with what shaping, GAE and whitening make of it
    after-NAME/                     the models after the steps
    expected.json                   the hyperparameters and every number that a stage should log
"""
import json
import math
import os
import shutil

import h5py
import numpy
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stages")
END, VOCAB = 256, 257
LLAMA = LlamaConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=48, rms_norm_eps=1e-5, rope_theta=500.0,
                    tie_word_embeddings=True, bos_token_id=END, eos_token_id=END)
GPT2 = GPT2Config(vocab_size=VOCAB, n_positions=48, n_embd=12, n_layer=2, n_head=3, n_inner=24, resid_pdrop=0,
                  embd_pdrop=0, attn_pdrop=0, num_labels=1, pad_token_id=END, bos_token_id=END, eos_token_id=END)

SFT = dict(lr=2e-3, beta1=0.9, beta2=0.99, epsilon=1e-5, weight_decay=0.1, clip=1.0, form="torch", schedule="cosine", final=0.1, steps=3)
RM = dict(lr=2e-3, beta1=0.9, beta2=0.99, epsilon=1e-5, weight_decay=0.1, clip=1.0, form="torch", schedule="constant", final=0.0, steps=2,
          margin_scale=0.25)
PPO = {
    # The recipe of Ziegler et al. 2019: on-policy, TF form, k1, nothing but advantages whitened.
    "tf": dict(temperature=1.0, kl="k1", kl_coefficient=0.1, gamma=1.0, lam=0.95, whiten_rewards=False, epochs=2, clip_low=0.2,
               clip_high=0.2, value_clip=0.2, value_coefficient=1.0, entropy_coefficient=0.0, stale=0.0,
               actor=dict(lr=4e-3, beta1=0.9, beta2=0.999, epsilon=1e-5, weight_decay=0.0, clip=1.0, form="tf", schedule="constant", final=0.0,
                          steps=2),
               critic=dict(lr=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-5, weight_decay=0.0, clip=1.0, form="tf", schedule="constant", final=0.0,
                           steps=2)),
    # Every other knob turned: stale log-probs and values, so that ratios lie on both sides of the clip from the first step.
    "torch": dict(temperature=0.7, kl="k3", kl_coefficient=0.2, gamma=0.97, lam=0.9, whiten_rewards=True, epochs=2, clip_low=0.1,
                  clip_high=0.3, value_clip=0.3, value_coefficient=0.5, entropy_coefficient=0.02, stale=0.2,
                  actor=dict(lr=2e-3, beta1=0.8, beta2=0.95, epsilon=1e-5, weight_decay=0.05, clip=0.5, form="torch", schedule="linear", final=0.1,
                             steps=10),
                  critic=dict(lr=3e-3, beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.05, clip=0.0, form="torch", schedule="linear",
                              final=0.0, steps=10)),
}


# --- Models ---

class Critic(torch.nn.Module):
    """GPT-2 and a scalar head with a bias, which Hugging Face's has not."""

    def __init__(self):
        super().__init__()
        self.body = GPT2ForSequenceClassification(GPT2)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens):
        return self.body.score(self.body.transformer(torch.tensor(tokens)[None]).last_hidden_state[0])[:, 0] + self.bias

    def named(self):
        return {**dict(self.body.named_parameters()), "score.bias": self.bias}


class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = LlamaForCausalLM(LLAMA)

    def forward(self, tokens):
        return self.body(torch.tensor(tokens)[None]).logits[0]

    def named(self):
        return dict(self.body.named_parameters())


def randomise(model, seed):
    """Larger than a real initialisation, so that no term of any gradient hides; every bias and gain takes part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named().items():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * (0.4 if "embed" in name or "wte" in name or "wpe" in name else 0.25))
            else:
                gain = ("norm" in name or "ln_" in name) and name.endswith("weight")
                parameter.copy_(noise * 0.2 + (1.0 if gain else 0.0))


def save(model, name):
    directory = os.path.join(HERE, name)
    os.makedirs(directory, exist_ok=True)
    model.body.config.save_pretrained(directory)
    save_file({key: value.detach().float().contiguous() for key, value in model.named().items()},
              os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})


def fresh(kind, start):
    """A float64 copy of `start`, whose numbers are those of its float32 file."""
    model = kind().double().eval()
    with torch.no_grad():
        for name, parameter in model.named().items():
            parameter.copy_(start.named()[name].float().double())
    return model


# --- Optimizer ---

class Optimizer:
    """Matrices decay; norms, biases and position tables do not. Gradients are clipped to a norm. Steps count from 0 in the schedule."""

    def __init__(self, model, settings):
        self.settings, self.model, self.step_index = settings, model, 0
        named = model.named()
        decays = {name: p.ndim == 2 and "wpe" not in name for name, p in named.items()}
        groups = [dict(params=[p for n, p in named.items() if decays[n]], weight_decay=settings["weight_decay"]),
                  dict(params=[p for n, p in named.items() if not decays[n]], weight_decay=0.0)]
        self.groups = groups
        if settings["form"] == "torch":
            self.torch = torch.optim.AdamW(groups, lr=settings["lr"], betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"])
        else:
            self.moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in named.values()}

    def lr(self):
        s = self.settings
        done = self.step_index / s["steps"]
        left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[s["schedule"]]
        return s["lr"] * (s["final"] + (1 - s["final"]) * left)

    def step(self, loss):
        """Returns the gradient's norm before clipping."""
        s, parameters = self.settings, list(self.model.named().values())
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, s["clip"] if s["clip"] > 0 else math.inf))
        lr = self.lr()
        self.step_index += 1
        if s["form"] == "torch":
            for group in self.torch.param_groups:
                group["lr"] = lr
            self.torch.step()
            return norm
        t = self.step_index
        rate = lr * math.sqrt(1 - s["beta2"] ** t) / (1 - s["beta1"] ** t)
        with torch.no_grad():
            for group in self.groups:
                for p in group["params"]:
                    m, v = self.moments[p]
                    m += (1 - s["beta1"]) * (p.grad - m)
                    v += (1 - s["beta2"]) * (p.grad ** 2 - v)
                    p -= rate * m / (v.sqrt() + s["epsilon"]) + lr * group["weight_decay"] * p
        return norm


# --- Supervised fine-tuning ---

SFT_EXAMPLES = [("Name a colour.", "Teal"), ("2+2=", "4"), ("Où est-il ?", "là"), ("Say it twice: ho", "ho ho, said the old man"),
                ("Q", "A"), ("Reverse abc:", "cba")]


def tokens_of(text):
    return list(text.encode())


def sft(policy):
    with open(os.path.join(HERE, "sft.jsonl"), "w") as file:
        for prompt, response in SFT_EXAMPLES:
            file.write(json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) + "\n")
    model, result = fresh(Policy, policy), dict(settings=SFT, loss=[], grad_norm=[])
    optimizer = Optimizer(model, SFT)
    for _ in range(SFT["steps"]):
        total, targets = 0.0, 0
        for prompt, response in SFT_EXAMPLES:
            sequence = tokens_of(prompt) + tokens_of(response) + [END]
            logprob = torch.log_softmax(model(sequence), -1)
            for t in range(len(tokens_of(prompt)), len(sequence)):
                total = total - logprob[t - 1, sequence[t]]
                targets += 1
        loss = total / targets
        result["loss"].append(loss.item())
        result["targets"] = targets
        result["grad_norm"].append(optimizer.step(loss))
    save(model, "after-sft")
    return result


# --- Reward model ---

RANKED = [dict(prompt="Rhyme with cat:", responses=["hat", "dog", "a mat", "bat bat"], scores=[2.5, -1.0, 0.5, 0.5]),
          dict(prompt="Be polite.", responses=["No!", "Gladly", "Fine"], ranks=[3, 1, 2])]
PAIRS = [dict(prompt="Héllo", chosen="Good day to you", rejected="Go"), dict(prompt="x", chosen="y", rejected="z", margin=2.0)]
ORDER = [dict(prompt="Sort:", responses=["d", "bb", "a c e", "c"], ranks=[3, 1, 0, 2]),
         dict(prompt="Pick one of three now", responses=["ok", "oh", "so so"], scores=[0.1, 0.7, -3.0])]


def groups_of(records):
    """[(sequences, strengths)]: higher strength is better."""
    groups = []
    for record in records:
        if "chosen" in record:
            answers, strengths = [record["chosen"], record["rejected"]], [record.get("margin", 1.0), 0.0]
        else:
            answers = record["responses"]
            strengths = record.get("scores") or [-rank for rank in record["ranks"]]
        groups.append(([tokens_of(record["prompt"]) + tokens_of(answer) + [END] for answer in answers], strengths))
    return groups


def pairs_loss(rewards, strengths, margin_scale):
    """Mean over pairs of -log sigmoid(r_w - r_l - margin); ties are no pairs."""
    terms = [-torch.nn.functional.logsigmoid(rewards[i] - rewards[j] - margin_scale * (strengths[i] - strengths[j]))
             for i in range(len(rewards)) for j in range(len(rewards)) if strengths[i] > strengths[j]]
    return sum(terms) / len(terms)


def order_loss(rewards, strengths, _):
    """-log P(order) of Plackett-Luce, per choice made."""
    order = sorted(range(len(rewards)), key=lambda i: -strengths[i])
    terms = [torch.logsumexp(rewards[order[i:]], 0) - rewards[order[i]] for i in range(len(order) - 1)]
    return sum(terms) / len(terms)


def reward_model(critic, records, loss_of, name):
    model, groups = fresh(Critic, critic), groups_of(records)
    result = dict(settings=RM, loss=[], grad_norm=[], accuracy=[], margin=[])
    optimizer = Optimizer(model, RM)
    for _ in range(RM["steps"]):
        loss, right, margin, pairs = 0.0, 0.0, 0.0, 0
        for sequences, strengths in groups:
            rewards = torch.stack([model(sequence)[-1] for sequence in sequences])
            loss = loss + loss_of(rewards, strengths, RM["margin_scale"]) / len(groups)
            for i in range(len(rewards)):
                for j in range(len(rewards)):
                    if strengths[i] > strengths[j]:
                        lead = (rewards[i] - rewards[j]).item()
                        right, margin, pairs = right + (lead > 0), margin + lead, pairs + 1
        result["loss"].append(loss.item())
        result["accuracy"].append(right / pairs)
        result["margin"].append(margin / pairs)
        result["pairs"] = pairs
        result["grad_norm"].append(optimizer.step(loss))
    with torch.no_grad():
        rewards = numpy.array([model(sequence)[-1].item() for sequences, _ in groups for sequence in sequences])
    result["reward_mean"], result["reward_deviation"] = rewards.mean(), rewards.std()
    save(model, "after-" + name)
    return result


# --- PPO ---

def response_logprobs(model, prompt, response, temperature):
    """log pi(y_t | x, y_<t) and the entropy of pi(. | x, y_<t): token t is read from the logits one place before it."""
    logits = model(prompt + response)[len(prompt) - 1:-1] / temperature
    logprob = torch.log_softmax(logits, -1)
    return logprob.gather(1, torch.tensor(response)[:, None])[:, 0], -(logprob.exp() * logprob).sum(-1)


def response_values(model, prompt, response):
    return model(prompt + response)[len(prompt) - 1:-1]


def whiten(values, shift_mean=True):
    flat = numpy.concatenate(values)
    mean, deviation = flat.mean(), math.sqrt(flat.var() + 1e-8)
    return [(x - mean) / deviation + (0.0 if shift_mean else mean) for x in values]


def advantages(s, old, reference, value, score):
    """Ziegler et al. 2019 (the penalty per token, the score on the last), Schulman et al. 2016 (GAE)."""
    kl, reward = [], []
    for o, r, c in zip(old, reference, score):
        d = o - r
        k = {"k1": d, "k3": numpy.exp(-d) - 1 + d}[s["kl"]]
        kl.append(k)
        reward.append(-s["kl_coefficient"] * k)
        reward[-1][-1] += c
    if s["whiten_rewards"]:
        reward = whiten(reward, shift_mean=False)
    advantage = []
    for r, v in zip(reward, value):
        a = numpy.zeros(len(r))
        for t in range(len(r)):   # the sum of (gamma lambda)^l delta_{t+l}, as defined
            for l in range(len(r) - t):
                after = v[t + l + 1] if t + l + 1 < len(r) else 0.0
                a[t] += (s["gamma"] * s["lam"]) ** l * (r[t + l] + s["gamma"] * after - v[t + l])
        advantage.append(a)
    returns = [a + v for a, v in zip(advantage, value)]
    return kl, reward, whiten(advantage), returns


def experience(s, policy, reference, critic, seed):
    generator = torch.Generator().manual_seed(seed)
    prompts, responses, stopped = [], [], []
    with torch.no_grad():
        for prompt_length, longest in [(3, 9), (1, 5), (8, 1), (5, 14), (2, 7), (11, 3), (4, 20)]:
            prompt = torch.randint(0, END, (prompt_length,), generator=generator).tolist()
            response = []
            while len(response) < longest and END not in response:
                odds = torch.softmax(policy(prompt + response)[-1] / s["temperature"], -1)
                response.append(int(torch.multinomial(odds, 1, generator=generator)))
            prompts.append(prompt)
            responses.append(response)
            stopped.append(response[-1] == END)

        def noise(x):
            return x.numpy() + s["stale"] * torch.randn(len(x), generator=generator, dtype=torch.float64).numpy()

        each = list(zip(prompts, responses))
        old_exact = [response_logprobs(policy, p, r, s["temperature"])[0].numpy() for p, r in each]
        value_exact = [response_values(critic, p, r).numpy() for p, r in each]
        old = [noise(response_logprobs(policy, p, r, s["temperature"])[0]) for p, r in each]
        ref = [response_logprobs(reference, p, r, s["temperature"])[0].numpy() for p, r in each]
        entropy = numpy.concatenate([response_logprobs(policy, p, r, s["temperature"])[1].numpy() for p, r in each]).mean()
        value = [noise(response_values(critic, p, r)) for p, r in each]
        score = torch.randn(len(each), generator=generator, dtype=torch.float32).numpy().astype(float)
    # What a file holds is float32, and that is what an update starts from.
    old, ref, value = ([x.astype(numpy.float32).astype(float) for x in column] for column in (old, ref, value))
    kl, reward, advantage, returns = advantages(s, old, ref, value, score)
    return dict(prompts=prompts, responses=responses, stopped=stopped, score=score, old=old, reference=ref, value=value, kl=kl, reward=reward,
                advantage=advantage, returns=returns, entropy=entropy, old_exact=old_exact, value_exact=value_exact)


def write_rollout(path, s, e):
    prompt_length = [len(p) for p in e["prompts"]]
    response_length = [len(r) for r in e["responses"]]
    with h5py.File(path, "w", track_order=False) as file:
        def put(name, values, dtype):
            file.create_dataset(name, data=numpy.asarray(values, dtype), track_times=False)
        put("prompt_id", range(len(prompt_length)), "i8")
        put("sample_index", [0] * len(prompt_length), "i4")
        put("prompt_length", prompt_length, "i4")
        put("response_length", response_length, "i4")
        put("stopped", e["stopped"], "u1")
        put("score", e["score"], "f4")
        put("reward_raw", e["score"], "f4")
        put("start", numpy.cumsum([0] + [p + r for p, r in zip(prompt_length, response_length)]), "i8")
        put("response_start", numpy.cumsum([0] + response_length), "i8")
        put("token", sum((p + r for p, r in zip(e["prompts"], e["responses"])), []), "i4")
        for name, column in [("sampled_logprob", "old"), ("old_logprob", "old"), ("reference_logprob", "reference"), ("value", "value"),
                             ("kl", "kl"), ("reward_shaped", "reward"), ("advantage", "advantage"), ("return", "returns"),
                             # Not of the format: what policy and critic say themselves, where the columns above are stale.
                             ("exact/old_logprob", "old_exact"), ("exact/value", "value_exact")]:
            put(name, numpy.concatenate(e[column]), "f4")
        file.attrs["policy_step"] = numpy.int64(0 if s["stale"] == 0 else 3)
        file.attrs["temperature"] = float(s["temperature"])
        file.attrs["kl_coefficient"] = float(s["kl_coefficient"])


def float32(columns):
    return [torch.tensor(numpy.asarray(x, numpy.float32).astype(float)) for x in columns]


def ppo(name, policy, reference, critic):
    s = PPO[name]
    actor, value_model = fresh(Policy, policy), fresh(Critic, critic)
    e = experience(s, actor, fresh(Policy, reference), value_model, {"tf": 61, "torch": 62}[name])
    write_rollout(os.path.join(HERE, f"rollout-{name}.h5"), s, e)
    each, old, advantage = list(zip(e["prompts"], e["responses"])), float32(e["old"]), float32(e["advantage"])
    returns, old_value = float32(e["returns"]), float32(e["value"])
    n = sum(len(r) for r in e["responses"])
    keys = ["policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "approx_kl", "approx_kl_k3", "ratio", "actor_grad_norm",
            "critic_grad_norm", "actor_lr", "critic_lr"]
    result = dict(settings=s, epochs={key: [] for key in keys})
    actor_optimizer, critic_optimizer = Optimizer(actor, s["actor"]), Optimizer(value_model, s["critic"])
    for _ in range(s["epochs"]):
        log = dict.fromkeys(keys, 0.0)
        loss, bonus = 0.0, 0.0
        for i, (p, r) in enumerate(each):
            logprob, entropy = response_logprobs(actor, p, r, s["temperature"])
            ratio = torch.exp(logprob - old[i])
            free = -advantage[i] * ratio
            clipped = -advantage[i] * torch.clamp(ratio, 1 - s["clip_low"], 1 + s["clip_high"])
            loss = loss + torch.maximum(free, clipped).sum() / n
            bonus = bonus + entropy.sum() / n
            d = (logprob - old[i]).detach()
            log["clip_fraction"] += (clipped > free).double().sum().item() / n
            log["approx_kl"] += (d ** 2 / 2).sum().item() / n
            log["approx_kl_k3"] += (d.exp() - 1 - d).sum().item() / n
            log["ratio"] += ratio.sum().item() / n
        log["policy_loss"], log["actor_lr"] = loss.item(), actor_optimizer.lr()
        log["actor_grad_norm"] = actor_optimizer.step(loss - s["entropy_coefficient"] * bonus)
        loss = 0.0
        for i, (p, r) in enumerate(each):
            value = response_values(value_model, p, r)
            near = old_value[i] + torch.clamp(value - old_value[i], -s["value_clip"], s["value_clip"])
            squares, clipped = (value - returns[i]) ** 2, (near - returns[i]) ** 2
            loss = loss + s["value_coefficient"] * 0.5 * torch.maximum(squares, clipped).sum() / n
            log["value_clip_fraction"] += (clipped > squares).double().sum().item() / n
        log["value_loss"], log["critic_lr"] = loss.item(), critic_optimizer.lr()
        log["critic_grad_norm"] = critic_optimizer.step(loss)
        for key in keys:
            result["epochs"][key].append(log[key])
    save(actor, f"after-ppo-{name}-actor")
    save(value_model, f"after-ppo-{name}-critic")
    flat = {key: numpy.concatenate(e[key]) for key in ("returns", "value", "reward", "old", "reference")}
    result["rollout"] = dict(
        kl=sum((o - r).sum() for o, r in zip(e["old"], e["reference"])) / len(each), score=e["score"].mean(), reward=e["score"].mean(),
        shaped_reward=flat["reward"].sum() / len(each), value=flat["value"].mean(), length=n / len(each),
        length_min=min(len(r) for r in e["responses"]), length_max=max(len(r) for r in e["responses"]), ended=numpy.mean(e["stopped"]),
        explained_variance=1 - (flat["returns"] - flat["value"]).var() / flat["returns"].var())
    result["entropy"] = e["entropy"]
    return result


# --- All ---

def write_tokenizer(directory):
    """Byte-level without merges: the token of a byte is the byte. GPT-2's printable stand-ins for bytes."""
    printable = list(range(ord("!"), ord("~") + 1)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = iter(range(256, 512))
    vocab = {chr(b if b in printable else next(others)): b for b in range(256)}
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", truncation=None, padding=None, normalizer=None, pre_tokenizer=level, post_processor=None, decoder=level,
                     added_tokens=[dict(id=END, content="<|endoftext|>", single_word=False, lstrip=False, rstrip=False, normalized=False,
                                        special=True)],
                     model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                                fuse_unk=False, byte_fallback=False, vocab={**vocab, "<|endoftext|>": END}, merges=[]))
    with open(os.path.join(directory, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file, ensure_ascii=False)
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as file:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>"), file)


def main():
    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    os.makedirs(HERE)
    policy, reference, critic = Policy(), Policy(), Critic()
    randomise(policy, 51)
    randomise(reference, 52)
    randomise(critic, 53)
    with torch.no_grad():   # a reference that the policy has moved away from, but not far
        for name, parameter in reference.named().items():
            parameter.copy_(policy.named()[name] + 0.1 * parameter)
    save(policy, "policy")
    save(reference, "reference")
    save(critic, "critic")
    write_tokenizer(os.path.join(HERE, "policy"))
    for name, records in [("ranked", RANKED), ("pairs", PAIRS), ("order", ORDER)]:
        with open(os.path.join(HERE, name + ".jsonl"), "w") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    expected = dict(sft=sft(policy), rm_pairs=reward_model(critic, RANKED + PAIRS, pairs_loss, "rm-pairs"),
                    rm_order=reward_model(critic, ORDER, order_loss, "rm-order"),
                    ppo_tf=ppo("tf", policy, reference, critic), ppo_torch=ppo("torch", policy, reference, critic))
    with open(os.path.join(HERE, "expected.json"), "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")


main()
