/* judges.c -- see judges.h. */
#include "eval/judges.h"

#include <ctype.h>
#include <string.h>

/* As a double-quoted YAML string. */
static void append_quoted(Text *yaml, const char *value, size_t size)
{
    text_append(yaml, "\"", 1);
    for (size_t i = 0; i < size; i++) {
        if (value[i] == '"' || value[i] == '\\')
            text_append(yaml, "\\", 1);
        text_append(yaml, &value[i], 1);
    }
    text_append(yaml, "\"", 1);
}

static void append_key(Text *yaml, const char *key, const char *value)
{
    text_printf(yaml, ", %s: ", key);
    append_quoted(yaml, value, strlen(value));
}

/* Length of "NAME" in "NAME=...", or 0. */
static size_t name_length(const char *spec)
{
    size_t length = 0;
    while (isalnum((unsigned char)spec[length]) || spec[length] == '_' || spec[length] == '-')
        length++;
    return spec[length] == '=' ? length : 0;
}

static void append_judge(Text *yaml, const char *spec)
{
    size_t name = name_length(spec);
    const char *what = name ? spec + name + 1 : spec;
    text_append_string(yaml, "  - ");
    if (*what == '{') { /* its name is one of its keys */
        text_printf(yaml, "%s\n", what);
        return;
    }
    if (strcmp(what, "demo") == 0) {
        text_append_string(yaml, "{kind: demo");
    } else if (text_starts_with(what, "words:")) {
        text_append_string(yaml, "{kind: words, mode: sign");
        append_key(yaml, "file", what + strlen("words:"));
    } else if (strcmp(what, "match") == 0) {
        text_append_string(yaml, "{kind: match");
    } else if (text_starts_with(what, "match:")) {
        text_append_string(yaml, "{kind: match");
        append_key(yaml, "field", what + strlen("match:"));
    } else if (text_starts_with(what, "length:")) {
        text_printf(yaml, "{kind: length, target: %s", what + strlen("length:"));
    } else {
        text_append_string(yaml, "{kind: model");
        append_key(yaml, "model", what);
    }
    if (name) {
        text_append_string(yaml, ", name: ");
        append_quoted(yaml, spec, name);
    }
    text_append_string(yaml, "}\n");
}

Status judges_parse(Judges *judges, const char *const *specs, int count)
{
    *judges = (Judges){0};
    if (count < 1)
        return status_error(STATUS_USAGE, "expected at least one judge");
    rewards_schema(&judges->schema, "judges[]");
    Text yaml = {0};
    text_append_string(&yaml, "judges:\n");
    for (int i = 0; i < count; i++)
        append_judge(&yaml, specs[i]);
    ConfigSource source = {.path = "--judge", .text = text_string(&yaml), .text_size = yaml.size};
    Status status = config_open(source, &judges->schema, &judges->config);
    text_free(&yaml);
    if (status_failed(status))
        judges_free(judges);
    return status;
}

void judges_free(Judges *judges)
{
    config_close(&judges->config);
    config_schema_free(&judges->schema);
    *judges = (Judges){0};
}

Status judges_open(const Judges *judges, Comm *comm, Device *device, const Tokenizer *tokenizer, Rewards *rewards)
{
    return rewards_open(rewards, comm, device, tokenizer, judges->config, "judges");
}
