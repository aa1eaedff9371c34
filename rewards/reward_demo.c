/* reward_demo.c -- the demonstration's true rule as a judge. It has no keys and opens nothing: the rule is all there is. */
#include "rewards/reward_demo.h"

#include "rewards/demo.h"

static Status demo_open(const RewardContext *context, void **self)
{
    (void)context;
    *self = NULL;
    return status_ok();
}

static Status demo_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    (void)self;
    (void)exec;
    for (int64_t i = 0; i < count; i++)
        score[i] = (float)demo_judge(samples[i].prompt, samples[i].response).score;
    return status_ok();
}

static void demo_close(void *self)
{
    (void)self;
}

static const char *demo_digest(void *self)
{
    (void)self;
    return "";
}

static const ConfigKey demo_keys[] = {{0}};

const RewardKind reward_kind_demo = {
    .name = "demo",
    .keys = demo_keys,
    .help =
        "the demo's true rule, 0 to 1: each thing asked for named exactly once and nothing else, exactly one please, "
        "no filler word",
    .open = demo_open,
    .score = demo_score,
    .close = demo_close,
    .digest = demo_digest,
};
