/* reward.c -- the list of judges: which kinds there are, how a list is opened, and the weighted sum. */
#include "rewards/reward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "rewards/reward_demo.h"
#include "rewards/reward_model.h"
#include "rewards/reward_rules.h"

/* One row per kind. `word` is the kind's name; the condition under which its keys exist follows from it. */
typedef struct KindRow {
    const char *word, *when;
    const RewardKind *kind;
} KindRow;

#define KIND(name)                                                                                                     \
    {                                                                                                                  \
#name, "kind=" #name, &reward_kind_##name                                                                      \
    }
static const KindRow kinds[] = {
    KIND(model), KIND(words), KIND(length), KIND(match), KIND(demo),
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* "model|words|..." in the order of the table, as the config's rows want choices. */
static const char *kind_choices(void)
{
    static char choices[256];
    if (!choices[0])
        for (int k = 0; k < KINDS; k++) {
            size_t used = strlen(choices);
            int written = snprintf(choices + used, sizeof choices - used, "%s%s", k ? "|" : "", kinds[k].word);
            REQUIRE(written > 0 && used + (size_t)written < sizeof choices, "too many reward kinds");
        }
    return choices;
}

typedef struct ItemConfig {
    const char *name;
    int kind;
    double weight;
} ItemConfig;

static const ConfigKey *item_keys(void)
{
    static ConfigKey keys[] = {
        CONFIG_KEY_CHOICE(
            ItemConfig, kind, NULL, NULL,
            "Who judges: `model` a trained reward model, `words` a list of words with scores, `length` how "
            "long the answer is, `match` whether it is the known answer, `demo` the demonstration's true rule."),
        CONFIG_KEY_STRING(ItemConfig, name, "null", "How logs and rollouts call this judge; by default, its kind."),
        CONFIG_KEY_FLOAT(ItemConfig, weight, "1", -1e6, 1e6,
                         "Factor in the sum. 0: asked and reported, but does not count, which is how to see whether a "
                         "policy has learned to please the other judges alone."),
        {0},
    };
    keys[0].choices = kind_choices();
    return keys;
}

void rewards_schema(ConfigSchema *schema, const char *path)
{
    ConfigGroup groups[KINDS + 2] = {{.path = path, .keys = item_keys(), .help = "judges, and what each counts"}};
    for (int k = 0; k < KINDS; k++) {
        REQUIRE(strcmp(kinds[k].word, kinds[k].kind->name) == 0, "reward kind %s calls itself %s", kinds[k].word,
                kinds[k].kind->name);
        groups[k + 1] = (ConfigGroup){
            .path = path, .keys = kinds[k].kind->keys, .when = kinds[k].when, .help = kinds[k].kind->help};
    }
    config_schema_add(schema, groups);
}

const RewardKind *rewards_kind(const Config *config, const char *path)
{
    ItemConfig item;
    config_read(config, path, item_keys(), &item);
    return kinds[item.kind].kind;
}

/* One item of the list; what was opened before stays open, for the caller to close. */
static Status open_item(Rewards *rewards, const RewardContext *context)
{
    ItemConfig item;
    config_read(context->config, context->path, item_keys(), &item);
    const RewardKind *kind = rewards_kind(context->config, context->path);
    const char *name = item.name && item.name[0] ? item.name : kind->name;
    Text key = {0};
    text_printf(&key, "%s.name", context->path);
    Status status = status_ok();
    for (int i = 0; i < rewards->count; i++)
        if (strcmp(rewards->item[i].name, name) == 0)
            status = config_error(context->config, text_string(&key),
                                  "two judges are called \"%s\": give one of them another `name`", name);
    /* Names become names of datasets and metrics. */
    if (!status_failed(status) && (strpbrk(name, "/\"\\") || strlen(name) > 64))
        status = config_error(context->config, text_string(&key),
                              "expected at most 64 characters without / \" \\, found \"%s\"", name);
    text_free(&key);
    TRY(status);
    void *self = NULL;
    TRY(status_prefix(kind->open(context, &self), "%s", context->path));
    rewards->item[rewards->count].kind = kind;
    rewards->item[rewards->count].self = self;
    rewards->item[rewards->count].name = memory_strdup(name);
    rewards->item[rewards->count].weight = item.weight;
    rewards->count++;
    return status_ok();
}

Status rewards_open(Rewards *rewards, Comm *comm, Device *device, const Tokenizer *tokenizer, const Config *config,
                    const char *path)
{
    *rewards = (Rewards){0};
    int count = config_count(config, path);
    if (count > REWARDS_MAX)
        return config_error(config, path, "expected at most %d judges, found %d", REWARDS_MAX, count);
    Status status = status_ok();
    for (int i = 0; i < count && !status_failed(status); i++) {
        Text item = {0};
        text_printf(&item, "%s[%d]", path, i);
        RewardContext context = {comm, device, tokenizer, config, text_string(&item)};
        status = open_item(rewards, &context);
        text_free(&item);
    }
    if (status_failed(status))
        rewards_close(rewards);
    return status;
}

void rewards_close(Rewards *rewards)
{
    for (int i = 0; i < rewards->count; i++) {
        rewards->item[i].kind->close(rewards->item[i].self);
        memory_free(&rewards->item[i].name);
    }
    *rewards = (Rewards){0};
}

size_t rewards_bytes(const Rewards *rewards)
{
    size_t bytes = 0;
    for (int i = 0; i < rewards->count; i++)
        if (rewards->item[i].kind->bytes)
            bytes += rewards->item[i].kind->bytes(rewards->item[i].self);
    return bytes;
}

Status rewards_score(const Rewards *rewards, Exec *exec, const RewardSample *samples, int64_t count,
                     float *const component[REWARDS_MAX], float *total)
{
    for (int r = 0; r < rewards->count; r++) {
        const RewardKind *kind = rewards->item[r].kind;
        TRY(status_prefix(kind->score(rewards->item[r].self, exec, samples, count, component[r]), "judge %s",
                          rewards->item[r].name));
        for (int64_t i = 0; i < count; i++)
            if (!isfinite(component[r][i]))
                return status_error(STATUS_NUMERIC, "judge %s: the reward of sample %lld is %g", rewards->item[r].name,
                                    (long long)i, (double)component[r][i]);
    }
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int r = 0; r < rewards->count; r++)
            if (rewards->item[r].weight != 0)
                sum += rewards->item[r].weight * (double)component[r][i];
        total[i] = (float)sum;
    }
    return status_ok();
}
