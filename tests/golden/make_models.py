#!/usr/bin/env python3
"""Goldens of the model families: tiny random models as Hugging Face directories, and what PyTorch makes of them.

    python3 tests/golden/make_models.py          (torch, transformers, safetensors)

Each directory holds config.json and model.safetensors as transformers writes them, and expected.safetensors:
    tokens, start       a ragged batch: sequence s is tokens[start[s]:start[s + 1]]
    weight              per token; 0 on the last token of each sequence, which has no target
    logits, loss        language models: loss = sum over t of weight[t] * -log softmax(logits[t])[tokens[t + 1]]
    score, target, loss scalar heads: loss = sum over t of weight[t] * (score[t] - target[t])^2 / 2
    grad.NAME           d loss / d NAME for every tensor of model.safetensors; grad.score.bias for scalar heads, whose bias
                        Hugging Face does not have
Weights are float32; the reference runs one sequence at a time in float64, so nothing in it knows about packing.
"""
import os

import torch
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          LlamaForSequenceClassification)

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS = [7, 1, 12, 2, 5]

LLAMA = dict(vocab_size=70, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=20, rms_norm_eps=1e-5, rope_theta=500.0)

MODELS = {
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=True), torch.float32),
    # A head_dim that is not hidden_size / heads, one key head, two shards, and weights that are exact in 16 bits.
    "llama-untied": (LlamaForCausalLM, LlamaConfig(**dict(LLAMA, head_dim=8, num_key_value_heads=1),
                                                   tie_word_embeddings=False), torch.bfloat16),
    "llama-score": (LlamaForSequenceClassification,
                    LlamaConfig(**dict(LLAMA, num_hidden_layers=1), num_labels=1, pad_token_id=0), torch.float32),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=70, n_positions=20, n_embd=24, n_layer=2, n_head=4, n_inner=None,
                                         resid_pdrop=0, embd_pdrop=0, attn_pdrop=0), torch.float32),
}


def randomise(model, generator):
    """Larger than a real initialisation, so that no term of any gradient hides; every bias and gain takes part."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * (0.5 if "embed" in name or "wte" in name else 0.25))
            else:
                gain = "norm" in name or ".ln_" in name
                parameter.copy_(noise * 0.2 + (1.0 if gain and name.endswith("weight") else 0.0))


def make(directory, model_class, config, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config).eval()
    randomise(model, generator)
    model = model.to(dtype)
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        os.remove(os.path.join(directory, name))
    model.save_pretrained(directory, max_shard_size="20KB" if dtype == torch.bfloat16 else "1GB")
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(directory, extra)):
            os.remove(os.path.join(directory, extra))
    # A fresh reference, because a model cast to 16 bits has its table of rotations cast too.
    reference = model_class(config).eval().double()
    reference.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    model = reference

    start = [0]
    for length in LENGTHS:
        start.append(start[-1] + length)
    tokens = torch.randint(0, config.vocab_size, (start[-1],), generator=generator)
    weight = torch.rand(start[-1], generator=generator, dtype=torch.float32) / 10
    target = torch.randn(start[-1], generator=generator, dtype=torch.float32)
    scalar = model_class is LlamaForSequenceClassification
    outputs, loss = [], torch.zeros((), dtype=torch.float64)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for s in range(len(LENGTHS)):
        a, b = start[s], start[s + 1]
        if scalar:
            hidden = model.model(tokens[None, a:b]).last_hidden_state[0]
            score = model.score(hidden)[:, 0] + bias
            outputs.append(score)
            loss = loss + (weight[a:b].double() * (score - target[a:b].double()) ** 2 / 2).sum()
        else:
            weight[b - 1] = 0
            logits = model(tokens[None, a:b]).logits[0]
            outputs.append(logits)
            logprob = torch.log_softmax(logits[:-1], -1).gather(1, tokens[a + 1:b, None])[:, 0]
            loss = loss - (weight[a:b - 1].double() * logprob).sum()
    loss.backward()

    expected = {"tokens": tokens.int(), "start": torch.tensor(start, dtype=torch.int32), "weight": weight,
                "score" if scalar else "logits": torch.cat(outputs).detach().float(), "loss": loss.detach().float()[None]}
    if scalar:
        expected["target"] = target
        expected["grad.score.bias"] = bias.grad.float()
    for name, parameter in model.named_parameters():
        expected["grad." + name] = parameter.grad.float()
    save_file(expected, os.path.join(directory, "expected.safetensors"))


for number, (name, (model_class, config, dtype)) in enumerate(MODELS.items()):
    make(os.path.join(HERE, "models", name), model_class, config, dtype, 1000 + number)
