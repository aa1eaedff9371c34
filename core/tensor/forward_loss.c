/* forward_loss.c -- losses over scalars, the per-token recipes of PPO, sampling, and ops on flat buffers. */
#include "core/tensor/forward.h"

#include "core/tensor/tape_record.h"

/* Any shape with this many elements (-1: any): a value head's (rows, 1) is as good as (rows). */
static void check(Tensor x, const char *what, DType dtype, int64_t count)
{
    tensor_check(x, what, dtype, -1, -1, -1);
    REQUIRE(count < 0 || tensor_count(x) == count, "%s: %lld elements are wanted, %lld were given", what,
            (long long)count, (long long)tensor_count(x));
}

/* ---- Losses ---- */

/* A buffer for the gradient of x, 0 when none is wanted. */
static int gradient_new(Exec *exec, Tensor x)
{
    return tape_wants(exec, x, NULL, NULL) ? tape_buffer_new(exec, tensor_bytes(x)) : 0;
}

void value_loss(Exec *exec, Tensor value, Tensor old_value, Tensor returns, Tensor weight, float clip,
                float coefficient, Tensor stats)
{
    int64_t rows = tensor_count(value);
    check(value, "value", DTYPE_F32, rows);
    check(old_value, "old value", DTYPE_F32, rows);
    check(returns, "returns", DTYPE_F32, rows);
    check(weight, "value weight", DTYPE_F32, rows);
    check(stats, "value stats", DTYPE_F64, VALUE_STATS);
    int gradient = gradient_new(exec, value);
    ValueLossArgs args = {.value = value.data,
                          .old_value = old_value.data,
                          .returns = returns.data,
                          .weight = weight.data,
                          .dvalue = gradient ? tape_buffer_data(exec->tape, gradient) : NULL,
                          .rows = rows,
                          .clip = clip,
                          .coefficient = coefficient,
                          .stats = stats.data};
    device_run(exec->device, OP_value_loss, &args);
    if (gradient)
        tape_gradient_give(exec, value, gradient);
}

void rank_loss(Exec *exec, RankKind kind, Tensor reward, Tensor strength, Tensor start, Tensor weight,
               float margin_scale, Tensor stats)
{
    int64_t answers = tensor_count(reward), groups = tensor_count(weight);
    check(reward, "reward", DTYPE_F32, answers);
    check(strength, "strength", DTYPE_F32, answers);
    check(start, "group start", DTYPE_I32, groups + 1);
    check(weight, "group weight", DTYPE_F32, groups);
    check(stats, "rank stats", DTYPE_F64, RANK_STATS);
    int gradient = gradient_new(exec, reward);
    RankLossArgs args = {.kind = kind,
                         .reward = reward.data,
                         .strength = strength.data,
                         .start = start.data,
                         .weight = weight.data,
                         .dreward = gradient ? tape_buffer_data(exec->tape, gradient) : NULL,
                         .groups = groups,
                         .answers = answers,
                         .margin_scale = margin_scale,
                         .stats = stats.data};
    device_run(exec->device, OP_rank_loss, &args);
    if (gradient)
        tape_gradient_give(exec, reward, gradient);
}

/* ---- Recipes ---- */

void reward_shape(Exec *exec, KlKind kind, Tensor logprob, Tensor reference, Tensor score, const Ragged *rows,
                  float coefficient, Tensor reward, Tensor kl)
{
    check(logprob, "logprob", DTYPE_F32, rows->tokens);
    check(reference, "reference logprob", DTYPE_F32, rows->tokens);
    check(score, "score", DTYPE_F32, rows->sequences);
    check(reward, "shaped reward", DTYPE_F32, rows->tokens);
    check(kl, "kl", DTYPE_F32, rows->tokens);
    RewardShapeArgs args = {.kind = kind,
                            .logprob = logprob.data,
                            .reference = reference.data,
                            .score = score.data,
                            .start = rows->start.data,
                            .reward = reward.data,
                            .kl = kl.data,
                            .tokens = rows->tokens,
                            .sequences = rows->sequences,
                            .coefficient = coefficient};
    device_run(exec->device, OP_reward_shape, &args);
}

void gae(Exec *exec, Tensor reward, Tensor value, const Ragged *rows, float gamma, float lambda, Tensor advantage,
         Tensor returns)
{
    check(reward, "shaped reward", DTYPE_F32, rows->tokens);
    check(value, "value", DTYPE_F32, rows->tokens);
    check(advantage, "advantage", DTYPE_F32, rows->tokens);
    check(returns, "returns", DTYPE_F32, rows->tokens);
    GaeArgs args = {.reward = reward.data,
                    .value = value.data,
                    .start = rows->start.data,
                    .advantage = advantage.data,
                    .returns = returns.data,
                    .tokens = rows->tokens,
                    .sequences = rows->sequences,
                    .gamma = gamma,
                    .lambda = lambda};
    device_run(exec->device, OP_gae, &args);
}

void moments(Exec *exec, Tensor x, double centre, Tensor result)
{
    check(x, "moments x", DTYPE_F32, -1);
    check(result, "moments", DTYPE_F64, MOMENTS);
    MomentsArgs args = {.x = x.data, .count = tensor_count(x), .centre = centre, .result = result.data};
    device_run(exec->device, OP_moments, &args);
}

void whiten(Exec *exec, Tensor x, double shift, double scale, double offset)
{
    check(x, "whiten x", DTYPE_F32, -1);
    WhitenArgs args = {.x = x.data, .count = tensor_count(x), .shift = shift, .scale = scale, .offset = offset};
    device_run(exec->device, OP_whiten, &args);
}

void sample(Exec *exec, Tensor logits, int64_t vocab, const SampleTerms *terms, Tensor token, Tensor logprob)
{
    check(logits, "logits", DTYPE_F32, -1);
    int64_t rows = tensor_rows_count(logits), stored = tensor_width(logits);
    REQUIRE(vocab > 0 && vocab <= stored, "%lld ids in logits of width %lld", (long long)vocab, (long long)stored);
    check(terms->subsequence, "sample subsequence", DTYPE_I64, rows);
    check(terms->position, "sample position", DTYPE_I32, rows);
    check(token, "sampled token", DTYPE_I32, rows);
    check(logprob, "sampled logprob", DTYPE_F32, rows);
    SampleArgs args = {.logits = logits.data,
                       .rows = rows,
                       .vocab = vocab,
                       .ld = stored,
                       .temperature = terms->temperature,
                       .top_p = terms->top_p,
                       .top_k = terms->top_k,
                       .seed = terms->seed,
                       .subsequence = terms->subsequence.data,
                       .position = terms->position.data,
                       .token = token.data,
                       .logprob = logprob.data};
    device_run(exec->device, OP_sample, &args);
}

void decode_next(Exec *exec, const DecodeTerms *terms)
{
    int64_t rows = tensor_count(terms->token), history = tensor_count(terms->history);
    check(terms->token, "drawn token", DTYPE_I32, rows);
    check(terms->logprob, "drawn logprob", DTYPE_F32, rows);
    check(terms->next, "next token", DTYPE_I32, rows);
    check(terms->past, "past", DTYPE_I32, rows);
    check(terms->index, "index of the draw", DTYPE_I32, rows);
    check(terms->left, "draws left", DTYPE_I32, rows);
    check(terms->stop, "stop tokens", DTYPE_I32, -1);
    check(terms->step, "step of the burst", DTYPE_I32, 1);
    check(terms->history, "history of draws", DTYPE_I32, history);
    REQUIRE(rows > 0 && history % (2 * rows) == 0, "a history of %lld for %lld rows", (long long)history,
            (long long)rows);
    DecodeNextArgs args = {.token = terms->token.data,
                           .logprob = terms->logprob.data,
                           .next = terms->next.data,
                           .past = terms->past.data,
                           .index = terms->index.data,
                           .left = terms->left.data,
                           .stop = terms->stop.data,
                           .step = terms->step.data,
                           .history = terms->history.data,
                           .rows = rows,
                           .stops = tensor_count(terms->stop),
                           .steps_max = history / (2 * rows)};
    device_run(exec->device, OP_decode_next, &args);
}

/* ---- Flat buffers ---- */

void add(Exec *exec, Tensor out, Tensor a, Tensor b, float scale)
{
    int64_t count = tensor_count(out);
    check(out, "add out", DTYPE_F32, count);
    check(a, "add a", DTYPE_F32, count);
    check(b, "add b", DTYPE_F32, count);
    AddArgs args = {.out = out.data, .a = a.data, .b = b.data, .scale = scale, .count = count};
    device_run(exec->device, OP_add, &args);
}

void fill(Exec *exec, Tensor x, float value)
{
    check(x, "fill x", DTYPE_F32, -1);
    FillArgs args = {.x = x.data, .count = tensor_count(x), .value = value};
    device_run(exec->device, OP_fill, &args);
}

void sum_squares(Exec *exec, Tensor x, Tensor result)
{
    check(x, "sum_squares x", DTYPE_F32, -1);
    int64_t count = tensor_count(x);
    check(result, "sums of squares", DTYPE_F64, (count + SUM_BLOCK - 1) / SUM_BLOCK);
    SumSquaresArgs args = {.x = x.data, .count = count, .result = result.data};
    device_run(exec->device, OP_sum_squares, &args);
}

void clip_scale(Exec *exec, Tensor block, double max_norm, Tensor scale, Tensor norm)
{
    check(block, "sums of squares", DTYPE_F64, -1);
    check(scale, "clip scale", DTYPE_F32, 1);
    check(norm, "gradient norm", DTYPE_F64, 1);
    ClipScaleArgs args = {.block = block.data,
                          .blocks = tensor_count(block),
                          .max_norm = max_norm,
                          .scale = scale.data,
                          .norm = norm.data};
    device_run(exec->device, OP_clip_scale, &args);
}

void cast(Exec *exec, Tensor to, Tensor from)
{
    REQUIRE(tensor_count(to) == tensor_count(from), "a cast of %lld elements into %lld", (long long)tensor_count(from),
            (long long)tensor_count(to));
    CastArgs args = {from.dtype, to.dtype, from.data, to.data, tensor_count(from)};
    device_run(exec->device, OP_cast, &args);
}

void adamw(Exec *exec, AdamForm form, Tensor parameter, Tensor copy, Tensor gradient, Tensor exp_avg, Tensor exp_avg_sq,
           Tensor scale, int64_t step, double lr, double beta1, double beta2, double epsilon, double decay)
{
    int64_t count = tensor_count(parameter);
    check(parameter, "parameter", DTYPE_F32, count);
    check(gradient, "gradient", DTYPE_F32, count);
    check(exp_avg, "exp_avg", DTYPE_F32, count);
    check(exp_avg_sq, "exp_avg_sq", DTYPE_F32, count);
    check(scale, "gradient scale", DTYPE_F32, 1);
    if (tensor_present(copy))
        check(copy, "parameter copy", DTYPE_BF16, count);
    REQUIRE(step >= 1, "AdamW counts steps from 1, not %lld", (long long)step);
    AdamWArgs args = {.form = form,
                      .parameter = parameter.data,
                      .exp_avg = exp_avg.data,
                      .exp_avg_sq = exp_avg_sq.data,
                      .copy = copy.data,
                      .gradient = gradient.data,
                      .scale = scale.data,
                      .count = count,
                      .step = step,
                      .lr = lr,
                      .beta1 = beta1,
                      .beta2 = beta2,
                      .epsilon = epsilon,
                      .decay = decay};
    device_run(exec->device, OP_adamw, &args);
}
