/* reward_model.c -- a trained reward model as a judge: packed ragged batches through the decoder, the scalar head on each last token. */
#include "rewards/reward_model.h"

#include <string.h>
#include <sys/stat.h>

#include "core/base/memory.h"
#include "core/data/template.h"

/* What the reward-model stage measured on held-out answers; a directory, or a file without them, has 0 and 1. */
static Status read_moments(const char *path, double *mean, double *deviation)
{
    *mean = 0;
    *deviation = 1;
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return status_ok();
    H5File *file = NULL;
    TRY(h5_open(path, NULL, &file));
    Status status = status_ok();
    if (h5_attribute(file, "/state", "reward_mean") && h5_attribute(file, "/state", "reward_deviation")) {
        status = h5_read_real(file, "/state", "reward_mean", mean);
        if (!status_failed(status))
            status = h5_read_real(file, "/state", "reward_deviation", deviation);
        if (!status_failed(status) && !(*deviation > 0))
            status = status_error(STATUS_INPUT, "%s: /state@reward_deviation: expected a number above 0, found %g",
                                  path, *deviation);
    }
    h5_close(&file);
    return status;
}

Status reward_model_open(RewardModel *judge, Comm *comm, Device *device, const char *path, int64_t unit_tokens)
{
    *judge = (RewardModel){.unit_tokens = unit_tokens, .deviation = 1};
    bool has_head = false;
    TRY(model_load(comm, device, path, HEAD_SCALAR, &judge->model, &has_head, &judge->tokenizer, judge->digest));
    model_freeze(&judge->model);
    Status status = status_ok();
    if (!has_head)
        status = status_error(STATUS_INPUT, "%s: expected a reward model, found a model without a score head", path);
    else if (!judge->tokenizer)
        status = status_error(STATUS_INPUT, "%s: a reward model without a tokenizer", path);
    else if (tokenizer_vocab_size(judge->tokenizer) > judge->model.shape.vocab)
        status = status_error(STATUS_INPUT, "%s: the tokenizer has %d tokens, the model %lld", path,
                              (int)tokenizer_vocab_size(judge->tokenizer), (long long)judge->model.shape.vocab);
    /* The model of a plan may only be promised. */
    if (!status_failed(status) && device->backend->computes)
        status = read_moments(path, &judge->mean, &judge->deviation);
    status = comm_agree(comm, status);
    if (status_failed(status))
        reward_model_close(judge);
    return status;
}

void reward_model_close(RewardModel *judge)
{
    if (judge->model.device)
        model_close(&judge->model);
    tokenizer_close(&judge->tokenizer);
    *judge = (RewardModel){0};
}

static Status check_sequence(const RewardModel *judge, const int32_t *token, int64_t length, int64_t index)
{
    const ModelShape *shape = &judge->model.shape;
    if (length < 1)
        return status_error(STATUS_INPUT, "sample %lld has no tokens", (long long)index);
    if (length > shape->positions_max)
        return status_error(STATUS_INPUT,
                            "sample %lld has %lld tokens, more than the reward model's positions_max %lld",
                            (long long)index, (long long)length, (long long)shape->positions_max);
    for (int64_t t = 0; t < length; t++)
        if (token[t] < 0 || token[t] >= shape->vocab)
            return status_error(STATUS_INPUT, "sample %lld: token %d is outside the reward model's vocabulary of %lld",
                                (long long)index, (int)token[t], (long long)shape->vocab);
    return status_ok();
}

/* Sequences [from, to) as one ragged batch. */
static void score_unit(const RewardModel *judge, Exec *exec, const int32_t *const *token, const int64_t *length,
                       int64_t from, int64_t to, float *score)
{
    int64_t sequences = to - from, tokens = 0;
    for (int64_t i = from; i < to; i++)
        tokens += length[i];
    int32_t *start = memory_borrow((size_t)sequences + 1, sizeof *start);
    int32_t *last = memory_borrow((size_t)sequences, sizeof *last);
    int32_t *flat = memory_borrow((size_t)tokens, sizeof *flat);
    for (int64_t i = 0; i < sequences; i++) {
        memcpy(flat + start[i], token[from + i], (size_t)length[from + i] * sizeof *flat);
        start[i + 1] = start[i] + (int32_t)length[from + i];
        last[i] = start[i + 1] - 1;
    }
    size_t mark = arena_mark(exec->step);
    Exec inference = {exec->device, exec->step, NULL};
    TokenBatch batch = token_batch_make(exec->device, exec->step, flat, start, sequences, NULL);
    Tensor wanted = tensor_new1(exec->step, DTYPE_I32, sequences);
    tensor_write(exec->device, wanted, last);
    Tensor hidden = model_hidden(&judge->model, &inference, &batch, wanted, NULL);
    Tensor reward = model_score(&judge->model, &inference, hidden);
    tensor_read(exec->device, reward, score + from);
    arena_rewind(exec->step, mark);
    memory_return(&flat);
    memory_return(&last);
    memory_return(&start);
}

Status reward_model_score(const RewardModel *judge, Exec *exec, const int32_t *const *token, const int64_t *length,
                          int64_t count, float *score)
{
    for (int64_t i = 0; i < count; i++)
        TRY(check_sequence(judge, token[i], length[i], i));
    for (int64_t from = 0, to; from < count; from = to) {
        int64_t tokens = length[from];
        for (to = from + 1; to < count && tokens + length[to] <= judge->unit_tokens; to++)
            tokens += length[to];
        score_unit(judge, exec, token, length, from, to, score);
    }
    return status_ok();
}

/* --- The judge ------------------------------------------------------------------------------------------------------ */

typedef struct ModelJudgeConfig {
    const char *model;
    bool normalise;
    int64_t unit_tokens;
} ModelJudgeConfig;

static const ConfigKey model_keys[] = {
    CONFIG_KEY_PATH(
        ModelJudgeConfig, model, NULL,
        "The reward model: final.h5 of a reward-model stage, or a Hugging Face directory with a score head.",
        .operational = true),
    CONFIG_KEY_BOOL(
        ModelJudgeConfig, normalise, "false",
        "Subtract the mean and divide by the deviation of its held-out rewards, as stored with it. Off, because "
        "PPO normalises the sum of all judges by what its own policy starts with; on, to mix a model with rules."),
    CONFIG_KEY_INT(ModelJudgeConfig, unit_tokens, "4096", 1, 1 << 24,
                   "At most so many tokens in one forward: bounds memory, and is part of what bits a reward has."),
    {0},
};

typedef struct ModelJudge {
    RewardModel judge;
    bool normalise;
    bool same_tokens; /* the policy's tokens are this model's */
} ModelJudge;

static Status model_judge_open(const RewardContext *context, void **self)
{
    ModelJudgeConfig config;
    config_read(context->config, context->path, model_keys, &config);
    ModelJudge *own = memory_new(1, sizeof *own);
    Status status = reward_model_open(&own->judge, context->comm, context->device, config.model, config.unit_tokens);
    if (status_failed(status)) {
        memory_free(&own);
        return status;
    }
    own->normalise = config.normalise;
    own->same_tokens = tokenizer_digest(context->tokenizer) == tokenizer_digest(own->judge.tokenizer);
    *self = own;
    return status_ok();
}

/* The sample in this model's own tokens: prompt and answer each by itself, as conversations are tokenised everywhere. */
static Status encode_sample(const Tokenizer *tokenizer, const RewardSample *sample, TemplateTokens *out)
{
    const Template *plain = template_get(TEMPLATE_PLAIN);
    Message prompt = {ROLE_USER, sample->prompt, strlen(sample->prompt)};
    TRY(template_encode(plain, tokenizer, &prompt, 1, out));
    return template_encode_answer(plain, tokenizer, sample->response, strlen(sample->response), sample->stopped, out);
}

static Status model_judge_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    const ModelJudge *own = self;
    const int32_t **token = memory_borrow((size_t)count, sizeof *token);
    int64_t *length = memory_borrow((size_t)count, sizeof *length);
    TemplateTokens *encoded = memory_borrow((size_t)count, sizeof *encoded);
    Status status = status_ok();
    for (int64_t i = 0; i < count; i++) {
        token[i] = samples[i].token;
        length[i] = samples[i].count;
        if (own->same_tokens)
            continue;
        TRY_GOTO(
            status_prefix(encode_sample(own->judge.tokenizer, &samples[i], &encoded[i]), "sample %lld", (long long)i),
            out);
        token[i] = encoded[i].tokens.ids;
        length[i] = encoded[i].tokens.count;
    }
    TRY_GOTO(reward_model_score(&own->judge, exec, token, length, count, score), out);
    for (int64_t i = 0; i < count && own->normalise; i++)
        score[i] = (float)(((double)score[i] - own->judge.mean) / own->judge.deviation);
out:
    for (int64_t i = 0; i < count; i++)
        template_tokens_free(&encoded[i]);
    memory_return(&encoded);
    memory_return(&length);
    memory_return(&token);
    return status;
}

static void model_judge_close(void *self)
{
    ModelJudge *own = self;
    reward_model_close(&own->judge);
    memory_release(own);
}

static const char *model_judge_digest(void *self)
{
    return ((ModelJudge *)self)->judge.digest;
}

static size_t model_judge_bytes(void *self)
{
    return model_bytes(&((ModelJudge *)self)->judge.model);
}

const RewardKind reward_kind_model = {
    .name = "model",
    .keys = model_keys,
    .help = "a trained reward model",
    .open = model_judge_open,
    .score = model_judge_score,
    .close = model_judge_close,
    .digest = model_judge_digest,
    .bytes = model_judge_bytes,
};
