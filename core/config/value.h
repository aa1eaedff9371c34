/* value.h -- one value of one row: from a YAML node to C, and back to text. Internal to core/config. */
#ifndef CORE_CONFIG_VALUE_H
#define CORE_CONFIG_VALUE_H

#include "core/config/config.h"
#include "core/config/yaml.h"

/* A scalar is a list of one. Which arrays are there follows from the row's type. */
typedef struct ConfigValue {
    bool present; /* false: a key that must be written, in a section that is left out */
    bool is_null, is_auto;
    int count;
    int64_t *integers; /* BOOL, INT, CHOICE, INT_LIST */
    double *numbers;   /* FLOAT, FLOAT_LIST */
    char **strings;    /* STRING, PATH and their lists; as they were written */
    char **expanded;   /* PATH, PATH_LIST: variables replaced; NULL until value_set_expanded */
} ConfigValue;

/* Check `node` against the row. The message of a failure is "expected ..., found ..."; the caller says where. */
Status value_parse(const ConfigKey *key, const YamlNode *node, ConfigValue *value);
void value_free(ConfigValue *value);
/* Store into the owner's struct. */
void value_store(const ConfigKey *key, const ConfigValue *value, void *out);
/* Append the one spelling of the value. `expanded`: paths with variables replaced. */
void value_format(const ConfigKey *key, const ConfigValue *value, bool expanded, Text *text);
/* Append "a whole number from 1 to 8, or auto". */
void value_describe_type(const ConfigKey *key, Text *text);
/* Word `index` of "a|b|c" into `text`; false past the end. */
bool value_choice_word(const char *choices, int index, Text *text);
bool value_type_is_list(ConfigType type);
bool value_type_is_text(ConfigType type);
bool value_type_is_path(ConfigType type);

#endif
