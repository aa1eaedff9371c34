/* score_record.c -- see score_record.h. */
#include "rewards/score_record.h"

#include <string.h>

#include "core/base/memory.h"

/* Messages whose texts are borrowed from the record. */
typedef struct Conversation {
    Message *message;
    int64_t count, capacity;
} Conversation;

static void conversation_add(Conversation *conversation, MessageRole role, const char *text, size_t size)
{
    memory_reserve(&conversation->message, conversation->count, &conversation->capacity);
    conversation->message[conversation->count++] = (Message){role, text, size};
}

/* {"role", "content"} or {"from", "value"} */
static Status conversation_add_object(Conversation *conversation, JsonPlace place, const json_t *object)
{
    const char *role_key = json_has(object, "from") ? "from" : "role";
    const char *text_key = json_has(object, "value") ? "value" : "content";
    const char *name = NULL, *text = NULL;
    size_t size = 0;
    MessageRole role;
    TRY(json_get_string(place, object, role_key, JSON_REQUIRED, &name, NULL));
    TRY(json_get_string(place, object, text_key, JSON_REQUIRED, &text, &size));
    if (!message_role_from_name(name, &role))
        return json_error(place, "\"%s\": expected a role (system, user, assistant), found \"%.40s\"", role_key, name);
    conversation_add(conversation, role, text, size);
    return status_ok();
}

/* A string is one turn of `role`. */
static Status conversation_add_value(Conversation *conversation, JsonPlace place, const char *key, const json_t *value,
                                     MessageRole role)
{
    if (json_is_string(value)) {
        conversation_add(conversation, role, json_string_value(value), json_string_length(value));
        return status_ok();
    }
    if (json_is_object(value))
        return conversation_add_object(conversation, place, value);
    if (!json_is_array(value) || json_array_size(value) == 0)
        return json_error(place, "\"%s\": expected a text or a list of messages, found %s", key,
                          json_is_array(value) ? "an empty list" : json_type_name(value));
    for (size_t i = 0; i < json_array_size(value); i++)
        TRY(conversation_add_object(conversation, place, json_array_get(value, i)));
    return status_ok();
}

/* --- Transcripts of hh-rlhf ------------------------------------------------------------------------------------------ */

static const char human[] = "\n\nHuman:", assistant[] = "\n\nAssistant:";

static bool is_transcript(const char *text)
{
    return text_starts_with(text, human);
}

/* Where the next turn starts, or the end of the text. */
static const char *next_turn(const char *text)
{
    const char *a = strstr(text, human), *b = strstr(text, assistant);
    return a && (!b || a < b) ? a : b ? b : text + strlen(text);
}

static void conversation_add_transcript(Conversation *conversation, const char *text)
{
    while (*text) {
        bool user = text_starts_with(text, human);
        text += user ? strlen(human) : strlen(assistant);
        const char *end = next_turn(text), *stop = end;
        while (*text == ' ')
            text++;
        while (stop > text && (stop[-1] == ' ' || stop[-1] == '\n'))
            stop--;
        conversation_add(conversation, user ? ROLE_USER : ROLE_ASSISTANT, text, (size_t)(stop - text));
        text = end;
    }
}

/* --- Answers --------------------------------------------------------------------------------------------------------- */

/* The turns before the answer; none where the record has no prompt. */
static Status parse_prompt(JsonPlace place, const json_t *record, Conversation *prompt)
{
    static const char *const keys[] = {"prompt", "conversations", "messages"};
    for (int k = 0; k < 3; k++)
        if (json_has(record, keys[k]))
            return conversation_add_value(prompt, place, keys[k], json_object_get(record, keys[k]), ROLE_USER);
    return status_ok();
}

static Status encode_text(const ScoreFormat *format, JsonPlace place, const char *key, const json_t *value,
                          TemplateTokens *out)
{
    if (!json_is_string(value))
        return json_error(place, "\"%s\": expected a text, found %s", key, json_type_name(value));
    return status_prefix(template_encode_text(format->tokenizer, json_string_value(value), json_string_length(value),
                                              format->append_eos, out),
                         "%s:%lld", place.path, (long long)place.line);
}

/* One answer after `prompt` as a whole sequence. */
static Status encode_answer(const ScoreFormat *format, JsonPlace place, const char *key, const Conversation *prompt,
                            const json_t *value, TemplateTokens *out)
{
    if (prompt->count == 0 && json_is_string(value) && !is_transcript(json_string_value(value)))
        return encode_text(format, place, key, value, out);
    Conversation whole = {0};
    bool complete = false;
    if (json_is_array(value)) {
        Conversation list = {0};
        Status status = conversation_add_value(&list, place, key, value, ROLE_ASSISTANT);
        complete = list.count > 0 && list.message[0].role != ROLE_ASSISTANT;
        memory_free(&list.message);
        TRY(status);
    }
    for (int64_t i = 0; i < prompt->count && !complete; i++)
        conversation_add(&whole, prompt->message[i].role, prompt->message[i].text, prompt->message[i].size);
    Status status = status_ok();
    if (prompt->count == 0 && json_is_string(value))
        conversation_add_transcript(&whole, json_string_value(value));
    else
        status = conversation_add_value(&whole, place, key, value, ROLE_ASSISTANT);
    if (!status_failed(status) && whole.message[whole.count - 1].role != ROLE_ASSISTANT)
        status = json_error(place, "\"%s\": expected a conversation that ends with the assistant's turn", key);
    if (!status_failed(status))
        status = status_prefix(template_encode(format->format, format->tokenizer, whole.message, whole.count, out),
                               "%s:%lld", place.path, (long long)place.line);
    memory_free(&whole.message);
    return status;
}

/* Cut if asked, check, and append. */
static Status add_sequence(const ScoreFormat *format, JsonPlace place, const char *key, TemplateTokens *tokens,
                           SequenceList *list)
{
    int32_t *ids = tokens->tokens.ids;
    int64_t count = tokens->tokens.count;
    if (format->max_length > 0 && count > format->max_length) {
        int32_t last = ids[count - 1];
        bool ended =
            last == tokenizer_eos(format->tokenizer) || last == template_end_token(format->format, format->tokenizer);
        count = format->max_length;
        if (ended)
            ids[count - 1] = last;
    }
    if (count < 1)
        return json_error(place, "\"%s\": a text without tokens", key);
    if (count > format->positions_max)
        return json_error(place, "\"%s\": %lld tokens, the model takes at most %lld", key, (long long)count,
                          (long long)format->positions_max);
    sequence_list_add(list, ids, count, 1);
    return status_ok();
}

static Status add_answer(const ScoreFormat *format, JsonPlace place, const char *key, const Conversation *prompt,
                         const json_t *value, SequenceList *list)
{
    TemplateTokens tokens = {0};
    Status status = encode_answer(format, place, key, prompt, value, &tokens);
    if (!status_failed(status))
        status = add_sequence(format, place, key, &tokens, list);
    template_tokens_free(&tokens);
    return status;
}

/* What is known of which of `count` responses is better. */
static Status parse_strength(JsonPlace place, const json_t *record, int64_t count, double **strength)
{
    const char *key = json_has(record, "scores") ? "scores" : "ranks";
    if (!json_has(record, key))
        return status_ok();
    const json_t *list = NULL;
    TRY(json_get_array(place, record, key, JSON_REQUIRED, &list));
    if ((int64_t)json_array_size(list) != count)
        return json_error(place, "\"%s\": expected %lld, one for each response, found %zu", key, (long long)count,
                          json_array_size(list));
    double sign = strcmp(key, "scores") == 0 ? 1 : -1;
    *strength = memory_new((size_t)count, sizeof **strength);
    for (int64_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        if (!json_is_number(item)) {
            memory_free(strength);
            return json_error(place, "\"%s\": expected numbers, found %s", key, json_type_name(item));
        }
        (*strength)[i] = sign * json_number_value(item);
    }
    return status_ok();
}

static Status parse_answers(const ScoreFormat *format, JsonPlace place, const json_t *record,
                            const Conversation *prompt, SequenceList *list, ScoreRecord *out)
{
    if (json_has(record, "chosen") || json_has(record, "rejected")) {
        static const char *const keys[] = {"chosen", "rejected"};
        out->shape = SCORE_PAIR;
        for (int k = 0; k < 2; k++) {
            if (!json_has(record, keys[k]))
                return json_error(place, "expected \"%s\" beside \"%s\"", keys[k], keys[1 - k]);
            TRY(add_answer(format, place, keys[k], prompt, json_object_get(record, keys[k]), list));
        }
        return status_ok();
    }
    if (json_has(record, "responses")) {
        const json_t *responses = NULL;
        TRY(json_get_array(place, record, "responses", JSON_REQUIRED, &responses));
        if (json_array_size(responses) == 0)
            return json_error(place, "\"responses\": expected at least one, found none");
        out->shape = SCORE_MANY;
        TRY(parse_strength(place, record, (int64_t)json_array_size(responses), &out->strength));
        for (size_t i = 0; i < json_array_size(responses); i++)
            TRY(add_answer(format, place, "responses", prompt, json_array_get(responses, i), list));
        return status_ok();
    }
    out->shape = SCORE_ONE;
    static const char *const answers[] = {"response", "completion"};
    for (int k = 0; k < 2; k++)
        if (json_has(record, answers[k])) {
            if (prompt->count == 0)
                return json_error(place, "expected \"prompt\" beside \"%s\"", answers[k]);
            return add_answer(format, place, answers[k], prompt, json_object_get(record, answers[k]), list);
        }
    Conversation none = {0};
    static const char *const wholes[] = {"messages", "conversations", "text"};
    for (int k = 0; k < 3; k++)
        if (json_has(record, wholes[k]))
            return add_answer(format, place, wholes[k], &none, json_object_get(record, wholes[k]), list);
    return json_error(place, "expected something to score: \"response\", \"responses\", \"chosen\" and \"rejected\", "
                             "\"messages\" or \"text\"");
}

static void drop_after(SequenceList *list, int64_t count)
{
    if (list->count == count)
        return;
    list->count = count;
    list->tokens = list->start[count];
    list->results = list->result_start[count];
}

Status score_record_parse(const ScoreFormat *format, JsonPlace place, const json_t *record, SequenceList *list,
                          ScoreRecord *out)
{
    *out = (ScoreRecord){.first = list->count};
    TRY(json_check_object(place, record));
    Conversation prompt = {0};
    Status status = parse_prompt(place, record, &prompt);
    if (!status_failed(status))
        status = parse_answers(format, place, record, &prompt, list, out);
    memory_free(&prompt.message);
    if (status_failed(status)) {
        memory_free(&out->strength);
        drop_after(list, out->first);
        return status;
    }
    out->count = list->count - out->first;
    return status_ok();
}

Status score_record_prompt(const ScoreFormat *format, JsonPlace place, const json_t *record, TemplateTokens *tokens)
{
    TRY(json_check_object(place, record));
    Conversation prompt = {0};
    Status status = parse_prompt(place, record, &prompt);
    static const char *const texts[] = {"text", "chosen"};
    for (int k = 0; k < 2 && !status_failed(status) && prompt.count == 0; k++) {
        if (!json_has(record, texts[k]))
            continue;
        const json_t *value = json_object_get(record, texts[k]);
        if (k == 0) {
            ScoreFormat open_end = *format;
            open_end.append_eos = false;
            return encode_text(&open_end, place, texts[k], value, tokens);
        }
        if (json_is_string(value) && is_transcript(json_string_value(value)))
            conversation_add_transcript(&prompt, json_string_value(value));
        else
            status = conversation_add_value(&prompt, place, texts[k], value, ROLE_USER);
    }
    if (!status_failed(status) && prompt.count > 0 && prompt.message[prompt.count - 1].role == ROLE_ASSISTANT)
        prompt.count--;
    if (!status_failed(status) && prompt.count == 0)
        status = json_error(place, "expected a \"prompt\", \"messages\" or \"text\"");
    if (!status_failed(status))
        status = status_prefix(template_encode(format->format, format->tokenizer, prompt.message, prompt.count, tokens),
                               "%s:%lld", place.path, (long long)place.line);
    memory_free(&prompt.message);
    return status;
}
