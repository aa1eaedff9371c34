/* config.c -- opening an experiment, and reading it: see config.h. */
#include "core/config/config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/config/section.h"

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return memory_strdup(".");
    char *directory = memory_strdup(path);
    directory[slash == path ? 1 : slash - path] = 0;
    return directory;
}

static Status parse_source(Config *config, ConfigSource source)
{
    if (!source.path && !source.text) {
        config->root = yaml_node_new(YAML_MAP, config->name, 0, 0);
        return status_ok();
    }
    if (source.text)
        return yaml_parse_text(source.text, source.text_size, config->name, true, &config->root);
    Text text = {0};
    Status status = text_read_file(source.path, YAML_SIZE_MAX_BYTES, &text);
    if (!status_failed(status))
        status = yaml_parse_text(text_string(&text), text.size, config->name, true, &config->root);
    text_free(&text);
    return status;
}

static void copy_variables(Config *config, ConfigSource source)
{
    config->variables_count = source.variables_count;
    config->variables = memory_new((size_t)source.variables_count, sizeof *config->variables);
    for (int i = 0; i < source.variables_count; i++) {
        const ConfigVariable variable = source.variables[i];
        config->variables[i] =
            (ConfigVariable){memory_strdup(variable.name), variable.value ? memory_strdup(variable.value) : NULL};
    }
}

Status config_open(ConfigSource source, const ConfigSchema *schema, Config **out)
{
    Config *config = memory_new(1, sizeof *config);
    *out = NULL;
    config->schema = schema;
    config->name = memory_strdup(source.path ? source.path : "configuration");
    config->directory = source.path ? directory_of(source.path) : memory_strdup(".");
    copy_variables(config, source);
    Status status = parse_source(config, source);
    for (int i = 0; i < source.overrides_count && !status_failed(status); i++)
        status = override_apply(config, source.overrides[i]);
    if (!status_failed(status))
        status = section_build(config);
    if (status_failed(status))
        config_close(&config);
    *out = config;
    return status;
}

void config_close(Config **config)
{
    if (!*config)
        return;
    section_free_all(*config);
    yaml_node_free(&(*config)->root);
    for (int i = 0; i < (*config)->sources_count; i++)
        memory_free(&(*config)->sources[i]);
    memory_free(&(*config)->sources);
    for (int i = 0; i < (*config)->variables_count; i++) {
        memory_release((void *)(*config)->variables[i].name);
        memory_release((void *)(*config)->variables[i].value);
    }
    memory_free(&(*config)->variables);
    memory_free(&(*config)->name);
    memory_free(&(*config)->directory);
    memory_free(config);
}

YamlNode *section_node(YamlNode *root, const char *path)
{
    YamlNode *at = root;
    while (at && *path) {
        const size_t length = strcspn(path, ".[");
        if (length > 0) {
            Text name = {0};
            text_append(&name, path, length);
            at = yaml_node_child(at, text_string(&name));
            text_free(&name);
            path += length;
        } else if (*path == '.') {
            path++;
        } else {
            char *end;
            const long index = strtol(path + 1, &end, 10);
            at = at->kind == YAML_LIST && index >= 0 && index < at->count && *end == ']' ? at->items[index] : NULL;
            path = *end == ']' ? end + 1 : "";
        }
    }
    return at;
}

bool config_has(const Config *config, const char *path)
{
    return section_node(config->root, path) != NULL;
}

bool config_has_key(const Config *config, const char *key)
{
    return section_node(config->root, key) != NULL;
}

int config_count(const Config *config, const char *path)
{
    const YamlNode *node = section_node(config->root, path);
    return node && node->kind == YAML_LIST ? node->count : 0;
}

void config_read(const Config *config, const char *path, const ConfigKey *keys, void *out)
{
    for (int i = 0; i < config->sections_count; i++) {
        const Section *section = &config->sections[i];
        if (section->group->keys != keys || strcmp(section->path, path) != 0)
            continue;
        for (int k = 0; keys[k].name; k++)
            value_store(&keys[k], &section->values[k], out);
        return;
    }
    REQUIRE(false, "config_read: no group with these rows is in force at '%s'", path);
}

Status config_error(const Config *config, const char *key, const char *format, ...)
{
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    Text place = {0};
    const YamlNode *node = section_node(config->root, key);
    if (node)
        yaml_node_place(node, false, &place);
    else
        text_append_string(&place, config->name);
    Status status = status_error(STATUS_USAGE, "%s: %s: %s", text_string(&place), key, message);
    text_free(&place);
    return status;
}
