/* reward_rules.c -- judges that are arithmetic: how long an answer is, and whether it is the known one. */
#include "rewards/reward_rules.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"

static const char *no_digest(void *self)
{
    (void)self;
    return "";
}

/* --- length --------------------------------------------------------------------------------------------------------- */

typedef enum LengthUnit { LENGTH_TOKENS, LENGTH_WORDS } LengthUnit;
typedef enum LengthForm { LENGTH_NEAR, LENGTH_LINEAR } LengthForm;

typedef struct LengthConfig {
    int64_t target;
    LengthUnit unit;
    LengthForm form;
} LengthConfig;

static const ConfigKey length_keys[] = {
    CONFIG_KEY_INT(LengthConfig, target, "50", 1, 1000000, "The length n* that the reward is measured by."),
    CONFIG_KEY_CHOICE(LengthConfig, unit, "tokens", "tokens|words",
                      "What is counted in the answer: tokens without the end token, or words between spaces."),
    CONFIG_KEY_CHOICE(LengthConfig, form, "near", "near|linear",
                      "`near`: -|n - n*| / n*, best at the target. `linear`: n / n*, so the weight is the price of n* "
                      "more (negative: of brevity)."),
    {0},
};

static Status length_open(const RewardContext *context, void **self)
{
    LengthConfig *config = memory_new(1, sizeof *config);
    config_read(context->config, context->path, length_keys, config);
    *self = config;
    return status_ok();
}

static int64_t count_words(const char *text)
{
    int64_t words = 0;
    for (bool inside = false; *text; text++) {
        bool space = *text == ' ' || (*text >= '\t' && *text <= '\r');
        words += !space && !inside;
        inside = !space;
    }
    return words;
}

static Status length_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    (void)exec;
    const LengthConfig *config = self;
    double target = (double)config->target;
    for (int64_t i = 0; i < count; i++) {
        const RewardSample *sample = &samples[i];
        int64_t n = config->unit == LENGTH_WORDS ? count_words(sample->response)
                                                 : sample->count - sample->prompt_count - (sample->stopped ? 1 : 0);
        score[i] = (float)(config->form == LENGTH_NEAR ? -fabs((double)n - target) / target : (double)n / target);
    }
    return status_ok();
}

static void length_close(void *self)
{
    memory_release(self);
}

const RewardKind reward_kind_length = {
    .name = "length",
    .keys = length_keys,
    .help = "how long the answer is",
    .open = length_open,
    .score = length_score,
    .close = length_close,
    .digest = no_digest,
};

/* --- match ---------------------------------------------------------------------------------------------------------- */

typedef enum MatchMode { MATCH_NUMBER, MATCH_EXACT } MatchMode;

typedef struct MatchConfig {
    const char *field;
    MatchMode mode;
} MatchConfig;

static const ConfigKey match_keys[] = {
    CONFIG_KEY_STRING(MatchConfig, field, "answer", "The field of the prompt's record that holds the known answer."),
    CONFIG_KEY_CHOICE(MatchConfig, mode, "number", "number|exact",
                      "`number`: the number that the answer ends with equals the one that the field ends with, where "
                      "what follows \"####\" goes before all else, as in GSM8K. `exact`: the same text but for space "
                      "around it. 1 or 0."),
    {0},
};

/* The number that starts at `at` if one does: its value and where it ends. `text` is what `at` points into. */
static const char *number_at(const char *text, const char *at, double *number)
{
    const char *digit = at;
    bool negative = *digit == '-' || *digit == '+';
    if (negative) {
        /* "16-3" is a difference, "(-3)" a number. */
        if (at > text && (isalnum((unsigned char)at[-1]) || at[-1] == ')'))
            return NULL;
        negative = *digit == '-';
        digit++;
        if (*digit == '$')
            digit++;
    }
    if (!isdigit((unsigned char)*digit))
        return NULL;
    char digits[64];
    size_t count = 0;
    const char *end = digit;
    for (bool point = false;; end++) {
        bool thousands = *end == ',' && !point && isdigit((unsigned char)end[1]) && isdigit((unsigned char)end[2]) &&
                         isdigit((unsigned char)end[3]) && !isdigit((unsigned char)end[4]);
        bool decimal = *end == '.' && !point && isdigit((unsigned char)end[1]);
        if (!isdigit((unsigned char)*end) && !thousands && !decimal)
            break;
        point = point || decimal;
        /* Digits beyond what a double holds are read over. */
        if (!thousands && count + 1 < sizeof digits)
            digits[count++] = *end;
    }
    digits[count] = 0;
    *number = strtod(digits, NULL) * (negative ? -1 : 1);
    return end;
}

bool match_number(const char *text, double *number)
{
    const char *mark = NULL;
    for (const char *at = strstr(text, "####"); at; at = strstr(at + 1, "####"))
        mark = at + 4;
    bool found = false;
    for (const char *at = mark ? mark : text; *at;) {
        const char *end = number_at(text, at, number);
        if (end && mark)
            return true;
        found = found || end;
        at = end ? end : at + 1;
    }
    return found;
}

static bool equal_trimmed(const char *a, const char *b)
{
    while (isspace((unsigned char)*a))
        a++;
    while (isspace((unsigned char)*b))
        b++;
    size_t m = strlen(a), n = strlen(b);
    while (m && isspace((unsigned char)a[m - 1]))
        m--;
    while (n && isspace((unsigned char)b[n - 1]))
        n--;
    return m == n && memcmp(a, b, m) == 0;
}

static Status match_open(const RewardContext *context, void **self)
{
    MatchConfig config, *own = memory_new(1, sizeof *own);
    config_read(context->config, context->path, match_keys, &config);
    own->field = memory_strdup(config.field);
    own->mode = config.mode;
    *self = own;
    return status_ok();
}

/* The known answer as text; a JSON number is its digits. */
static Status match_known(const MatchConfig *config, const char *fields, Text *known)
{
    json_t *record = NULL;
    TRY(json_read_bytes("prompt", fields, strlen(fields), &record));
    const json_t *value = json_is_object(record) ? json_object_get(record, config->field) : NULL;
    Status status = status_ok();
    text_append(known, "", 0);
    if (json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value))
        text_append_string(known, json_string_value(value));
    else if (json_is_number(value))
        json_append(known, value);
    else
        status = status_error(STATUS_INPUT, "expected a prompt with the text or number \"%s\", found %s in %.80s",
                              config->field, json_type_name(value), fields);
    json_decref(record);
    return status;
}

static Status match_one(const MatchConfig *config, const RewardSample *sample, float *score)
{
    Text known = {0};
    Status status = match_known(config, sample->fields, &known);
    if (!status_failed(status) && config->mode == MATCH_EXACT) {
        *score = equal_trimmed(sample->response, text_string(&known)) ? 1 : 0;
    } else if (!status_failed(status)) {
        double expected = 0, found = 0;
        if (!match_number(text_string(&known), &expected))
            status = status_error(STATUS_INPUT, "expected a number in the prompt's \"%s\", found \"%.80s\"",
                                  config->field, text_string(&known));
        else
            *score = match_number(sample->response, &found) && fabs(found - expected) <= 1e-6 * fmax(1, fabs(expected))
                         ? 1
                         : 0;
    }
    text_free(&known);
    return status;
}

static Status match_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    (void)exec;
    for (int64_t i = 0; i < count; i++)
        TRY(match_one(self, &samples[i], &score[i]));
    return status_ok();
}

static void match_close(void *self)
{
    MatchConfig *config = self;
    memory_free(&config->field);
    memory_release(config);
}

const RewardKind reward_kind_match = {
    .name = "match",
    .keys = match_keys,
    .help = "whether the answer is the known one",
    .open = match_open,
    .score = match_score,
    .close = match_close,
    .digest = no_digest,
};
