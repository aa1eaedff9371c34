/* dataset_formats.c -- the formats people have, each read into one shape: messages, and answers with a strength.
 *
 * A format is a row of a table: its name, and the function that reads its record. Whatever an item will be used for
 * (training, ranking, prompts) is not known here; dataset_build.c takes what it needs and says what is missing. */
#define _GNU_SOURCE /* memmem */
#include "core/data/dataset_parts.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/base/memory.h"

typedef Status (*FormatReader)(const json_t *record, Item *item, ItemSink sink, void *context);

/* --- Items ----------------------------------------------------------------------------------------------------------*/

static void item_clear(Item *item)
{
    for (int64_t i = 0; i < item->owned_count; i++)
        memory_free(&item->owned[i]);
    item->messages_count = item->answers_count = item->owned_count = 0;
    item->every_turn = false;
}

void item_free(Item *item)
{
    item_clear(item);
    memory_free(&item->messages);
    memory_free(&item->answers);
    memory_free(&item->owned);
}

static void add_message(Item *item, Message message)
{
    memory_reserve(&item->messages, item->messages_count, &item->messages_capacity);
    item->messages[item->messages_count++] = message;
}

static void add_answer(Item *item, int64_t first, int64_t count, const char *text, size_t size, double strength)
{
    memory_reserve(&item->answers, item->answers_count, &item->answers_capacity);
    item->answers[item->answers_count++] = (Answer){first, count, text, size, strength};
}

static const Message *last_message(const Item *item)
{
    return &item->messages[item->messages_count - 1];
}

/* --- Messages -------------------------------------------------------------------------------------------------------*/

/* {"role", "content"} or {"from", "value"}. */
static Status read_message(Item *item, const json_t *value)
{
    JsonPlace place = item->place;
    TRY(json_check_object(place, value));
    bool sharegpt = json_has(value, "from") && !json_has(value, "role");
    const char *role, *role_key = sharegpt ? "from" : "role";
    Message message = {0};
    TRY(json_get_string(place, value, role_key, JSON_REQUIRED, &role, NULL));
    TRY(json_get_string(place, value, sharegpt ? "value" : "content", JSON_REQUIRED, &message.text, &message.size));
    if (!message_role_from_name(role, &message.role))
        return json_error(place, "%s: expected system, user (human) or assistant (gpt), found '%.40s'", role_key, role);
    add_message(item, message);
    return status_ok();
}

static Status read_messages(Item *item, const char *key, const json_t *list)
{
    if (json_array_size(list) == 0)
        return json_error(item->place, "%s: an empty list of messages", key);
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(read_message(item, json_array_get(list, i)));
    return status_ok();
}

static const char human_mark[] = "\n\nHuman:", assistant_mark[] = "\n\nAssistant:";

/* A conversation written as hh-rlhf does: "\n\nHuman: ...\n\nAssistant: ...". */
static bool is_transcript(const char *text, size_t size)
{
    return size >= sizeof human_mark - 1 && memcmp(text, human_mark, sizeof human_mark - 1) == 0;
}

/* The turns of a transcript. Two turns of the assistant in a row, which hh-rlhf has, become one; an empty last one is only a
 * cue and left out. */
static void read_transcript(Item *item, const char *text, size_t size)
{
    const char *end = text + size;
    int64_t first = item->messages_count;
    while (text < end) {
        bool human = is_transcript(text, (size_t)(end - text));
        const char *from = text + (human ? sizeof human_mark : sizeof assistant_mark) - 1, *to = end;
        const char *next_human = memmem(from, (size_t)(end - from), human_mark, sizeof human_mark - 1);
        const char *next_answer = memmem(from, (size_t)(end - from), assistant_mark, sizeof assistant_mark - 1);
        if (next_human)
            to = next_human;
        if (next_answer && next_answer < to)
            to = next_answer;
        text = to;
        from += from < to && *from == ' ';
        Message message = {human ? ROLE_USER : ROLE_ASSISTANT, from, (size_t)(to - from)};
        Message *last = item->messages_count > first ? &item->messages[item->messages_count - 1] : NULL;
        if (!human && last && last->role == ROLE_ASSISTANT) {
            size_t joined_size = last->size + 2 + message.size;
            char *joined = memory_new(joined_size, 1);
            memcpy(joined, last->text, last->size);
            memcpy(joined + last->size, "\n\n", 2);
            if (message.size)
                memcpy(joined + last->size + 2, message.text, message.size);
            memory_reserve(&item->owned, item->owned_count, &item->owned_capacity);
            item->owned[item->owned_count++] = joined;
            *last = (Message){ROLE_ASSISTANT, joined, joined_size};
        } else if (human || message.size || text < end) {
            add_message(item, message);
        }
    }
}

/* --- Prompts --------------------------------------------------------------------------------------------------------*/

static bool is_blank(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!memchr(" \t\r\n", text[i], 4))
            return false;
    return true;
}

static const char *first_key(const json_t *record, const char *const *keys)
{
    while (*keys && !json_has(record, *keys))
        keys++;
    return *keys;
}

static const char *const conversation_keys[] = {"messages", "conversations", NULL};
static const char *const prompt_keys[] = {"prompt", "question", "instruction", "messages", "conversations", NULL};
static const char *const answer_keys[] = {"response", "completion", "output", "answer", NULL};

/* "instruction" with its "input" below it, if it has one. */
static Status read_instruction(Item *item, const json_t *record)
{
    const char *text, *input = "";
    size_t size, input_size = 0;
    TRY(json_get_string(item->place, record, "instruction", JSON_REQUIRED, &text, &size));
    TRY(json_get_string(item->place, record, "input", JSON_OPTIONAL, &input, &input_size));
    add_message(item, (Message){ROLE_USER, text, size});
    if (!is_blank(input, input_size))
        add_message(item, (Message){ROLE_USER, input, input_size}); /* user turns in a row: joined by a blank line */
    return status_ok();
}

/* The conversation before the answer, as messages [*first, + *count) that end with a user's turn; count 0 if the record has no
 * key for it. */
static Status read_prompt(Item *item, const json_t *record, int64_t *first, int64_t *count)
{
    JsonPlace place = item->place;
    *first = item->messages_count;
    *count = 0;
    const char *key = first_key(record, prompt_keys);
    if (!key)
        return status_ok();
    const json_t *value = json_object_get(record, key);
    const char *system = "";
    size_t system_size = 0;
    if (json_is_string(json_object_get(record, "system")))
        TRY(json_get_string(place, record, "system", JSON_OPTIONAL, &system, &system_size));
    if (system_size)
        add_message(item, (Message){ROLE_SYSTEM, system, system_size});
    if (json_is_array(value)) {
        TRY(read_messages(item, key, value));
    } else if (strcmp(key, "instruction") == 0) {
        TRY(read_instruction(item, record));
    } else {
        const char *text;
        size_t size;
        TRY(json_get_string(place, record, key, JSON_REQUIRED, &text, &size));
        if (is_transcript(text, size))
            read_transcript(item, text, size);
        else
            add_message(item, (Message){ROLE_USER, text, size});
    }
    *count = item->messages_count - *first;
    const Message *last = last_message(item);
    if (last->role != ROLE_USER)
        return json_error(place, "%s: expected a conversation that ends with a user's turn", key);
    if (is_blank(last->text, last->size) && (*count < 2 || last[-1].role != ROLE_USER))
        return json_error(place, "%s: the prompt is empty", key);
    return status_ok();
}

/* The last message is taken off as the answer to those before it, from `first` on. */
static Status answer_from_last(Item *item, const char *key, int64_t first, double strength)
{
    int64_t count = item->messages_count - first - 1;
    if (count < 0 || last_message(item)->role != ROLE_ASSISTANT)
        return json_error(item->place, "%s: expected a conversation that ends with an assistant's turn", key);
    if (count == 0)
        return json_error(item->place, "%s: an answer without a prompt", key);
    add_answer(item, first, count, last_message(item)->text, last_message(item)->size, strength);
    return status_ok();
}

/* One answer: a text that follows the prompt, a transcript or a text of its own where there is no prompt, one message, or a
 * list of messages (whole, or what follows the prompt). */
static Status read_answer(Item *item, const char *key, const json_t *value, int64_t first, int64_t count,
                          double strength)
{
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        size_t size = json_string_length(value);
        if (count || !is_transcript(text, size)) {
            if (!count && is_blank(text, size))
                return json_error(item->place, "%s: the text is empty", key);
            add_answer(item, first, count, text, size, strength);
            return status_ok();
        }
        int64_t start = item->messages_count;
        read_transcript(item, text, size);
        return answer_from_last(item, key, start, strength);
    }
    if (!json_is_object(value) && !json_is_array(value))
        return json_error(item->place, "%s: expected a string, a message or a list of messages, found %s", key,
                          json_type_name(value));
    int64_t start = item->messages_count;
    if (json_is_object(value))
        TRY(read_message(item, value));
    else
        TRY(read_messages(item, key, value));
    if (item->messages[start].role != ROLE_ASSISTANT)
        return answer_from_last(item, key, start, strength);
    if (item->messages_count == start + 1) {
        const Message *last = last_message(item);
        if (!count)
            return json_error(item->place, "%s: an answer without a prompt", key);
        add_answer(item, first, count, last->text, last->size, strength);
        return status_ok();
    }
    return json_error(item->place, "%s: expected one answer, or a conversation from its start", key);
}

static Status check_strength(const Item *item, const char *key, double value)
{
    return isfinite((float)value) ? status_ok() : json_error(item->place, "%s: %g is too large", key, value);
}

/* --- One function per format ----------------------------------------------------------------------------------------*/

static Status read_text(const json_t *record, Item *item, ItemSink sink, void *context)
{
    const char *text = json_string_value(record);
    size_t size = json_string_length(record);
    if (!json_is_string(record))
        TRY(json_get_string(item->place, record, "text", JSON_REQUIRED, &text, &size));
    if (is_blank(text, size))
        return json_error(item->place, "the text is empty");
    add_answer(item, 0, 0, text, size, 0);
    return sink(context, item);
}

static Status read_rated(const json_t *record, Item *item, ItemSink sink, void *context)
{
    const char *text;
    size_t size;
    double rating;
    TRY(json_get_double(item->place, record, "rating", JSON_REQUIRED, &rating));
    TRY(json_get_string(item->place, record, "text", JSON_REQUIRED, &text, &size));
    TRY(check_strength(item, "rating", rating));
    if (is_blank(text, size))
        return json_error(item->place, "the text is empty");
    add_answer(item, 0, 0, text, size, rating);
    return sink(context, item);
}

static Status need_prompt(const Item *item, int64_t count)
{
    return count ? status_ok()
                 : json_error(item->place, "no prompt: expected a key prompt, question, instruction, messages or "
                                           "conversations");
}

static Status read_response(const json_t *record, Item *item, ItemSink sink, void *context)
{
    int64_t first, count;
    const char *key = first_key(record, answer_keys), *text = NULL;
    size_t size = 0;
    TRY(read_prompt(item, record, &first, &count));
    TRY(need_prompt(item, count));
    if (!key)
        return json_error(item->place, "no answer: expected a key response, completion, output or answer");
    TRY(json_get_string(item->place, record, key, JSON_REQUIRED, &text, &size));
    add_answer(item, first, count, text, size, 0);
    return sink(context, item);
}

static Status read_alpaca(const json_t *record, Item *item, ItemSink sink, void *context)
{
    if (!json_has(record, "instruction") || !json_has(record, "output"))
        return json_error(item->place, "expected the keys instruction and output, found no %s",
                          json_has(record, "instruction") ? "output" : "instruction");
    return read_response(record, item, sink, context);
}

static Status read_prompts(const json_t *record, Item *item, ItemSink sink, void *context)
{
    int64_t first, count;
    if (json_is_string(record)) {
        if (is_blank(json_string_value(record), json_string_length(record)))
            return json_error(item->place, "the prompt is empty");
        first = 0, count = 1;
        add_message(item, (Message){ROLE_USER, json_string_value(record), json_string_length(record)});
    } else {
        TRY(read_prompt(item, record, &first, &count));
        TRY(need_prompt(item, count));
    }
    add_answer(item, first, count, NULL, 0, 0);
    return sink(context, item);
}

/* User turns after the last answer are nobody's to learn, but a prompt: the answer is NULL then. */
static Status read_chat(const json_t *record, Item *item, ItemSink sink, void *context)
{
    const char *key = first_key(record, conversation_keys), *system = "";
    const json_t *list = NULL;
    size_t system_size = 0;
    TRY(json_get_array(item->place, record, key ? key : "messages", JSON_REQUIRED, &list));
    if (json_is_string(json_object_get(record, "system")))
        TRY(json_get_string(item->place, record, "system", JSON_OPTIONAL, &system, &system_size));
    if (system_size)
        add_message(item, (Message){ROLE_SYSTEM, system, system_size});
    TRY(read_messages(item, key ? key : "messages", list));
    const Message *last = last_message(item);
    if (last->role == ROLE_ASSISTANT) {
        TRY(answer_from_last(item, key, 0, 0));
        item->every_turn = true;
    } else if (last->role == ROLE_USER && !is_blank(last->text, last->size)) {
        add_answer(item, 0, item->messages_count, NULL, 0, 0);
    } else {
        return json_error(item->place, "%s: the conversation has no turn of a user, or it is empty", key);
    }
    return sink(context, item);
}

/* A margin is how much better the chosen one is; 0 ("barely") must still be a difference. */
static Status read_pairs(const json_t *record, Item *item, ItemSink sink, void *context)
{
    int64_t first, count;
    double margin = 1;
    TRY(json_check_object(item->place, record));
    TRY(json_get_double(item->place, record, "margin", JSON_OPTIONAL, &margin));
    TRY(check_strength(item, "margin", margin));
    if (margin < 0)
        return json_error(item->place, "margin: expected a number of at least 0, found %g", margin);
    const json_t *chosen = json_object_get(record, "chosen"), *rejected = json_object_get(record, "rejected");
    if (!chosen || !rejected)
        return json_error(item->place, "expected the keys chosen and rejected, found no %s",
                          chosen ? "rejected" : "chosen");
    TRY(read_prompt(item, record, &first, &count));
    TRY(read_answer(item, "chosen", chosen, first, count, margin > FLT_MIN ? margin : (double)FLT_MIN));
    TRY(read_answer(item, "rejected", rejected, first, count, 0));
    return sink(context, item);
}

static Status read_ranked(const json_t *record, Item *item, ItemSink sink, void *context)
{
    int64_t first, count;
    const json_t *responses, *values = NULL;
    const char *key = json_has(record, "ranks") ? "ranks" : "scores";
    TRY(json_get_array(item->place, record, "responses", JSON_REQUIRED, &responses));
    TRY(json_get_array(item->place, record, key, JSON_REQUIRED, &values));
    size_t answers = json_array_size(responses);
    if (json_array_size(values) != answers)
        return json_error(item->place, "%zu responses, but %zu %s", answers, json_array_size(values), key);
    if (answers < 2 || answers > GROUP_ANSWERS_MAX)
        return json_error(item->place, "responses: expected 2 to %d, found %zu", GROUP_ANSWERS_MAX, answers);
    TRY(read_prompt(item, record, &first, &count));
    TRY(need_prompt(item, count));
    for (size_t i = 0; i < answers; i++) {
        const json_t *value = json_array_get(values, i);
        if (!json_is_number(value))
            return json_error(item->place, "%s: expected a list of numbers, found %s in it", key,
                              json_type_name(value));
        double strength = json_number_value(value);
        TRY(check_strength(item, key, strength));
        strength = strcmp(key, "ranks") == 0 ? 0 - strength : strength;
        TRY(read_answer(item, "responses", json_array_get(responses, i), first, count, strength));
    }
    return sink(context, item);
}

/* --- Message trees --------------------------------------------------------------------------------------------------*/

/* The group that a prompter message and its replies make: ranked replies only, or, where none is ranked, the first as it stands. */
static Status tree_group(const json_t *node, Item *item, ItemSink sink, void *context)
{
    const json_t *replies = json_object_get(node, "replies"), *reply;
    const char *text, *first_text = NULL;
    size_t size, first_size = 0, i;
    item->answers_count = 0;
    json_array_foreach(replies, i, reply)
    {
        const char *role = "";
        bool deleted = false;
        double rank = -1;
        TRY(json_get_string(item->place, reply, "role", JSON_REQUIRED, &role, NULL));
        TRY(json_get_bool(item->place, reply, "deleted", JSON_OPTIONAL, &deleted));
        TRY(json_get_double(item->place, reply, "rank", JSON_OPTIONAL, &rank));
        TRY(json_get_string(item->place, reply, "text", JSON_REQUIRED, &text, &size));
        TRY(check_strength(item, "rank", rank));
        if (deleted || strcmp(role, "assistant") != 0)
            continue;
        if (!first_text) {
            first_text = text;
            first_size = size;
        }
        if (rank >= 0)
            add_answer(item, 0, item->messages_count, text, size, 0 - rank);
    }
    if (item->answers_count > GROUP_ANSWERS_MAX)
        return json_error(item->place, "%lld ranked replies to one message; at most %d", (long long)item->answers_count,
                          GROUP_ANSWERS_MAX);
    if (item->answers_count == 0)
        add_answer(item, 0, item->messages_count, first_text, first_size, 0);
    item->record = node;
    return sink(context, item);
}

/* Depth first; messages [0, messages_count) are the way down to and with `node`. jansson limits the depth. */
static Status tree_walk(const json_t *node, Item *item, ItemSink sink, void *context)
{
    MessageRole role;
    Message message = {0};
    const char *role_name;
    const json_t *replies = NULL, *reply;
    TRY(json_get_string(item->place, node, "role", JSON_REQUIRED, &role_name, NULL));
    TRY(json_get_string(item->place, node, "text", JSON_REQUIRED, &message.text, &message.size));
    TRY(json_get_array(item->place, node, "replies", JSON_OPTIONAL, &replies));
    if (!message_role_from_name(role_name, &role) || role == ROLE_SYSTEM)
        return json_error(item->place, "role: expected prompter or assistant, found '%.40s'", role_name);
    if (is_blank(message.text, message.size))
        return json_error(item->place, "text: a message of the tree is empty");
    message.role = role;
    add_message(item, message);
    if (role == ROLE_USER)
        TRY(tree_group(node, item, sink, context));
    size_t i;
    json_array_foreach(replies, i, reply)
    {
        int64_t here = item->messages_count;
        TRY(tree_walk(reply, item, sink, context));
        item->messages_count = here;
    }
    return status_ok();
}

static Status read_tree(const json_t *record, Item *item, ItemSink sink, void *context)
{
    TRY(json_check_object(item->place, record));
    const json_t *inside = json_object_get(record, "prompt"); /* {"message_tree_id", "prompt": {...}} */
    return tree_walk(json_is_object(inside) ? inside : record, item, sink, context);
}

/* --- The table ------------------------------------------------------------------------------------------------------*/

static const struct {
    const char *name;
    FormatReader read;
    bool strings; /* a record may be a string alone */
} formats[] = {
    [DATA_AUTO] = {"auto", NULL, false},
    [DATA_TEXT] = {"text", read_text, true},
    [DATA_RESPONSE] = {"response", read_response, false},
    [DATA_ALPACA] = {"alpaca", read_alpaca, false},
    [DATA_CHAT] = {"chat", read_chat, false},
    [DATA_PAIRS] = {"pairs", read_pairs, false},
    [DATA_RANKED] = {"ranked", read_ranked, false},
    [DATA_OASST] = {"oasst", read_tree, false},
    [DATA_RATED] = {"rated", read_rated, false},
    [DATA_PROMPTS] = {"prompts", read_prompts, true},
};

const char *data_format_name(DataFormat format)
{
    return formats[format].name;
}

Status data_format_guess(JsonPlace place, const json_t *record, DatasetKind kind, DataFormat *format)
{
    bool prompts = kind == DATASET_PROMPT;
    const json_t *inside = json_object_get(record, "prompt");
    *format = DATA_TEXT;
    if (json_is_string(record)) {
        *format = prompts ? DATA_PROMPTS : DATA_TEXT;
        return status_ok();
    }
    TRY(json_check_object(place, record));
    if (json_has(record, "chosen") && json_has(record, "rejected"))
        *format = DATA_PAIRS;
    else if (json_has(record, "responses") && (json_has(record, "ranks") || json_has(record, "scores")))
        *format = DATA_RANKED;
    else if (json_is_object(inside) || (json_has(record, "role") && json_has(record, "replies")))
        *format = DATA_OASST;
    else if (json_has(record, "rating") && json_has(record, "text"))
        *format = DATA_RATED;
    else if (first_key(record, conversation_keys))
        *format = DATA_CHAT;
    else if (first_key(record, prompt_keys) && (prompts || !first_key(record, answer_keys)))
        *format = DATA_PROMPTS;
    else if (json_has(record, "instruction") && json_has(record, "output"))
        *format = DATA_ALPACA;
    else if (first_key(record, prompt_keys))
        *format = DATA_RESPONSE;
    else if (!json_has(record, "text"))
        return json_error(place,
                          "cannot tell the format by the keys; name it with the key format (one of text, response, "
                          "alpaca, chat, pairs, ranked, oasst, rated, prompts)");
    return status_ok();
}

Status data_format_read(DataFormat format, JsonPlace place, const json_t *record, Item *item, ItemSink sink,
                        void *context)
{
    item_clear(item);
    item->place = place;
    item->record = record;
    if (!(json_is_string(record) && formats[format].strings))
        TRY(json_check_object(place, record));
    return formats[format].read(record, item, sink, context);
}
