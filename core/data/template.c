/* template.c -- the table of chat formats, and the one writer that turns a row and messages into tokens or text. */
#include "core/data/template.h"

#include <string.h>
#include <strings.h>

#include "core/base/memory.h"

enum { MARKERS_MAX = 2, STOPS_MAX = 3 };

struct Template {
    const char *name;
    const char *no_system;    /* stands for a system message where there is none; NULL: nothing does */
    const char *system[2];    /* before and after the system message */
    const char *user[2];      /* before and after a user message */
    const char *cue;          /* what the model answers to */
    const char *end_marker;   /* ends an answer if it is a token; NULL: EOS does */
    const char *after_answer; /* between the end of an answer and what follows it */
    bool space;               /* user messages and answers get a space in front unless they bring one */
    const char *markers[MARKERS_MAX + 1];
    const char *stops[STOPS_MAX + 1];
};

static const Template table[TEMPLATE_KINDS] = {
    [TEMPLATE_PLAIN] = {.name = "plain", .system = {"", "\n\n"}, .user = {"", ""}, .cue = "", .after_answer = ""},
    [TEMPLATE_ALPACA] = {.name = "alpaca",
                         .no_system = "Below is an instruction that describes a task. Write a response that "
                                      "appropriately completes the request.",
                         .system = {"", ""},
                         .user = {"\n\n### Instruction:\n", ""},
                         .cue = "\n\n### Response:\n",
                         .after_answer = "",
                         .stops = {"\n\n### Instruction:"}},
    [TEMPLATE_CHATML] = {.name = "chatml",
                         .system = {"<|im_start|>system\n", "<|im_end|>\n"},
                         .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                         .cue = "<|im_start|>assistant\n",
                         .end_marker = "<|im_end|>",
                         .after_answer = "\n",
                         .markers = {"<|im_start|>", "<|im_end|>"},
                         .stops = {"<|im_end|>", "<|im_start|>"}},
    [TEMPLATE_HH] = {.name = "hh",
                     .system = {"", ""},
                     .user = {"\n\nHuman:", ""},
                     .cue = "\n\nAssistant:",
                     .after_answer = "",
                     .space = true,
                     .stops = {"\n\nHuman:"}},
};

const Template *template_get(TemplateKind kind)
{
    REQUIRE(kind >= 0 && kind < TEMPLATE_KINDS, "template %d", (int)kind);
    return &table[kind];
}

const Template *template_find(const char *name)
{
    for (int i = 0; i < TEMPLATE_KINDS; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

const char *template_name(const Template *format)
{
    return format->name;
}

const char *const *template_names(void)
{
    static const char *const names[TEMPLATE_KINDS + 1] = {"plain", "alpaca", "chatml", "hh", NULL};
    return names;
}

const char *const *template_stops(const Template *format)
{
    return format->stops;
}

bool message_role_from_name(const char *name, MessageRole *role)
{
    static const struct {
        const char *name;
        MessageRole role;
    } names[] = {{"system", ROLE_SYSTEM}, {"user", ROLE_USER},           {"human", ROLE_USER},
                 {"prompter", ROLE_USER}, {"assistant", ROLE_ASSISTANT}, {"gpt", ROLE_ASSISTANT},
                 {"bot", ROLE_ASSISTANT}, {"model", ROLE_ASSISTANT}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(name, names[i].name) == 0) {
            *role = names[i].role;
            return true;
        }
    return false;
}

void template_tokens_clear(TemplateTokens *tokens)
{
    tokens->tokens.count = 0;
}

void template_tokens_free(TemplateTokens *tokens)
{
    token_list_free(&tokens->tokens);
    memory_free(&tokens->loss);
    tokens->loss_capacity = 0;
}

/* --- The writer: text gathers in a run; markers, cuts and the end of a piece turn the run into tokens ----------------------*/

typedef struct Writer {
    const Template *format;
    const Tokenizer *tokenizer; /* NULL: only the text is wanted, and the run is it */
    TemplateTokens *out;
    Text run;
    bool fresh;      /* nothing but BOS stands before */
    int64_t flagged; /* tokens of `out` that have their loss flag */
} Writer;

/* Gives the tokens that have no flag yet this one. */
static void flag(Writer *writer, bool loss)
{
    TemplateTokens *out = writer->out;
    if (!writer->tokenizer)
        return;
    if (out->loss_capacity < out->tokens.capacity) {
        out->loss_capacity = out->tokens.capacity;
        out->loss = memory_resize(out->loss, (size_t)out->loss_capacity, sizeof *out->loss);
    }
    if (out->tokens.count > writer->flagged)
        memset(out->loss + writer->flagged, loss, (size_t)(out->tokens.count - writer->flagged));
    writer->flagged = out->tokens.count;
}

static void write_id(Writer *writer, int32_t id)
{
    token_list_append(&writer->out->tokens, id);
}

/* Ends a run of text. */
static Status cut(Writer *writer)
{
    if (!writer->tokenizer || !writer->run.size)
        return status_ok();
    TRY(tokenizer_encode(writer->tokenizer, writer->run.bytes, writer->run.size, writer->fresh ? 0 : TOKENIZER_CONTINUE,
                         &writer->out->tokens));
    writer->fresh = false;
    text_clear(&writer->run);
    return status_ok();
}

/* Text of the format itself: its markers become tokens where the tokenizer has them. */
static Status write_format(Writer *writer, const char *string)
{
    while (*string) {
        int32_t id = -1;
        size_t size = 1;
        for (const char *const *marker = writer->format->markers; *marker && writer->tokenizer && id < 0; marker++)
            if (text_starts_with(string, *marker)) {
                id = tokenizer_token_id(writer->tokenizer, *marker);
                size = strlen(*marker);
            }
        if (id >= 0) {
            TRY(cut(writer));
            write_id(writer, id);
            writer->fresh = false;
        } else {
            text_append(&writer->run, string, size);
        }
        string += size;
    }
    return status_ok();
}

/* Text of a message. */
static void write_message(Writer *writer, const char *text, size_t size, bool space)
{
    if (space && size && text[0] != ' ' && text[0] != '\n' && text[0] != '\t')
        text_append(&writer->run, " ", 1);
    if (size)
        text_append(&writer->run, text, size);
}

static void write_bos(Writer *writer)
{
    if (tokenizer_adds_bos(writer->tokenizer))
        write_id(writer, tokenizer_bos(writer->tokenizer));
}

int32_t template_end_token(const Template *format, const Tokenizer *tokenizer)
{
    int32_t marker = format->end_marker ? tokenizer_token_id(tokenizer, format->end_marker) : -1;
    return marker >= 0 ? marker : tokenizer_eos(tokenizer);
}

/* The end of an answer, rule 3. */
static Status write_end(Writer *writer)
{
    const Template *format = writer->format;
    int32_t end = writer->tokenizer ? template_end_token(format, writer->tokenizer) : -1;
    if (end < 0 && format->end_marker)
        TRY(write_format(writer, format->end_marker));
    TRY(cut(writer));
    if (end >= 0)
        write_id(writer, end);
    return status_ok();
}

static Status write_answer(Writer *writer, const char *text, size_t size, bool complete)
{
    flag(writer, false);
    write_message(writer, text, size, writer->format->space);
    TRY(cut(writer));
    if (complete)
        TRY(write_end(writer));
    flag(writer, true);
    return status_ok();
}

/* --- Conversations -------------------------------------------------------------------------------------------------*/

static Status check_messages(const Message *messages, int64_t count)
{
    MessageRole last = ROLE_SYSTEM;
    for (int64_t i = 0; i < count; i++) {
        if (messages[i].role == ROLE_SYSTEM && i > 0)
            return status_error(STATUS_INPUT, "message %lld: a system message may only stand first", (long long)i + 1);
        if (messages[i].role == ROLE_ASSISTANT && last != ROLE_USER)
            return status_error(STATUS_INPUT, "message %lld: expected a user's turn, found an assistant's",
                                (long long)i + 1);
        last = messages[i].role;
    }
    if (last == ROLE_SYSTEM)
        return status_error(STATUS_INPUT, "a conversation without a user's turn");
    return status_ok();
}

static Status write_conversation(Writer *writer, const Message *messages, int64_t count)
{
    const Template *format = writer->format;
    int64_t i = 0;
    if (messages[0].role == ROLE_SYSTEM || format->no_system) {
        const Message *system = messages[0].role == ROLE_SYSTEM ? &messages[i++] : NULL;
        TRY(write_format(writer, format->system[0]));
        if (system)
            write_message(writer, system->text, system->size, false);
        else
            write_message(writer, format->no_system, strlen(format->no_system), false);
        TRY(write_format(writer, format->system[1]));
    }
    while (i < count) {
        TRY(write_format(writer, format->user[0]));
        write_message(writer, messages[i].text, messages[i].size, format->space);
        for (i++; i < count && messages[i].role == ROLE_USER; i++) {
            write_message(writer, "\n\n", 2, false);
            write_message(writer, messages[i].text, messages[i].size, false);
        }
        TRY(write_format(writer, format->user[1]));
        TRY(write_format(writer, format->cue));
        TRY(cut(writer));
        writer->fresh = false;
        if (i < count) {
            TRY(write_answer(writer, messages[i].text, messages[i].size, true));
            i++;
        }
        if (i < count)
            TRY(write_format(writer, format->after_answer));
    }
    flag(writer, false);
    return status_ok();
}

Status template_encode(const Template *format, const Tokenizer *tokenizer, const Message *messages, int64_t count,
                       TemplateTokens *out)
{
    TRY(check_messages(messages, count));
    Writer writer = {.format = format, .tokenizer = tokenizer, .out = out, .fresh = true, .flagged = out->tokens.count};
    int64_t before = out->tokens.count;
    write_bos(&writer);
    Status status = write_conversation(&writer, messages, count);
    text_free(&writer.run);
    if (status_failed(status))
        out->tokens.count = before;
    return status;
}

Status template_encode_answer(const Template *format, const Tokenizer *tokenizer, const char *text, size_t size,
                              bool complete, TemplateTokens *out)
{
    Writer writer = {.format = format, .tokenizer = tokenizer, .out = out, .flagged = out->tokens.count};
    int64_t before = out->tokens.count;
    Status status = write_answer(&writer, text, size, complete);
    text_free(&writer.run);
    if (status_failed(status))
        out->tokens.count = before;
    return status;
}

Status template_encode_text(const Tokenizer *tokenizer, const char *text, size_t size, bool complete,
                            TemplateTokens *out)
{
    Writer writer = {.format = &table[TEMPLATE_PLAIN],
                     .tokenizer = tokenizer,
                     .out = out,
                     .fresh = true,
                     .flagged = out->tokens.count};
    int64_t before = out->tokens.count;
    write_bos(&writer);
    Status status = write_answer(&writer, text, size, complete);
    text_free(&writer.run);
    if (status_failed(status))
        out->tokens.count = before;
    return status;
}

Status template_text(const Template *format, const Message *messages, int64_t count, Text *out)
{
    TRY(check_messages(messages, count));
    Writer writer = {.format = format};
    Status status = write_conversation(&writer, messages, count);
    text_append(out, text_string(&writer.run), writer.run.size);
    text_free(&writer.run);
    return status;
}
