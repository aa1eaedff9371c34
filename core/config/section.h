/* section.h -- groups of rows laid over the YAML tree: one Section per group and per item of a list. Internal.
 *
 * Words: a pattern is a group's path as its row has it ("ppo.rewards[]"); a path is one place ("ppo.rewards[0]"). */
#ifndef CORE_CONFIG_SECTION_H
#define CORE_CONFIG_SECTION_H

#include "core/config/config.h"
#include "core/config/value.h"
#include "core/config/yaml.h"

typedef struct Section {
    char *path;
    const ConfigGroup *group;
    const YamlNode *node; /* MAP or NULL-kind where it is written, else NULL */
    bool in_force;        /* its keys must be complete, and are dumped and digested */
    ConfigValue *values;  /* one per key of the group */
} Section;

struct Config {
    const ConfigSchema *schema;
    char *name;      /* the file's name, for messages */
    char *directory; /* what ${config_dir} means */
    ConfigVariable *variables;
    int variables_count;
    char **sources; /* texts that nodes borrow as their source */
    int sources_count, sources_capacity;
    YamlNode *root;
    Section *sections;
    int sections_count, sections_capacity;
};

/* Lay the schema over config->root: sections, unknown keys, values, variables. */
Status section_build(Config *config);
void section_free_all(Config *config);
/* Append the `parts` first components of the pattern or path; -1: all, with "[3]" written as "[]". */
void section_pattern(const char *path, Text *text);
/* Is `inner` equal to `outer`, or inside it ("ppo" holds "ppo.x" and "ppo[0]")? */
bool section_path_inside(const char *inner, const char *outer);
/* The node at a path such as "ppo.rewards[0].weight", or NULL. */
YamlNode *section_node(YamlNode *root, const char *path);
int section_key_count(const ConfigKey *keys);
/* "ppo" and "lr": "ppo.lr"; "" and "seed": "seed". Appends. */
void section_join(const char *path, const char *name, Text *text);
/* Does the group hold this `name` at this pattern? The key or NULL. */
const ConfigKey *section_find_key(const ConfigGroup *group, const char *name);

/* Apply one "key=value" to config->root. */
Status override_apply(Config *config, const char *override);

#endif
