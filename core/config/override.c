/* override.c -- "key=value" from the command line, put into the tree as if it had been written in the file. */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/config/section.h"

static bool takes_literal_text(const ConfigSchema *schema, const char *path)
{
    Text pattern = {0}, full = {0};
    section_pattern(path, &pattern);
    bool literal = false;
    for (int i = 0; i < schema->count && !literal; i++) {
        for (const ConfigKey *key = schema->groups[i].keys; key->name && !literal; key++) {
            text_clear(&full);
            section_join(schema->groups[i].path, key->name, &full);
            literal = (key->type == CONFIG_STRING || key->type == CONFIG_PATH) &&
                      strcmp(text_string(&full), text_string(&pattern)) == 0;
        }
    }
    text_free(&pattern);
    text_free(&full);
    return literal;
}

static YamlNode *step_into_map(YamlNode *at, const char *name, const char *source)
{
    if (at->kind == YAML_NULL)
        at->kind = YAML_MAP;
    if (at->kind != YAML_MAP)
        return NULL;
    YamlNode *child = yaml_node_child(at, name);
    if (!child) {
        child = yaml_node_new(YAML_NULL, source, 0, 0);
        yaml_node_append(at, name, child);
    }
    return child;
}

/* Walk to the key's parent, making sections on the way. *last: the last name. `path` is cut up in place. */
static Status walk(YamlNode *root, char *path, const char *source, YamlNode **parent, char **last)
{
    YamlNode *at = root;
    for (char *name = path;;) {
        char *next = strchr(name, '.');
        if (next)
            *next++ = 0;
        char *bracket = strchr(name, '[');
        if (!next && !bracket) {
            if (at->kind == YAML_NULL)
                at->kind = YAML_MAP;
            if (!*name || at->kind != YAML_MAP)
                return status_error(STATUS_USAGE, "%s: there is no section to put this key in", source);
            *parent = at;
            *last = name;
            return status_ok();
        }
        if (bracket)
            *bracket++ = 0;
        at = *name ? step_into_map(at, name, source) : NULL;
        if (!at)
            return status_error(STATUS_USAGE, "%s: the key goes through '%s', which is no section", source, name);
        if (bracket) {
            char *end;
            const long index = strtol(bracket, &end, 10);
            if (bracket[strspn(bracket, "0123456789")] != ']' || *end != ']' || end[1] || !next)
                return status_error(STATUS_USAGE, "%s: expected %s[0].key=value", source, name);
            if (at->kind != YAML_LIST || index < 0 || index >= at->count)
                return status_error(STATUS_USAGE, "%s: there is no item %s[%ld]; the list has %d (the first is 0)",
                                    source, name, index, at->kind == YAML_LIST ? at->count : 0);
            at = at->items[index];
        }
        name = next;
    }
}

Status override_apply(Config *config, const char *override)
{
    const char *equals = strchr(override, '=');
    if (!equals || equals == override)
        return status_error(STATUS_USAGE, "argument '%s': expected key=value", override);
    Text source = {0};
    text_printf(&source, "argument %s", override);
    memory_reserve(&config->sources, config->sources_count, &config->sources_capacity);
    const char *place = config->sources[config->sources_count++] = memory_strdup(text_string(&source));
    text_free(&source);

    char *path = memory_strdup(override), *name = NULL;
    path[equals - override] = 0;
    YamlNode *value = NULL, *parent = NULL;
    Status status;
    TRY_GOTO(yaml_parse_value(equals + 1, place, takes_literal_text(config->schema, path), &value), done);
    TRY_GOTO(walk(config->root, path, place, &parent, &name), done);
    yaml_node_set(parent, name, value);
    value = NULL;
done:
    yaml_node_free(&value);
    memory_free(&path);
    return status;
}
