/* config.h -- the experiment's YAML as typed values, checked against rows: one row per key.
 *
 * Why:   a key's name, type, default, range, choices and the reason for its default stand in one row, in the room that
 *        uses the key. The reader, the checks, the digest, the copy stored in artifacts and `tercet explain` are all
 * made from the rows, so none of them can say something else. launch/main gathers the rows of all rooms. How:
 * config_open reads YAML (a plain subset: no anchors, no tags, one document), puts `key=value` overrides on top, and
 * checks everything at once: afterwards reading a value cannot fail. Errors are STATUS_USAGE and name file:line:column,
 * the key, what was expected, what was found, and the nearest key when a name is unknown. Rows:  a room writes a
 * struct, and a list of rows that ends with {0}:
 *
 *            typedef struct SftConfig { int64_t epochs; double lr; ScheduleKind schedule; const char *model; }
 * SftConfig; const ConfigKey sft_keys[] = { CONFIG_KEY_INT(SftConfig, epochs, "3", 1, 1000, "three passes: later ones
 * fit noise"), CONFIG_KEY_FLOAT(SftConfig, lr, "1e-4", 0, 1, "..."), CONFIG_KEY_CHOICE(SftConfig, schedule, "cosine",
 * "constant|linear|cosine", "..."), CONFIG_KEY_PATH(SftConfig, model, NULL, "HDF5 file or Hugging Face directory"),
 * NULL: must be written {0}}; const ConfigGroup sft_groups[] = {
 *                {.path = "sft", .keys = sft_keys, .optional = true, .help = "supervised fine-tuning"},
 *                {.path = "sft.data[]", .keys = data_keys, .help = "training files"}, {0}};
 *
 *        and reads:  config_read(config, "sft", sft_keys, &sft);
 *                    for (i < config_count(config, "sft.data")) config_read(config, "sft.data[0]", data_keys, &data);
 *        Several groups may share a path (their keys lie side by side), and one list of rows may serve several paths.
 * Paths: a PATH value may use ${config_dir} (the YAML's directory), ${output} or another root key of type PATH, and the
 *        variables that the caller passes in; any other variable is an error. Relative paths are relative to the
 * working directory. This room never reads the environment. */
#ifndef CORE_CONFIG_CONFIG_H
#define CORE_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/text.h"

typedef enum ConfigType {
    CONFIG_BOOL,        /* bool: true, false */
    CONFIG_INT,         /* int64_t, written out (1000000, not 1e6) */
    CONFIG_FLOAT,       /* double, finite */
    CONFIG_STRING,      /* const char * */
    CONFIG_PATH,        /* const char *, variables replaced */
    CONFIG_CHOICE,      /* an enum or int: the index of the word in `choices` */
    CONFIG_INT_LIST,    /* ConfigIntList; min and max hold for each item */
    CONFIG_FLOAT_LIST,  /* ConfigFloatList; likewise */
    CONFIG_STRING_LIST, /* ConfigStringList */
    CONFIG_PATH_LIST,   /* ConfigStringList, variables replaced */
    CONFIG_REFUSED,     /* no value: writing this key is an error whose message is `help` (why it cannot exist here) */
} ConfigType;

/* Lists live as long as the Config. One value alone is read as a list of one. */
typedef struct ConfigIntList {
    const int64_t *items;
    int count;
} ConfigIntList;
typedef struct ConfigFloatList {
    const double *items;
    int count;
} ConfigFloatList;
typedef struct ConfigStringList {
    const char *const *items;
    int count;
} ConfigStringList;

enum { CONFIG_AUTO = -1 }; /* what `auto` reads as, for INT and FLOAT rows that permit it */

typedef struct ConfigKey {
    const char *name;
    ConfigType type;
    size_t offset;            /* of the field in the owner's struct */
    const char *default_text; /* as it would be written in YAML. NULL: the key must be written. "null": strings, paths
                               * and lists may be null, which reads as NULL or an empty list */
    double min, max;          /* inclusive; min == max: no bound */
    const char *choices;      /* "word|word|word" */
    bool automatic;           /* `auto` is permitted and reads as CONFIG_AUTO, outside min and max */
    bool operational;         /* true: changes no result (ranks, logging, places of files), so it enters no digest.
                               * false: semantic. A file's place is operational; its contents' digest is what counts */
    const char *help;         /* what it does, and why this default */
} ConfigKey;

/* A row by the field's name; the field's C type is checked by the compiler. More row members may follow `help`:
 * CONFIG_KEY_INT(Run, threads, "auto", 1, 4096, "...", .automatic = true, .operational = true). */
#define CONFIG_OFFSET(Struct, field, CType)                                                                            \
    (offsetof(Struct, field) +                                                                                         \
     0 * sizeof(char[__builtin_types_compatible_p(__typeof__(((Struct *)0)->field), CType) ? 1 : -1]))
#define CONFIG_ROW(Struct, field, kind, CType, default_, ...)                                                          \
    {                                                                                                                  \
        .name = #field, .type = kind, .offset = CONFIG_OFFSET(Struct, field, CType), .default_text = default_,         \
        __VA_ARGS__                                                                                                    \
    }
#define CONFIG_KEY_BOOL(Struct, field, default_, help_, ...)                                                           \
    CONFIG_ROW(Struct, field, CONFIG_BOOL, bool, default_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_INT(Struct, field, default_, min_, max_, help_, ...)                                                \
    CONFIG_ROW(Struct, field, CONFIG_INT, int64_t, default_, .min = min_, .max = max_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_FLOAT(Struct, field, default_, min_, max_, help_, ...)                                              \
    CONFIG_ROW(Struct, field, CONFIG_FLOAT, double, default_, .min = min_, .max = max_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_STRING(Struct, field, default_, help_, ...)                                                         \
    CONFIG_ROW(Struct, field, CONFIG_STRING, const char *, default_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_PATH(Struct, field, default_, help_, ...)                                                           \
    CONFIG_ROW(Struct, field, CONFIG_PATH, const char *, default_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_CHOICE(Struct, field, default_, choices_, help_, ...)                                               \
    {                                                                                                                  \
        .name = #field, .type = CONFIG_CHOICE,                                                                         \
        .offset = offsetof(Struct, field) + 0 * sizeof(char[sizeof(((Struct *)0)->field) == sizeof(int) ? 1 : -1]),    \
        .default_text = default_, .choices = choices_, .help = help_, ##__VA_ARGS__                                    \
    }
#define CONFIG_KEY_INT_LIST(Struct, field, default_, min_, max_, help_, ...)                                           \
    CONFIG_ROW(Struct, field, CONFIG_INT_LIST, ConfigIntList, default_, .min = min_, .max = max_, .help = help_,       \
               ##__VA_ARGS__)
#define CONFIG_KEY_FLOAT_LIST(Struct, field, default_, min_, max_, help_, ...)                                         \
    CONFIG_ROW(Struct, field, CONFIG_FLOAT_LIST, ConfigFloatList, default_, .min = min_, .max = max_, .help = help_,   \
               ##__VA_ARGS__)
#define CONFIG_KEY_STRING_LIST(Struct, field, default_, help_, ...)                                                    \
    CONFIG_ROW(Struct, field, CONFIG_STRING_LIST, ConfigStringList, default_, .help = help_, ##__VA_ARGS__)
#define CONFIG_KEY_PATH_LIST(Struct, field, default_, help_, ...)                                                      \
    CONFIG_ROW(Struct, field, CONFIG_PATH_LIST, ConfigStringList, default_, .help = help_, ##__VA_ARGS__)
/* A key that people will try, and why it is not one. */
#define CONFIG_KEY_REFUSED(name_, why_)                                                                                \
    {                                                                                                                  \
        .name = name_, .type = CONFIG_REFUSED, .help = why_                                                            \
    }

typedef struct ConfigGroup {
    const char *path;      /* "" the root; "ppo"; "ppo.actor"; "ppo.rewards[]" each item of a list of sections */
    const ConfigKey *keys; /* ends with a row whose name is NULL */
    const char *when;      /* "kind=length": these keys exist only where the key `kind`, of another group of this path
                    * without      a `when`, has that value. So a reward of each kind has keys of its own. NULL: always */
    bool optional; /* the section may be left out, and then its keys need not be written; config_has tells. Without
                    * it the section's keys are in force (by their defaults) wherever its parent section is */
    const char *help;
} ConfigGroup;

/* All rows of the program. {0} is empty. */
typedef struct ConfigSchema {
    ConfigGroup *groups;
    int count, capacity;
} ConfigSchema;

/* Append groups up to one whose `path` is NULL. Checks the rows themselves (a default out of its own range, a name
 * twice at one path): a programmer's error. */
void config_schema_add(ConfigSchema *schema, const ConfigGroup *groups);
void config_schema_free(ConfigSchema *schema);

typedef struct ConfigVariable {
    const char *name, *value; /* value NULL: known but unset, so using it is an error that says so */
} ConfigVariable;

typedef struct ConfigSource {
    const char *path;             /* the YAML file; NULL: no file, defaults and overrides only */
    const char *text;             /* when not NULL, parsed in place of the file's contents; path names it in errors */
    size_t text_size;             /* bytes */
    const char *const *overrides; /* "ppo.lr=1e-5", "ppo.rewards[0].weight=0.5", "sft.data=[{path: a.jsonl}]" */
    int overrides_count;
    const ConfigVariable *variables;
    int variables_count;
} ConfigSource;

typedef struct Config Config;

/* Read and check everything. `schema` is borrowed until config_close. STATUS_IO: the file cannot be read; STATUS_USAGE:
 * anything wrong in it or in an override. *config is NULL after a failure. [local] */
Status config_open(ConfigSource source, const ConfigSchema *schema, Config **config);
void config_close(Config **config);

/* Is this section written (or named by an override), even if empty? "rm", "ppo.rewards[1]". */
bool config_has(const Config *config, const char *path);
/* Is this key written, rather than left to its default? "ppo.lr". */
bool config_has_key(const Config *config, const char *key);
/* Items in a list of sections: config_count(config, "ppo.rewards"). 0 when it is not written. */
int config_count(const Config *config, const char *path);
/* Fill the fields of `keys` in the struct at `out`: other fields stay. Strings and lists belong to `config`. `path` and
 * `keys` must be a group of the schema, an item must exist, and a group with a `when` must be in force: programmer's
 * errors. A section left out gives the defaults, and NULL or 0 for keys that must be written. */
void config_read(const Config *config, const char *path, const ConfigKey *keys, void *out);

/* A STATUS_USAGE failure about a key that rows cannot express ("must be below max_length"), with its file:line:column
 * when it is written. */
Status config_error(const Config *config, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Append `key=value` lines, sorted by key, values in one spelling, path variables not replaced: equal meaning, equal
 * bytes, whatever the order, comments and formatting of the YAML. `path`: "" the root's own keys, "ppo" that section
 * and those inside it, "*" everything. Sections left out do not appear. */
void config_canonical(const Config *config, const char *path, bool semantic_only, Text *text);
/* Append YAML with every key in effect, variables replaced: reading it again gives the same values. */
void config_dump_yaml(const Config *config, Text *text);

/* Append what a person should know about a key ("ppo.kl_coef"), a section ("ppo": its keys, one line each), or all
 * (""). List indices may be written or not. STATUS_USAGE with near names when there is no such key. */
Status config_explain(const ConfigSchema *schema, const char *key, Text *text);

#endif
