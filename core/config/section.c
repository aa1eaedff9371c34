/* section.c -- the schema laid over the YAML tree: which sections are there, which keys are unknown, what values are. */
#include "core/config/section.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

enum { VARIABLE_DEPTH_MAX = 8, CANDIDATES_MAX = 1024, ITEMS_MAX = 1000 };

/* --- Sections ---------------------------------------------------------------------------------------------------- */

static Status place_error(const YamlNode *node, bool at_name, const char *key, Status status)
{
    Text place = {0};
    yaml_node_place(node, at_name, &place);
    status = status_prefix(status, "%s: %s", text_string(&place), key);
    text_free(&place);
    return status;
}

static Status kind_error(const YamlNode *node, const char *path, const char *wanted)
{
    Text found = {0};
    yaml_node_describe(node, &found);
    Status status = status_error(STATUS_USAGE, "expected %s, found %s", wanted, text_string(&found));
    text_free(&found);
    return place_error(node, false, path, status);
}

static void section_add(Config *config, const ConfigGroup *group, const char *path, const YamlNode *node, bool in_force)
{
    memory_reserve(&config->sections, config->sections_count, &config->sections_capacity);
    config->sections[config->sections_count++] =
        (Section){.path = memory_strdup(path),
                  .group = group,
                  .node = node,
                  .in_force = in_force,
                  .values = memory_new((size_t)section_key_count(group->keys), sizeof(ConfigValue))};
}

/* Is some group at exactly this pattern optional? */
static bool pattern_is_optional(const ConfigSchema *schema, const char *pattern, size_t length)
{
    for (int i = 0; i < schema->count; i++)
        if (schema->groups[i].optional && strlen(schema->groups[i].path) == length &&
            strncmp(schema->groups[i].path, pattern, length) == 0)
            return true;
    return false;
}

/* Add the sections of `group` below `node`, which stands at `path`; `rest` is what is left of the pattern. */
static Status section_expand(Config *config, const ConfigGroup *group, const char *rest, const char *path,
                             const YamlNode *node, bool in_force)
{
    if (!*rest) {
        section_add(config, group, path, node, in_force);
        return status_ok();
    }
    const size_t part = strcspn(rest, "."), name_length = strcspn(rest, ".[");
    const bool list = rest[name_length] == '[';
    const char *next = rest + part + (rest[part] == '.');
    Text name = {0}, child_path = {0};
    text_append(&name, rest, name_length);
    section_join(path, text_string(&name), &child_path);
    const YamlNode *child = yaml_node_child(node, text_string(&name));
    Status status = status_ok();
    if (!list) {
        if (child && child->kind != YAML_MAP && child->kind != YAML_NULL)
            status = kind_error(child, text_string(&child_path), "a section (lines of key: value below it)");
        else if (!child && pattern_is_optional(config->schema, group->path, (size_t)(rest - group->path) + part))
            in_force = false;
        if (!status_failed(status))
            status = section_expand(config, group, next, text_string(&child_path), child, in_force);
    } else if (child && child->kind != YAML_LIST && child->kind != YAML_NULL) {
        status = kind_error(child, text_string(&child_path), "a list of sections (each begins with '- ')");
    } else if (child && child->count > ITEMS_MAX) {
        status = kind_error(child, text_string(&child_path), "a list of at most 1000 sections");
    }
    for (int i = 0; list && child && i < child->count && !status_failed(status); i++) {
        Text item_path = {0};
        text_printf(&item_path, "%s[%d]", text_string(&child_path), i);
        const YamlNode *item = child->items[i];
        if (item->kind != YAML_MAP && item->kind != YAML_NULL)
            status = kind_error(item, text_string(&item_path), "a section (key: value)");
        else
            status = section_expand(config, group, next, text_string(&item_path), item, in_force);
        text_free(&item_path);
    }
    text_free(&name);
    text_free(&child_path);
    return status;
}

/* --- Variables --------------------------------------------------------------------------------------------------- */

static Status expand(const Config *config, const char *written, int depth, Text *out);

static Status variable_root_key(const Config *config, const char *name, int depth, bool *found, Text *out)
{
    *found = false;
    for (int i = 0; i < config->schema->count; i++) {
        const ConfigGroup *group = &config->schema->groups[i];
        const ConfigKey *key = *group->path || group->when ? NULL : section_find_key(group, name);
        if (!key || key->type != CONFIG_PATH)
            continue;
        *found = true;
        const YamlNode *node = yaml_node_child(config->root, name);
        const char *written = node ? (node->kind == YAML_SCALAR ? node->text : NULL) : key->default_text;
        if (!written || (!node && strcmp(written, "null") == 0))
            return status_error(STATUS_USAGE, "${%s} is used, but the key %s is not written", name, name);
        return expand(config, written, depth + 1, out);
    }
    return status_ok();
}

static Status variable_unknown(const Config *config, const char *name)
{
    const char *names[CANDIDATES_MAX];
    size_t count = 0;
    names[count++] = "config_dir";
    for (int i = 0; i < config->variables_count && count < CANDIDATES_MAX; i++)
        names[count++] = config->variables[i].name;
    for (int i = 0; i < config->schema->count; i++)
        for (const ConfigKey *key = config->schema->groups[i].keys; !*config->schema->groups[i].path && key->name;
             key++)
            if (key->type == CONFIG_PATH && count < CANDIDATES_MAX)
                names[count++] = key->name;
    Text known = {0};
    for (size_t i = 0; i < count; i++)
        text_printf(&known, "%s${%s}", i ? ", " : "", names[i]);
    Status status = status_error(STATUS_USAGE, "unknown variable ${%s}; there are %s", name, text_string(&known));
    text_free(&known);
    return status;
}

static Status variable_value(const Config *config, const char *name, int depth, Text *out)
{
    if (strcmp(name, "config_dir") == 0) {
        text_append_string(out, config->directory);
        return status_ok();
    }
    for (int i = 0; i < config->variables_count; i++) {
        if (strcmp(config->variables[i].name, name) != 0)
            continue;
        if (!config->variables[i].value)
            return status_error(STATUS_USAGE, "${%s} is used, but it is not set in the environment", name);
        text_append_string(out, config->variables[i].value);
        return status_ok();
    }
    bool found;
    TRY(variable_root_key(config, name, depth, &found, out));
    return found ? status_ok() : variable_unknown(config, name);
}

static Status expand(const Config *config, const char *written, int depth, Text *out)
{
    if (depth > VARIABLE_DEPTH_MAX)
        return status_error(STATUS_USAGE, "variables refer to each other in a circle");
    for (const char *at = written; *at;) {
        if (at[0] != '$' || at[1] != '{') {
            text_append(out, at++, 1);
            continue;
        }
        const size_t length = strcspn(at + 2, "}");
        if (at[2 + length] != '}')
            return status_error(STATUS_USAGE, "'${' without '}'");
        Text name = {0};
        text_append(&name, at + 2, length);
        Status status = variable_value(config, text_string(&name), depth, out);
        text_free(&name);
        TRY(status);
        at += length + 3;
    }
    return status_ok();
}

static Status value_expand(const Config *config, ConfigValue *value)
{
    for (int i = 0; value->expanded && i < value->count; i++) {
        Text out = {0};
        Status status = expand(config, value->strings[i], 0, &out);
        if (!status_failed(status))
            value->expanded[i] = memory_strdup(text_string(&out));
        text_free(&out);
        TRY(status);
    }
    return status_ok();
}

/* --- Values ------------------------------------------------------------------------------------------------------ */

static Status missing_key(const Config *config, const Section *section, const ConfigKey *key)
{
    Text place = {0}, wanted = {0}, full = {0};
    section_join(section->path, key->name, &full);
    if (section->node)
        yaml_node_place(section->node, true, &place);
    else
        text_append_string(&place, config->name);
    value_describe_type(key, &wanted);
    Status status = status_error(STATUS_USAGE, "%s: %s: this key must be written: expected %s (%s)",
                                 text_string(&place), text_string(&full), text_string(&wanted), key->help);
    text_free(&full);
    text_free(&place);
    text_free(&wanted);
    return status;
}

static Status value_read(Config *config, Section *section, const ConfigKey *key, const char *full, ConfigValue *value)
{
    const YamlNode *written = yaml_node_child(section->node, key->name);
    if (key->type == CONFIG_REFUSED)
        return written ? place_error(written, true, full, status_error(STATUS_USAGE, "%s", key->help)) : status_ok();
    if (!written && !key->default_text)
        return status_ok();
    YamlNode *standard = NULL;
    if (!written)
        TRY(yaml_parse_value(key->default_text, config->name, value_type_is_text(key->type), &standard));
    const YamlNode *node = written ? written : standard;
    Status status = value_parse(key, node, value);
    /* A default path of a section that is left out may use variables that this run does not have. */
    if (!status_failed(status) && (section->in_force || written)) {
        status = value_expand(config, value);
        if (status_failed(status))
            value_free(value);
    }
    if (status_failed(status))
        status = place_error(node, false, full, status);
    yaml_node_free(&standard);
    return status;
}

static Status section_read_values(Config *config, Section *section)
{
    const ConfigKey *keys = section->group->keys;
    for (int i = 0; keys[i].name; i++) {
        Text full = {0};
        section_join(section->path, keys[i].name, &full);
        Status status = value_read(config, section, &keys[i], text_string(&full), &section->values[i]);
        text_free(&full);
        TRY(status);
    }
    return status_ok();
}

/* Does "key=word" hold at this section's place, by the groups there that have no condition? */
static bool condition_holds(const Config *config, const Section *section)
{
    const char *when = section->group->when, *equals = strchr(when, '=');
    for (int i = 0; i < config->sections_count; i++) {
        const Section *other = &config->sections[i];
        if (other->group->when || strcmp(other->path, section->path) != 0)
            continue;
        for (int k = 0; other->group->keys[k].name; k++) {
            const ConfigKey *key = &other->group->keys[k];
            if (strlen(key->name) != (size_t)(equals - when) || strncmp(key->name, when, strlen(key->name)) != 0)
                continue;
            Text spelled = {0};
            if (other->values[k].present)
                value_format(key, &other->values[k], false, &spelled);
            const bool holds = strcmp(text_string(&spelled), equals + 1) == 0;
            text_free(&spelled);
            return holds;
        }
    }
    REQUIRE(false, "config group %s: when=%s names no key of this path", section->group->path, when);
}

static void section_free(Section *section)
{
    for (int i = 0; section->group->keys[i].name; i++)
        value_free(&section->values[i]);
    memory_free(&section->values);
    memory_free(&section->path);
}

/* Drop the conditional sections whose condition does not hold. */
static void sections_drop(Config *config)
{
    bool *keep = memory_new((size_t)config->sections_count, sizeof *keep);
    for (int i = 0; i < config->sections_count; i++)
        keep[i] = !config->sections[i].group->when || condition_holds(config, &config->sections[i]);
    int kept = 0;
    for (int i = 0; i < config->sections_count; i++) {
        if (keep[i])
            config->sections[kept++] = config->sections[i];
        else
            section_free(&config->sections[i]);
    }
    config->sections_count = kept;
    memory_free(&keep);
}

/* --- Unknown keys ------------------------------------------------------------------------------------------------ */

typedef struct Names {
    const char *items[CANDIDATES_MAX]; /* borrowed or in `owned` */
    size_t count;
    char *owned[CANDIDATES_MAX];
    size_t owned_count;
} Names;

static void names_add(Names *names, const char *name, size_t length)
{
    if (names->count == CANDIDATES_MAX)
        return;
    char *copy = memory_new(length + 1, 1);
    memcpy(copy, name, length);
    names->items[names->count++] = names->owned[names->owned_count++] = copy;
}

static bool names_has(const Names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return false;
}

static void names_free(Names *names)
{
    for (size_t i = 0; i < names->owned_count; i++)
        memory_free(&names->owned[i]);
    names->count = names->owned_count = 0;
}

/* What may stand at this place: names of sections into `inner`, names of keys into `keys`. */
static void names_at(const Config *config, const char *path, const char *pattern, Names *keys, Names *inner)
{
    const size_t length = strlen(pattern);
    for (int i = 0; i < config->sections_count; i++)
        for (const ConfigKey *key = config->sections[i].group->keys; key->name; key++)
            if (strcmp(config->sections[i].path, path) == 0)
                names_add(keys, key->name, strlen(key->name));
    for (int i = 0; i < config->schema->count; i++) {
        const char *group = config->schema->groups[i].path;
        if (strncmp(group, pattern, length) != 0 || (length && group[length] != '.') || strlen(group) <= length)
            continue;
        const char *rest = group + length + (length > 0);
        names_add(inner, rest, strcspn(rest, ".["));
    }
}

/* Hints for a name that is nowhere here: a key of another kind of item, or of another section. */
static void hint_elsewhere(const Config *config, const char *pattern, const char *name, Text *hint)
{
    for (int i = 0; i < config->schema->count; i++) {
        const ConfigGroup *group = &config->schema->groups[i];
        if (strcmp(group->path, pattern) == 0 && group->when && section_find_key(group, name)) {
            text_printf(hint, "; it exists only where %s", group->when);
            return;
        }
    }
    Text full = {0};
    for (int i = 0, shown = 0; i < config->schema->count && shown < 3; i++) {
        for (const ConfigKey *key = config->schema->groups[i].keys; key->name; key++) {
            text_clear(&full);
            section_join(config->schema->groups[i].path, key->name, &full);
            if (strcmp(text_string(&full), name) == 0)
                text_printf(hint, "; write %s: inside %s:", key->name, config->schema->groups[i].path);
            else if (strcmp(key->name, name) == 0 && shown++ < 3)
                text_printf(hint, "%s%s", shown == 1 ? "; there is " : ", ", text_string(&full));
        }
    }
    text_free(&full);
}

static Status check_names(const Config *config, const YamlNode *node, const char *path);

static Status check_name(const Config *config, const YamlNode *child, const char *path, const Names *keys,
                         const Names *inner)
{
    Text full = {0};
    section_join(path, child->name, &full);
    Status status = status_ok();
    if (names_has(inner, child->name)) {
        if (child->kind == YAML_MAP)
            status = check_names(config, child, text_string(&full));
        for (int i = 0; child->kind == YAML_LIST && i < child->count && !status_failed(status); i++) {
            Text item = {0};
            text_printf(&item, "%s[%d]", text_string(&full), i);
            status = check_names(config, child->items[i], text_string(&item));
            text_free(&item);
        }
    } else if (!names_has(keys, child->name)) {
        Names all = *keys;
        for (size_t i = 0; i < inner->count && all.count < CANDIDATES_MAX; i++)
            all.items[all.count++] = inner->items[i];
        const char *nearest = text_nearest(child->name, all.items, all.count);
        Text hint = {0}, pattern = {0};
        section_pattern(path, &pattern);
        if (nearest)
            text_printf(&hint, "; did you mean %s?", nearest);
        else
            hint_elsewhere(config, text_string(&pattern), child->name, &hint);
        status = place_error(child, true, text_string(&full),
                             status_error(STATUS_USAGE, "unknown key%s", text_string(&hint)));
        text_free(&hint);
        text_free(&pattern);
    }
    text_free(&full);
    return status;
}

static Status check_names(const Config *config, const YamlNode *node, const char *path)
{
    if (node->kind != YAML_MAP)
        return status_ok();
    Text pattern = {0};
    section_pattern(path, &pattern);
    Names *keys = memory_new(1, sizeof *keys), *inner = memory_new(1, sizeof *inner);
    names_at(config, path, text_string(&pattern), keys, inner);
    Status status = status_ok();
    for (int i = 0; i < node->count && !status_failed(status); i++)
        status = check_name(config, node->items[i], path, keys, inner);
    names_free(keys);
    names_free(inner);
    memory_free(&keys);
    memory_free(&inner);
    text_free(&pattern);
    return status;
}

/* --- All together ------------------------------------------------------------------------------------------------ */

Status section_build(Config *config)
{
    for (int i = 0; i < config->schema->count; i++) {
        const ConfigGroup *group = &config->schema->groups[i];
        TRY(section_expand(config, group, group->path, "", config->root, true));
    }
    for (int i = 0; i < config->sections_count; i++)
        if (!config->sections[i].group->when)
            TRY(section_read_values(config, &config->sections[i]));
    sections_drop(config);
    for (int i = 0; i < config->sections_count; i++)
        if (config->sections[i].group->when)
            TRY(section_read_values(config, &config->sections[i]));
    TRY(check_names(config, config->root, ""));
    /* After the names, so that a misspelt key is told as such and not as a missing one. */
    for (int i = 0; i < config->sections_count; i++) {
        const Section *section = &config->sections[i];
        for (int k = 0; section->in_force && section->group->keys[k].name; k++)
            if (!section->values[k].present && section->group->keys[k].type != CONFIG_REFUSED)
                return missing_key(config, section, &section->group->keys[k]);
    }
    return status_ok();
}

void section_free_all(Config *config)
{
    for (int i = 0; i < config->sections_count; i++)
        section_free(&config->sections[i]);
    memory_free(&config->sections);
    config->sections_count = config->sections_capacity = 0;
}
