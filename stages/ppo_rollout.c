/* ppo_rollout.c -- responses from the policy, and what the judges say of them.
 *
 * A unit is a fixed run of the iteration's prompts, decoded in a fixed number of slots and judged at once; ranks take runs of units. So which
 * tokens are drawn, and every score, is a function of configuration, data and iteration. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/generate.h"
#include "stages/ppo.h"

/* One response as it comes out of a unit, before the rollout's arrays can be laid out. */
typedef struct Response {
    int64_t prompt_id;
    int32_t sample_index;
    Sequence prompt;
    int32_t *token; /* (max_new) */
    float *logprob;
    int64_t count;
    bool stopped;
    float total, component[REWARDS_MAX];
} Response;

/* Where prompt number `index` of this iteration stands in the endless sequence of shuffled epochs. */
static int64_t ppo_prompt(const Ppo *ppo, int64_t index)
{
    if (ppo->stage.dry && ppo->stage.step_index == 0)
        return ppo->longest_prompt;
    int64_t prompts = ppo->config.batch / ppo->config.samples_per_prompt;
    int64_t per_epoch = dataset_examples_per_epoch(ppo->prompts);
    int64_t position = ppo->stage.step_index * prompts + index;
    int64_t sequences[GROUP_ANSWERS_MAX];
    dataset_example(ppo->prompts, (uint64_t)ppo->stage.run.seed, position / per_epoch, position % per_epoch,
                    ppo->config.shuffle, sequences);
    return sequences[0];
}

/* Prompts [from, to) of the iteration, each samples_per_prompt times, as requests; results into `responses`. */
static Status ppo_generate(Ppo *ppo, Span prompts, Response *responses)
{
    const PpoConfig *config = &ppo->config;
    int64_t count = (prompts.to - prompts.from) * config->samples_per_prompt;
    GenerateRequest *requests = memory_borrow((size_t)count, sizeof *requests);
    GenerateResult *results = memory_borrow((size_t)count, sizeof *results);
    for (int64_t i = 0; i < count; i++) {
        int64_t prompt = prompts.from + i / config->samples_per_prompt, sample = i % config->samples_per_prompt;
        Response *response = &responses[i];
        response->prompt_id = ppo_prompt(ppo, prompt);
        response->sample_index = (int32_t)sample;
        response->prompt = dataset_sequence(ppo->prompts, response->prompt_id);
        requests[i] = (GenerateRequest){
            .prompt = response->prompt.token,
            .prompt_count = response->prompt.count,
            .stream = rng_stream((uint64_t)ppo->stage.run.seed, RNG_ROLLOUT, (uint64_t)ppo->stage.step_index,
                                 (uint64_t)(prompt * config->samples_per_prompt + sample)),
            .same_prompt = sample > 0,
        };
        results[i] = (GenerateResult){.token = response->token, .logprob = response->logprob};
    }
    int32_t end = template_end_token(template_get(ppo->data_config.template), ppo->tokenizer);
    GenerateOptions options = {
        .slots = config->slots,
        .max_new = config->max_new,
        .temperature = (float)config->temperature,
        .top_p = 1,
        .stop = &end,
        .stop_count = config->eos == EOS_STOP && end >= 0 ? 1 : 0,
    };
    Status status = generate(&ppo->actor, &ppo->stage.exec, requests, count, &options, results);
    for (int64_t i = 0; i < count; i++) {
        responses[i].count = results[i].count;
        responses[i].stopped = results[i].stopped;
    }
    memory_return(&results);
    memory_return(&requests);
    return status;
}

/* Append the text of tokens without special ones, and its end, to ppo->words; *at is where it begins. */
static Status ppo_text(Ppo *ppo, const int32_t *token, int64_t count, unsigned flags, size_t *at)
{
    *at = ppo->words.size;
    TRY(tokenizer_decode(ppo->tokenizer, token, count, TOKENIZER_SKIP_SPECIAL | flags, &ppo->words));
    text_append(&ppo->words, "", 1);
    return status_ok();
}

/* What judges are given: texts, and prompt and response in a row in `token`, which has room for all of them. */
static Status ppo_samples(Ppo *ppo, const Response *responses, int64_t count, int32_t *token, RewardSample *samples)
{
    size_t *prompt = memory_borrow((size_t)count, sizeof *prompt),
           *answer = memory_borrow((size_t)count, sizeof *answer);
    Status status = status_ok();
    text_clear(&ppo->words);
    for (int64_t i = 0; i < count && !status_failed(status); i++) {
        const Response *response = &responses[i];
        status = ppo_text(ppo, response->prompt.token, response->prompt.count, 0, &prompt[i]);
        if (!status_failed(status))
            status = ppo_text(ppo, response->token, response->count, TOKENIZER_CONTINUE, &answer[i]);
    }
    for (int64_t i = 0; i < count && !status_failed(status); i++) { /* now ppo->words grows no more */
        const Response *response = &responses[i];
        samples[i] = (RewardSample){
            .prompt = ppo->words.bytes + prompt[i],
            .response = ppo->words.bytes + answer[i],
            .fields = dataset_fields(ppo->prompts, response->prompt_id),
            .token = token,
            .count = response->prompt.count + response->count,
            .prompt_count = response->prompt.count,
            .stopped = response->stopped,
        };
        memcpy(token, response->prompt.token, (size_t)response->prompt.count * sizeof *token);
        memcpy(token + response->prompt.count, response->token, (size_t)response->count * sizeof *token);
        token += samples[i].count;
    }
    memory_return(&answer);
    memory_return(&prompt);
    return status;
}

/* What every judge says of one unit's responses. */
static Status ppo_judge(Ppo *ppo, Response *responses, int64_t count)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < count; i++)
        tokens += responses[i].prompt.count + responses[i].count;
    int32_t *token = memory_borrow((size_t)tokens, sizeof *token);
    RewardSample *samples = memory_borrow((size_t)count, sizeof *samples);
    float *total = memory_borrow((size_t)count, sizeof *total), *component[REWARDS_MAX];
    float *components = memory_borrow((size_t)(count * ppo->rewards.count), sizeof *components);
    for (int r = 0; r < ppo->rewards.count; r++)
        component[r] = components + r * count;
    Status status = ppo_samples(ppo, responses, count, token, samples);
    if (!status_failed(status))
        status = rewards_score(&ppo->rewards, &ppo->stage.exec, samples, count, component, total);
    for (int64_t i = 0; i < count; i++) {
        responses[i].total = total[i];
        for (int r = 0; r < ppo->rewards.count; r++)
            responses[i].component[r] = component[r][i];
    }
    memory_return(&components);
    memory_return(&total);
    memory_return(&samples);
    memory_return(&token);
    return status;
}

/* Lay this rank's responses out as a rollout. */
static void ppo_collect(Ppo *ppo, const Response *responses, int64_t count, Rollout *mine)
{
    rollout_new(mine, count, ppo->rewards.count);
    for (int r = 0; r < ppo->rewards.count; r++)
        rollout_name_reward(mine, r, ppo->rewards.item[r].name);
    for (int64_t i = 0; i < count; i++) {
        mine->prompt_id[i] = responses[i].prompt_id;
        mine->sample_index[i] = responses[i].sample_index;
        mine->prompt_length[i] = (int32_t)responses[i].prompt.count;
        mine->response_length[i] = (int32_t)responses[i].count;
        mine->stopped[i] = responses[i].stopped;
        mine->reward_raw[i] = responses[i].total;
        for (int r = 0; r < ppo->rewards.count; r++)
            mine->reward[r][i] = responses[i].component[r];
    }
    rollout_allocate(mine);
    for (int64_t i = 0; i < count; i++) {
        int32_t *token = mine->token + mine->start[i];
        memcpy(token, responses[i].prompt.token, (size_t)responses[i].prompt.count * sizeof *token);
        memcpy(token + responses[i].prompt.count, responses[i].token, (size_t)responses[i].count * sizeof *token);
        memcpy(mine->sampled_logprob + mine->response_start[i], responses[i].logprob,
               (size_t)responses[i].count * sizeof(float));
    }
}

int64_t ppo_sampling_units(const PpoConfig *config)
{
    int64_t prompts = config->batch / config->samples_per_prompt;
    return (prompts + config->unit_prompts - 1) / config->unit_prompts;
}

Status ppo_sample(Ppo *ppo)
{
    const PpoConfig *config = &ppo->config;
    Comm *comm = ppo->stage.comm;
    int64_t prompts = config->batch / config->samples_per_prompt;
    Span mine_units =
        shard_rank_units(ppo_sampling_units(config), ppo->stage.run.lanes, comm_size(comm), comm_rank(comm));
    Span mine_prompts = {mine_units.from * config->unit_prompts, mine_units.to * config->unit_prompts};
    if (mine_prompts.to > prompts)
        mine_prompts.to = prompts;
    int64_t count =
        mine_prompts.to > mine_prompts.from ? (mine_prompts.to - mine_prompts.from) * config->samples_per_prompt : 0;
    Response *responses = memory_borrow((size_t)count, sizeof *responses);
    int32_t *token = memory_borrow((size_t)(count * config->max_new), sizeof *token);
    float *logprob = memory_borrow((size_t)(count * config->max_new), sizeof *logprob);
    for (int64_t i = 0; i < count; i++) {
        responses[i].token = token + i * config->max_new;
        responses[i].logprob = logprob + i * config->max_new;
    }
    Status status = status_ok();
    int64_t done = 0;
    for (int64_t u = mine_units.from; u < mine_units.to && !status_failed(status); u++) {
        Span unit = {u * config->unit_prompts,
                     (u + 1) * config->unit_prompts < prompts ? (u + 1) * config->unit_prompts : prompts};
        int64_t in_unit = (unit.to - unit.from) * config->samples_per_prompt;
        status = ppo_generate(ppo, unit, responses + done);
        if (!status_failed(status))
            status = ppo_judge(ppo, responses + done, in_unit);
        done += in_unit;
    }
    status = comm_agree(comm, status);
    if (!status_failed(status)) {
        ppo_collect(ppo, responses, count, &ppo->own);
        rollout_allgather(comm, &ppo->own, &ppo->rollout);
        memcpy(ppo->rollout.policy_digest, ppo->policy_digest, sizeof ppo->policy_digest);
        ppo->rollout.policy_step = ppo->stage.step_index;
        ppo->rollout.temperature = config->temperature;
        ppo->rollout.kl_coefficient = ppo->kl_coefficient;
    }
    memory_return(&logprob);
    memory_return(&token);
    memory_return(&responses);
    return status;
}

/* Welford's update over the iteration's raw rewards, in order of sample. */
void ppo_reward_moments(Ppo *ppo)
{
    if (ppo->config.reward_normalise == NORMALISE_FIRST && ppo->reward_count > 0)
        return;
    for (int64_t i = 0; i < ppo->rollout.sequences; i++) {
        ppo->reward_count++;
        double delta = ppo->rollout.reward_raw[i] - ppo->reward_mean;
        ppo->reward_mean += delta / ppo->reward_count;
        ppo->reward_m2 += delta * (ppo->rollout.reward_raw[i] - ppo->reward_mean);
    }
}

void ppo_score(Ppo *ppo)
{
    const PpoConfig *config = &ppo->config;
    Rollout *rollout = &ppo->rollout;
    ppo_reward_moments(ppo);
    double deviation = sqrt(ppo->reward_m2 / ppo->reward_count);
    for (int64_t i = 0; i < rollout->sequences; i++) {
        double score = rollout->reward_raw[i];
        if (config->reward_normalise != NORMALISE_NONE)
            score = (score - ppo->reward_mean) / (deviation > 1e-8 ? deviation : 1);
        if (config->reward_clip > 0)
            score = fmin(fmax(score, -config->reward_clip), config->reward_clip);
        if (!rollout->stopped[i] && config->missing_eos == MISSING_EOS_SUBTRACT)
            score -= config->missing_eos_value;
        if (!rollout->stopped[i] && config->missing_eos == MISSING_EOS_REPLACE)
            score = -config->missing_eos_value;
        rollout->score[i] = (float)score;
    }
}
