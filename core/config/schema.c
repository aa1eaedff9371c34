/* schema.c -- gathering the rows of all rooms, and checking the rows themselves once, where they are gathered. */
#include <string.h>

#include "core/base/memory.h"
#include "core/config/section.h"

int section_key_count(const ConfigKey *keys)
{
    int count = 0;
    while (keys[count].name)
        count++;
    return count;
}

const ConfigKey *section_find_key(const ConfigGroup *group, const char *name)
{
    for (const ConfigKey *key = group->keys; key->name; key++)
        if (strcmp(key->name, name) == 0)
            return key;
    return NULL;
}

void section_join(const char *path, const char *name, Text *text)
{
    if (*path)
        text_printf(text, "%s.", path);
    text_append_string(text, name);
}

void section_pattern(const char *path, Text *text)
{
    for (const char *at = path; *at; at++) {
        text_append(text, at, 1);
        if (*at == '[')
            at += strcspn(at, "]") - 1;
    }
}

bool section_path_inside(const char *inner, const char *outer)
{
    const size_t length = strlen(outer);
    if (strncmp(inner, outer, length) != 0)
        return false;
    return length == 0 || inner[length] == 0 || inner[length] == '.' || inner[length] == '[';
}

static bool name_is_valid(const char *name)
{
    return *name && name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")] == 0;
}

static void check_key(const ConfigGroup *group, const ConfigKey *key)
{
    REQUIRE(name_is_valid(key->name), "config row %s.%s: a name is letters, digits, _ and -", group->path, key->name);
    REQUIRE(key->help && *key->help, "config row %s.%s has no help", group->path, key->name);
    REQUIRE(key->type != CONFIG_CHOICE || (key->choices && *key->choices), "config row %s.%s has no choices",
            group->path, key->name);
    REQUIRE(!key->automatic || key->type == CONFIG_INT || key->type == CONFIG_FLOAT,
            "config row %s.%s: auto is for INT and FLOAT", group->path, key->name);
    REQUIRE(key->min <= key->max, "config row %s.%s: min above max", group->path, key->name);
    if (!key->default_text || key->type == CONFIG_REFUSED)
        return;
    YamlNode *node;
    ConfigValue value;
    Status status = yaml_parse_value(key->default_text, "default", value_type_is_text(key->type), &node);
    REQUIRE(!status_failed(status), "config row %s.%s: %s", group->path, key->name, status_message());
    status = value_parse(key, node, &value);
    REQUIRE(!status_failed(status), "config row %s.%s: default: %s", group->path, key->name, status_message());
    value_free(&value);
    yaml_node_free(&node);
}

/* Two groups may both be in force at one place unless their `when`s exclude each other. */
static bool groups_overlap(const ConfigGroup *a, const ConfigGroup *b)
{
    return strcmp(a->path, b->path) == 0 && (!a->when || !b->when || strcmp(a->when, b->when) == 0);
}

static void check_group(const ConfigSchema *schema, const ConfigGroup *group)
{
    REQUIRE(!strchr(group->path, ' ') && !text_starts_with(group->path, "."), "config group '%s': bad path",
            group->path);
    REQUIRE(!group->when || strchr(group->when, '='), "config group %s: when needs key=value", group->path);
    for (const ConfigKey *key = group->keys; key->name; key++) {
        check_key(group, key);
        for (const ConfigKey *other = group->keys; other < key; other++)
            REQUIRE(strcmp(other->name, key->name) != 0, "config row %s.%s is there twice", group->path, key->name);
        for (int i = 0; i < schema->count; i++)
            REQUIRE(!groups_overlap(&schema->groups[i], group) || !section_find_key(&schema->groups[i], key->name),
                    "config row %s.%s is there twice", group->path, key->name);
    }
}

void config_schema_add(ConfigSchema *schema, const ConfigGroup *groups)
{
    for (; groups->path; groups++) {
        check_group(schema, groups);
        memory_reserve(&schema->groups, schema->count, &schema->capacity);
        schema->groups[schema->count++] = *groups;
    }
}

void config_schema_free(ConfigSchema *schema)
{
    memory_free(&schema->groups);
    *schema = (ConfigSchema){0};
}
