/* ppo.c -- proximal policy optimisation from rewards (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022).
 *
 * An iteration: sample responses with the policy; score them; take log-probs of policy and reference and the critic's values on the very
 * units that the update will use; shape rewards with the KL penalty; estimate advantages; and take several epochs of clipped
 * steps. Before the first step every ratio is 1 to the last bit, or something is broken and the run says so (but see ppo.merge_first_pass). */
#include "stages/ppo.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/h5/h5.h"

/* --- The iteration --- */

Status ppo_experience(Ppo *ppo)
{
    PhaseTimer *timer = &ppo->stage.timer;
    stage_phase(&ppo->stage, "rollout");
    TRY(ppo_sample(ppo));
    phase_tokens(timer, (double)ppo->rollout.responses);
    ppo_score(ppo);
    ppo_plan_units(ppo);
    stage_phase(&ppo->stage, "evaluate");
    TRY(ppo_evaluate(ppo));
    phase_tokens(timer, (double)ppo->rollout.tokens);
    stage_phase(&ppo->stage, "advantage");
    ppo_advantage(ppo);
    return status_ok();
}

/* Nats per response: the sum of log-ratios to the reference, averaged over responses. */
static double ppo_mean_kl(const Rollout *rollout)
{
    double sum = 0;
    for (int64_t i = 0; i < rollout->responses; i++)
        sum += (double)rollout->old_logprob[i] - (double)rollout->reference_logprob[i];
    return sum / (double)rollout->sequences;
}

/* Ziegler et al. 2019, section 2.2: a proportional controller in log space. */
static void ppo_adapt_kl(Ppo *ppo, double kl)
{
    if (ppo->config.kl_target <= 0)
        return;
    double error = fmin(fmax(kl / ppo->config.kl_target - 1, -0.2), 0.2);
    ppo->kl_coefficient *= 1 + error * (double)ppo->rollout.sequences / ppo->config.kl_horizon;
}

static char *ppo_rollout_path(const Ppo *ppo, int64_t iteration)
{
    char name[48];
    snprintf(name, sizeof name, "rollouts/iteration-%08lld.h5", (long long)iteration);
    return text_join_path(ppo->stage.directory, name);
}

static Status ppo_keep_rollout(Ppo *ppo)
{
    if (ppo->config.keep_rollouts == 0)
        return status_ok();
    Stage *stage = &ppo->stage;
    char *directory = text_join_path(stage->directory, "rollouts");
    char *path = ppo_rollout_path(ppo, stage->step_index + 1);
    Status status =
        comm_agree(stage->comm, comm_rank(stage->comm) == 0 ? text_make_directories(directory) : status_ok());
    if (!status_failed(status))
        status = rollout_write(stage->comm, path, &ppo->rollout);
    if (!status_failed(status) && ppo->config.keep_rollouts > 0 && comm_rank(stage->comm) == 0) {
        char *old = ppo_rollout_path(ppo, stage->step_index + 1 - ppo->config.keep_rollouts);
        unlink(old);
        memory_free(&old);
    }
    memory_free(&path);
    memory_free(&directory);
    return status;
}

/* Named by iteration: an older one stays until the checkpoint that needs it has been replaced. */
static char *ppo_interrupted_path(const Ppo *ppo, int64_t iteration)
{
    char name[48];
    snprintf(name, sizeof name, "interrupted-%08lld.h5", (long long)iteration);
    return text_join_path(ppo->stage.directory, name);
}

/* Drop the rollouts of interruptions before `iteration`. */
static void ppo_forget_interruptions(Ppo *ppo, int64_t iteration)
{
    if (ppo->stage.dry || comm_rank(ppo->stage.comm) != 0)
        return;
    DIR *handle = opendir(ppo->stage.directory);
    if (!handle)
        return;
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        long long found = 0;
        int end = 0;
        if (sscanf(entry->d_name, "interrupted-%lld.h5%n", &found, &end) != 1 || end == 0 || entry->d_name[end] ||
            found >= iteration)
            continue;
        char *path = text_join_path(ppo->stage.directory, entry->d_name);
        unlink(path);
        memory_free(&path);
    }
    closedir(handle);
}

/* Asked to stop: in the update the rollout must be kept beside the checkpoint, elsewhere the iteration starts anew. */
static Status ppo_stopped(Ppo *ppo)
{
    if (ppo->phase == PPO_UPDATE) {
        char *path = ppo_interrupted_path(ppo, ppo->stage.step_index);
        Status status = rollout_write(ppo->stage.comm, path, &ppo->rollout);
        memory_free(&path);
        TRY(status);
        ppo->stage.saved = false;
    }
    return stage_stopped(&ppo->stage);
}

/* 1 - variance of (return - value) / variance of return, over all response tokens. */
static double ppo_explained_variance(const Rollout *rollout)
{
    double n = (double)rollout->responses, sum = 0, error = 0;
    for (int64_t i = 0; i < rollout->responses; i++) {
        sum += rollout->returns[i];
        error += (double)rollout->returns[i] - (double)rollout->value[i];
    }
    double mean = sum / n, mean_error = error / n, variance = 0, residual = 0;
    for (int64_t i = 0; i < rollout->responses; i++) {
        double r = rollout->returns[i] - mean, e = (double)rollout->returns[i] - (double)rollout->value[i] - mean_error;
        variance += r * r;
        residual += e * e;
    }
    return variance > 0 ? 1 - residual / variance : 0;
}

static double ppo_mean(const float *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += values[i];
    return count > 0 ? sum / (double)count : 0;
}

static void ppo_log_rollout(Ppo *ppo, double kl)
{
    Stage *stage = &ppo->stage;
    const Rollout *rollout = &ppo->rollout;
    double ended = 0, shortest = 1e18, longest = 0, drift = 0, drift_most = 0;
    for (int64_t i = 0; i < rollout->sequences; i++) {
        ended += rollout->stopped[i];
        shortest = fmin(shortest, rollout->response_length[i]);
        longest = fmax(longest, rollout->response_length[i]);
    }
    for (int64_t i = 0; i < rollout->responses; i++) {
        double difference = fabs((double)rollout->sampled_logprob[i] - (double)rollout->old_logprob[i]);
        drift += difference;
        drift_most = fmax(drift_most, difference);
    }
    double n = (double)rollout->sequences;
    stage_log(stage, "reward", ppo_mean(rollout->reward_raw, rollout->sequences), true);
    stage_log(stage, "score", ppo_mean(rollout->score, rollout->sequences), false);
    stage_log(stage, "shaped_reward",
              ppo_mean(rollout->reward_shaped, rollout->responses) * (double)rollout->responses / n, false);
    for (int r = 0; r < rollout->rewards; r++) {
        char name[96];
        snprintf(name, sizeof name, "reward/%s", rollout->reward_name[r]);
        stage_log(stage, name, ppo_mean(rollout->reward[r], rollout->sequences), rollout->rewards > 1);
    }
    stage_log(stage, "kl", kl, true);
    stage_log(stage, "kl_coefficient", rollout->kl_coefficient, false);
    if (!ppo->from_file) /* measured where old log-probs are made */
        stage_log(stage, "entropy", ppo->entropy, true);
    stage_log(stage, "length", (double)rollout->responses / n, true);
    stage_log(stage, "length_min", shortest, false);
    stage_log(stage, "length_max", longest, false);
    stage_log(stage, "ended", ended / n, false);
    stage_log(stage, "value", ppo_mean(rollout->value, rollout->responses), false);
    stage_log(stage, "explained_variance", ppo_explained_variance(rollout), false);
    stage_log(stage, "logprob_drift", drift / (double)rollout->responses, false);
    stage_log(stage, "logprob_drift_max", drift_most, false);
}

static void ppo_log_update(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    const PpoUpdateStats *update = &ppo->update;
    double n = update->minibatches > 0 ? (double)update->minibatches : 1;
    stage_log(stage, "policy_loss", update->policy_loss / n, false);
    stage_log(stage, "value_loss", update->value_loss / n, false);
    stage_log(stage, "clip_fraction", update->clipped / n, true);
    stage_log(stage, "value_clip_fraction", update->value_clipped / n, false);
    stage_log(stage, "approx_kl", update->approx_kl / n, false);
    stage_log(stage, "approx_kl_k3", update->kl_k3 / n, false);
    stage_log(stage, "ratio", update->ratio / n, false);
    stage_log(stage, "actor_grad_norm", update->actor_norm / n, false);
    stage_log(stage, "critic_grad_norm", update->critic_norm / n, false);
    stage_log(stage, "actor_lr", update->actor_lr, false);
    stage_log(stage, "critic_lr", update->critic_lr, false);
    stage_log(stage, "minibatches", (double)update->minibatches, false);
    stage_log(stage, "stopped_early", (double)update->stopped_early, false);
}

Status ppo_iterate(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    if (ppo->phase == PPO_SAMPLE) {
        TRY(ppo_experience(ppo));
        memset(&ppo->update, 0, sizeof ppo->update);
        ppo->phase = PPO_UPDATE;
        if (stage_should_stop(stage))
            return ppo_stopped(ppo);
    }
    stage_phase(stage, "update");
    Status status = ppo_update(ppo);
    if (status.code == STATUS_STOPPED)
        return ppo_stopped(ppo);
    TRY(status);
    phase_tokens(&stage->timer, (double)ppo->rollout.responses * (double)ppo->config.epochs);

    double kl = ppo_mean_kl(&ppo->rollout);
    stage_phase(stage, "save");
    TRY(ppo_keep_rollout(ppo));
    stage_log_begin(stage, stage->step_index + 1, "iteration");
    ppo_log_rollout(ppo, kl);
    ppo_log_update(ppo);
    double reward = ppo_mean(ppo->rollout.reward_raw, ppo->rollout.sequences);
    if (stage->step_index == 0) {
        ppo->first_reward = reward;
        ppo->first_kl = kl;
    }
    ppo->last_reward = reward;
    ppo->last_kl = kl;
    ppo_adapt_kl(ppo, kl);
    int64_t tokens = ppo->rollout.responses;
    ppo->phase = PPO_SAMPLE;
    memset(&ppo->update, 0, sizeof ppo->update);
    ppo->entropy = 0;
    rollout_clear(&ppo->rollout);
    stage->step_index++;
    return stage_log_end(stage, tokens);
}

/* --- What it stands on --- */

enum { ANSWER_BYTES_PER_TOKEN = 8 }; /* twice what texts have */

/* Room for the longest sequences there can be, so that no iteration but the first needs more memory. */
static void ppo_reserve(Ppo *ppo, int64_t longest)
{
    const PpoConfig *config = &ppo->config;
    int rewards = config_count(ppo->stage.config, "ppo.rewards");
    rollout_reserve(&ppo->rollout, config->batch, config->batch * longest, config->batch * config->max_new, rewards);
    rollout_reserve(&ppo->own, config->batch, config->batch * longest, config->batch * config->max_new, rewards);
    unit_batch_reserve(&ppo->unit, config->unit_tokens > longest ? config->unit_tokens : longest);
    text_reserve(&ppo->words,
                 (size_t)(config->unit_prompts * config->samples_per_prompt * longest) * ANSWER_BYTES_PER_TOKEN);
}

/* Ranks share out whole units of sampling: say so where a quarter of their time or more would go into waiting. */
static void ppo_warn_of_waiting(const Ppo *ppo)
{
    const PpoConfig *config = &ppo->config;
    int64_t ranks = comm_size(ppo->stage.comm), prompts = config->batch / config->samples_per_prompt;
    int64_t units = ppo_sampling_units(config);
    int64_t most = (units + ranks - 1) / ranks; /* units of the rank that has the most */
    if (ppo->stage.dry || comm_rank(ppo->stage.comm) != 0 || 3 * most * ranks < 4 * units || prompts < ranks)
        return;
    log_warn(
        "rollout: %lld unit%s for %lld ranks, so some wait for others; ppo.unit_prompts=%lld would share the prompts "
        "evenly (and draw other samples)",
        (long long)units, units == 1 ? "" : "s", (long long)ranks,
        (long long)((prompts + most * ranks - 1) / (most * ranks)));
}

static Status ppo_prepare(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    const PpoConfig *config = &ppo->config;
    if (config->minibatches > config->batch)
        return config_error(stage->config, "ppo.minibatches", "must be at most batch (%lld)", (long long)config->batch);
    if (config->batch % config->samples_per_prompt != 0)
        return config_error(stage->config, "ppo.samples_per_prompt", "must divide batch (%lld)",
                            (long long)config->batch);
    if (config->kl_target > 0 && config->kl_horizon < 0.2 * (double)config->batch)
        return config_error(
            stage->config, "ppo.kl_horizon",
            "must be at least a fifth of batch (%lld), or one iteration could turn the coefficient negative",
            (long long)config->batch);
    TRY(stage_model(stage, "policy", config->policy, NULL, HEAD_LM, &ppo->actor, NULL, &ppo->tokenizer));
    TRY(stage_model(stage, "reference", config->reference ? config->reference : config->policy, NULL, HEAD_LM,
                    &ppo->reference, NULL, NULL));
    stage_freeze(stage, &ppo->reference);
    TRY(stage_model(stage, "critic", config->critic ? config->critic : config->policy, NULL, HEAD_SCALAR, &ppo->critic,
                    NULL, NULL));
    stage->tokenizer = ppo->tokenizer;
    if (ppo->reference.shape.vocab != ppo->actor.shape.vocab || ppo->critic.shape.vocab != ppo->actor.shape.vocab)
        return config_error(stage->config, "ppo",
                            "policy, reference and critic must share one vocabulary (%lld, %lld and %lld tokens)",
                            (long long)ppo->actor.shape.vocab, (long long)ppo->reference.shape.vocab,
                            (long long)ppo->critic.shape.vocab);
    snprintf(ppo->policy_digest, sizeof ppo->policy_digest, "%s", stage->parent_digest[0]);
    if (config->rollout && config_count(stage->config, "ppo.prompts") == 0)
        return status_ok();
    TRY(stage_dataset(stage, DATASET_PROMPT, "prompts", &ppo->data_config, ppo->tokenizer, &ppo->prompts));
    if (!ppo->prompts)
        return config_error(stage->config, "ppo.prompts", "a list of files with prompts is needed");
    int64_t longest = dataset_longest(ppo->prompts) + config->max_new;
    TRY(stage_check_length(stage, &ppo->actor.shape, longest));
    TRY(stage_check_length(stage, &ppo->reference.shape, longest));
    TRY(stage_check_length(stage, &ppo->critic.shape, longest));
    ppo_reserve(ppo, longest);
    ppo_warn_of_waiting(ppo);
    TRY(rewards_open(&ppo->rewards, stage->comm, stage->device, ppo->tokenizer, stage->config, "ppo.rewards"));
    if (ppo->rewards.count == 0)
        return config_error(stage->config, "ppo.rewards", "a list of at least one reward is needed");
    stage->memory.models += rewards_bytes(&ppo->rewards);
    for (int r = 0; r < ppo->rewards.count; r++) {
        char name[96];
        snprintf(name, sizeof name, "reward/%s", ppo->rewards.item[r].name);
        stage_parent(stage, name, ppo->rewards.item[r].kind->digest(ppo->rewards.item[r].self));
    }
    return status_ok();
}

static void ppo_state(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    stage_trained_model(stage, "", &ppo->actor_trainer);
    stage_trained_model(stage, "critic", &ppo->critic_trainer);
    stage_state_double(stage, "kl_coefficient", &ppo->kl_coefficient);
    stage_state_double(stage, "reward_count", &ppo->reward_count);
    stage_state_double(stage, "reward_mean", &ppo->reward_mean);
    stage_state_double(stage, "reward_m2", &ppo->reward_m2);
    stage_state_double(stage, "first_reward", &ppo->first_reward);
    stage_state_double(stage, "last_reward", &ppo->last_reward);
    stage_state_double(stage, "first_kl", &ppo->first_kl);
    stage_state_double(stage, "last_kl", &ppo->last_kl);
    stage_state_double(stage, "entropy", &ppo->entropy);
    stage_state_int(stage, "phase", &ppo->phase);
    PpoUpdateStats *update = &ppo->update;
    stage_state_int(stage, "update.minibatches", &update->minibatches);
    stage_state_int(stage, "update.stopped_early", &update->stopped_early);
    stage_state_double(stage, "update.policy_loss", &update->policy_loss);
    stage_state_double(stage, "update.value_loss", &update->value_loss);
    stage_state_double(stage, "update.entropy", &update->entropy);
    stage_state_double(stage, "update.clipped", &update->clipped);
    stage_state_double(stage, "update.value_clipped", &update->value_clipped);
    stage_state_double(stage, "update.approx_kl", &update->approx_kl);
    stage_state_double(stage, "update.kl_k3", &update->kl_k3);
    stage_state_double(stage, "update.ratio", &update->ratio);
    stage_state_double(stage, "update.actor_norm", &update->actor_norm);
    stage_state_double(stage, "update.critic_norm", &update->critic_norm);
    stage_state_double(stage, "update.actor_lr", &update->actor_lr);
    stage_state_double(stage, "update.critic_lr", &update->critic_lr);
}

static Status ppo_read_rollout(Ppo *ppo, const char *path)
{
    Rollout *rollout = &ppo->rollout;
    TRY(rollout_read(ppo->stage.comm, path, ppo->actor.shape.vocab, rollout));
    for (int64_t i = 0; i < rollout->sequences; i++) {
        int64_t length = rollout->start[i + 1] - rollout->start[i];
        if (length > ppo->actor.shape.positions_max || length > ppo->critic.shape.positions_max)
            return status_error(STATUS_INPUT, "%s: sequence %lld has %lld tokens; the models have %lld positions", path,
                                (long long)i, (long long)length,
                                (long long)(ppo->actor.shape.positions_max < ppo->critic.shape.positions_max
                                                ? ppo->actor.shape.positions_max
                                                : ppo->critic.shape.positions_max));
    }
    ppo_plan_units(ppo);
    ppo->phase = PPO_UPDATE;
    return status_ok();
}

Status ppo_resume(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    bool resumed = false;
    TRY(stage_resume(stage, &resumed));
    char *path = ppo_interrupted_path(ppo, ppo->stage.step_index);
    Status status = status_ok();
    ppo->from_file = ppo->config.rollout && stage->step_index == 0; /* interrupted or not */
    if (resumed && ppo->phase == PPO_UPDATE) {
        status = ppo_read_rollout(ppo, path);
        if (!status_failed(status) && !ppo->from_file && ppo->rollout.policy_step != stage->step_index)
            status = status_error(STATUS_INPUT, "%s is of iteration %lld, the checkpoint of %lld", path,
                                  (long long)ppo->rollout.policy_step, (long long)stage->step_index);
    } else if (ppo->from_file) {
        status = ppo_read_rollout(ppo, ppo->config.rollout);
        if (!status_failed(status)) {
            ppo->kl_coefficient = ppo->rollout.kl_coefficient;
            ppo_reward_moments(ppo);
        }
    }
    ppo->stranger = ppo->from_file && strcmp(ppo->rollout.policy_digest, ppo->policy_digest) != 0;
    memory_free(&path);
    return status;
}

/* A plan's iterations are the hungriest that may come: no response ends early, both models learn, and the first iteration has the longest prompt
 * everywhere (ppo_rollout.c). Nothing is kept. */
enum { PPO_ITERATIONS_ENOUGH = 4 };

static void ppo_foresee(Ppo *ppo)
{
    ppo->config.eos = EOS_IGNORE;
    ppo->config.critic_warmup = 0;
    ppo->config.keep_rollouts = 0;
    for (int64_t i = 0; ppo->prompts && i < dataset_sequences(ppo->prompts); i++)
        if (dataset_sequence(ppo->prompts, i).count > dataset_sequence(ppo->prompts, ppo->longest_prompt).count)
            ppo->longest_prompt = i;
}

Status ppo_open(Ppo *ppo, Comm *comm, Device *device, const Config *config, bool *complete)
{
    Stage *stage = &ppo->stage;
    *complete = false;
    TRY(stage_open(stage, "ppo", comm, device, config));
    config_read(config, "ppo", ppo_keys, &ppo->config);
    config_read(config, "ppo", data_config_keys, &ppo->data_config);
    config_read(config, "ppo.actor_optimizer", optimizer_ppo_keys, &ppo->actor_optimizer);
    config_read(config, "ppo.critic_optimizer", optimizer_ppo_keys, &ppo->critic_optimizer);
    TRY(stage_is_complete(stage, complete));
    if (*complete)
        return status_ok();
    TRY(ppo_prepare(ppo));
    if (stage->dry)
        ppo_foresee(ppo);
    int64_t steps = ppo->config.iterations * ppo->config.epochs * ppo->config.minibatches;
    TRY(trainer_open(&ppo->actor_trainer, &ppo->actor, comm, &ppo->actor_optimizer, stage->run.lanes, stage->run.reduce,
                     steps, &stage->model_arena));
    TRY(trainer_open(&ppo->critic_trainer, &ppo->critic, comm, &ppo->critic_optimizer, stage->run.lanes,
                     stage->run.reduce, steps, &stage->model_arena));
    ppo->merges = ppo->config.merge_first_pass && !walk_by_strands(&ppo->actor, stage->run.lanes) &&
                  !walk_by_strands(&ppo->critic, stage->run.lanes);
    if (!ppo->merges && ppo->config.merge_first_pass && comm_rank(comm) == 0 && !stage->dry)
        log_warn(
            "ppo.merge_first_pass: nothing is kept, since lanes of policy or critic go to threads; passes of models "
            "that small cost no more than keeping them");
    ppo->kl_coefficient = ppo->config.kl_coefficient;
    ppo_state(ppo);
    return status_ok();
}

static Status ppo_train(Ppo *ppo)
{
    Stage *stage = &ppo->stage;
    int64_t iterations = stage_steps(stage, ppo->config.rollout ? 1 : ppo->config.iterations, PPO_ITERATIONS_ENOUGH);
    TRY(ppo_resume(ppo));
    stage->progress = progress_start("ppo", stage->step_index, iterations);
    while (stage->step_index < iterations) {
        if (stage_should_stop(stage))
            return ppo_stopped(ppo);
        TRY(ppo_iterate(ppo));
        TRY(stage_save_when_due(stage));
    }
    TRY(stage_finish(stage));
    ppo_forget_interruptions(ppo, stage->step_index + 1);
    return status_ok();
}

void ppo_close(Ppo *ppo, StageMemory *memory)
{
    trainer_close(&ppo->actor_trainer);
    trainer_close(&ppo->critic_trainer);
    ppo_passes_free(ppo);
    rewards_close(&ppo->rewards);
    dataset_close(&ppo->prompts);
    rollout_free(&ppo->rollout);
    rollout_free(&ppo->own);
    text_free(&ppo->words);
    units_free(&ppo->plan);
    unit_batch_free(&ppo->unit);
    memory_free(&ppo->order);
    model_close(&ppo->actor);
    model_close(&ppo->critic);
    model_close(&ppo->reference);
    tokenizer_close(&ppo->tokenizer);
    stage_close(&ppo->stage, memory);
}

Status ppo_run(Comm *comm, Device *device, const Config *config, StageMemory *memory)
{
    Ppo *ppo = memory_new(1, sizeof *ppo);
    bool complete = false;
    Status status = ppo_open(ppo, comm, device, config, &complete);
    if (!status_failed(status) && !complete)
        status = ppo_train(ppo);
    ppo_close(ppo, memory);
    memory_free(&ppo);
    return status;
}
