/* explain.c -- what `tercet explain KEY` says, made from the rows. */
#include <string.h>

#include "core/base/memory.h"
#include "core/config/section.h"

enum { LINE_COLUMNS = 100, NEAR_MAX = 6 };

/* `prose` broken into lines that begin with `indent` spaces. */
static void append_wrapped(const char *prose, int indent, Text *text)
{
    int column = 0;
    while (*prose) {
        const int word = (int)strcspn(prose, " \n");
        if (column > 0 && column + 1 + word > LINE_COLUMNS) {
            text_append_string(text, "\n");
            column = 0;
        }
        if (column == 0) {
            text_printf(text, "%*s", indent, "");
            column = indent;
        } else {
            text_append_string(text, " ");
            column++;
        }
        text_append(text, prose, (size_t)word);
        column += word;
        prose += word;
        prose += strspn(prose, " \n");
    }
    text_append_string(text, "\n");
}

static const char *default_spelling(const ConfigKey *key)
{
    if (!key->default_text)
        return "(none: it must be written)";
    return *key->default_text ? key->default_text : "\"\"";
}

static void explain_key(const ConfigGroup *group, const ConfigKey *key, Text *text)
{
    section_join(group->path, key->name, text);
    text_append_string(text, "\n");
    if (key->type == CONFIG_REFUSED) {
        text_append_string(text, "  refused:\n");
    } else {
        text_append_string(text, "  takes    ");
        value_describe_type(key, text);
        text_printf(text, "\n  default  %s\n  changes  %s\n", default_spelling(key),
                    key->operational ? "no result (operational: in no digest)"
                                     : "results (semantic: part of the digest)");
    }
    if (group->when)
        text_printf(text, "  exists   where %s\n", group->when);
    append_wrapped(key->help, 2, text);
}

/* goes_on: the heading stands above already. */
static void explain_group(const ConfigGroup *group, bool goes_on, Text *text)
{
    if (!goes_on)
        text_printf(text, "%s%s%s%s\n", *group->path ? group->path : "(top of the file)", group->when ? " where " : "",
                    group->when ? group->when : "", group->optional ? "  (may be left out)" : "");
    if (group->help)
        append_wrapped(group->help, 2, text);
    for (const ConfigKey *key = group->keys; key->name; key++) {
        text_printf(text, "    %-22s ", key->name);
        if (key->type == CONFIG_REFUSED)
            text_append_string(text, "refused");
        else
            text_printf(text, "%-14s ", key->default_text ? default_spelling(key) : "(needed)");
        if (key->type != CONFIG_REFUSED)
            value_describe_type(key, text);
        text_append_string(text, "\n");
    }
}

static void separate(Text *text, size_t start)
{
    if (text->size > start)
        text_append_string(text, "\n");
}

static Status unknown(const ConfigSchema *schema, const char *wanted)
{
    size_t count = 0, capacity = 0;
    char **names = NULL;
    for (int i = 0; i < schema->count; i++) {
        for (const ConfigKey *key = schema->groups[i].keys; key->name; key++) {
            Text full = {0};
            section_join(schema->groups[i].path, key->name, &full);
            memory_reserve(&names, count, &capacity);
            names[count++] = memory_strdup(text_string(&full));
            text_free(&full);
        }
    }
    Text hint = {0};
    const char *nearest = text_nearest(wanted, (const char *const *)names, count);
    const char *dot = strrchr(wanted, '.');
    int shown = 0;
    if (nearest && ++shown)
        text_printf(&hint, "; did you mean %s", nearest);
    for (size_t i = 0; i < count && shown < NEAR_MAX; i++) {
        const char *last = strrchr(names[i], '.');
        const char *short_name = last ? last + 1 : names[i];
        if (names[i] != nearest && text_nearest(dot ? dot + 1 : wanted, &short_name, 1))
            text_printf(&hint, "%s%s", shown++ ? ", " : "; did you mean ", names[i]);
    }
    Status status =
        status_error(STATUS_USAGE, "there is no key '%s'%s%s", wanted, text_string(&hint), shown ? "?" : "");
    for (size_t i = 0; i < count; i++)
        memory_free(&names[i]);
    memory_free(&names);
    text_free(&hint);
    return status;
}

/* Patterns compare with the brackets of lists left out, so that "ppo.rewards.kind" will do. */
static void without_brackets(const char *path, Text *text)
{
    for (const char *at = path; *at; at++) {
        if (*at == '[')
            at += strcspn(at, "]");
        else
            text_append(text, at, 1);
        if (!*at)
            break;
    }
}

Status config_explain(const ConfigSchema *schema, const char *key, Text *text)
{
    const size_t start = text->size;
    Text wanted = {0}, path = {0}, full = {0};
    without_brackets(key, &wanted);
    const char *name = text_string(&wanted);
    for (int i = 0; i < schema->count; i++) {
        const ConfigGroup *group = &schema->groups[i];
        text_clear(&path);
        without_brackets(group->path, &path);
        if (section_path_inside(text_string(&path), name)) {
            const bool goes_on = i > 0 && !group->when && strcmp(schema->groups[i - 1].path, group->path) == 0;
            if (!goes_on) /* rows of another room, but the same section to who reads it */
                separate(text, start);
            explain_group(group, goes_on, text);
        }
        for (const ConfigKey *row = group->keys; row->name && *name; row++) {
            text_clear(&full);
            section_join(text_string(&path), row->name, &full);
            if (strcmp(text_string(&full), name) == 0 || strcmp(row->name, name) == 0) {
                separate(text, start);
                explain_key(group, row, text);
            }
        }
    }
    Status status = text->size > start ? status_ok() : unknown(schema, key);
    text_free(&wanted);
    text_free(&path);
    text_free(&full);
    return status;
}
