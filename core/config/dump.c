/* dump.c -- a Config as text: the canonical lines that digests see, and YAML with every key in effect. */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/config/section.h"

/* --- Canonical lines --------------------------------------------------------------------------------------------- */

typedef struct Lines {
    char **items;
    int count, capacity;
} Lines;

static void lines_add(Lines *lines, Text *line)
{
    memory_reserve(&lines->items, lines->count, &lines->capacity);
    lines->items[lines->count++] = memory_strdup(text_string(line));
    text_free(line);
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool section_wanted(const Section *section, const char *path)
{
    if (!section->in_force)
        return false;
    return strcmp(path, "*") == 0 || (*path ? section_path_inside(section->path, path) : !*section->path);
}

void config_canonical(const Config *config, const char *path, bool semantic_only, Text *text)
{
    Lines lines = {0};
    for (int i = 0; i < config->sections_count; i++) {
        const Section *section = &config->sections[i];
        if (!section_wanted(section, path))
            continue;
        for (int k = 0; section->group->keys[k].name; k++) {
            const ConfigKey *key = &section->group->keys[k];
            if (key->type == CONFIG_REFUSED || (semantic_only && key->operational))
                continue;
            Text line = {0};
            section_join(section->path, key->name, &line);
            text_append_string(&line, "=");
            value_format(key, &section->values[k], false, &line);
            lines_add(&lines, &line);
        }
    }
    if (lines.count > 0)
        qsort(lines.items, (size_t)lines.count, sizeof *lines.items, compare_lines);
    for (int i = 0; i < lines.count; i++) {
        text_printf(text, "%s\n", lines.items[i]);
        memory_free(&lines.items[i]);
    }
    memory_free(&lines.items);
}

/* --- YAML -------------------------------------------------------------------------------------------------------- */

static void append_indent(int indent, Text *text)
{
    for (int i = 0; i < indent; i++)
        text_append_string(text, " ");
}

static void dump_section(const Config *config, const char *path, int indent, Text *text);

static void dump_list(const Config *config, const char *path, const char *name, int indent, Text *text)
{
    const int count = config_count(config, path);
    append_indent(indent, text);
    text_printf(text, "%s:\n", name);
    for (int i = 0; i < count; i++) {
        Text item_path = {0}, item = {0};
        text_printf(&item_path, "%s[%d]", path, i);
        dump_section(config, text_string(&item_path), indent + 4, &item);
        if (item.size > 0) {
            item.bytes[indent + 2] = '-';
        } else {
            append_indent(indent + 2, &item);
            text_append_string(&item, "- {}\n");
        }
        text_append(text, item.bytes, item.size);
        text_free(&item);
        text_free(&item_path);
    }
}

/* The sections directly inside `path`: the next name of every path in force that goes through it, once. */
static void dump_inner(const Config *config, const char *path, int indent, Text *text)
{
    Text seen = {0};
    for (int i = 0; i < config->sections_count; i++) {
        const Section *section = &config->sections[i];
        const size_t length = strlen(path);
        if (!section->in_force || !section_path_inside(section->path, path) || section->path[length] == 0 ||
            section->path[length] == '[')
            continue;
        const char *rest = section->path + length + (length > 0);
        Text name = {0}, inner = {0}, mark = {0};
        text_append(&name, rest, strcspn(rest, ".["));
        text_printf(&mark, "/%s/", text_string(&name));
        section_join(path, text_string(&name), &inner);
        if (!strstr(text_string(&seen), text_string(&mark))) {
            text_append_string(&seen, text_string(&mark));
            if (rest[name.size] == '[') {
                dump_list(config, text_string(&inner), text_string(&name), indent, text);
            } else {
                Text body = {0};
                dump_section(config, text_string(&inner), indent + 2, &body);
                append_indent(indent, text);
                text_printf(text, body.size > 0 ? "%s:\n" : "%s: {}\n", text_string(&name));
                text_append(text, text_string(&body), body.size);
                text_free(&body);
            }
        }
        text_free(&name);
        text_free(&inner);
        text_free(&mark);
    }
    text_free(&seen);
}

static void dump_section(const Config *config, const char *path, int indent, Text *text)
{
    for (int i = 0; i < config->sections_count; i++) {
        const Section *section = &config->sections[i];
        for (int k = 0; section->in_force && !strcmp(section->path, path) && section->group->keys[k].name; k++) {
            const ConfigKey *key = &section->group->keys[k];
            if (key->type == CONFIG_REFUSED)
                continue;
            append_indent(indent, text);
            text_printf(text, "%s: ", key->name);
            value_format(key, &section->values[k], true, text);
            text_append_string(text, "\n");
        }
    }
    dump_inner(config, path, indent, text);
}

void config_dump_yaml(const Config *config, Text *text)
{
    const size_t before = text->size;
    dump_section(config, "", 0, text);
    if (text->size == before)
        text_append_string(text, "{}\n");
}
