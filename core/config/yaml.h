/* yaml.h -- YAML text as a tree of nodes that remember where they stood. Internal to core/config.
 *
 * Why:   libyaml gives events; checks by rows need a tree with positions for their messages. Only the plain part of
 * YAML is taken: one document, no anchors, aliases or tags, names once per section. So a config cannot expand into
 *        something that is not written in it, and a copy of a key cannot hide another.
 * Rules: scalars keep their text. What a text means is the row's business, so `no` and `1e6` are never guessed at. */
#ifndef CORE_CONFIG_YAML_H
#define CORE_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/status.h"
#include "core/base/text.h"

enum {
    YAML_SIZE_MAX_BYTES = 1 << 20, /* an experiment is some hundred lines; beyond this it is another kind of file */
    YAML_DEPTH_MAX = 16,
    YAML_NODES_MAX = 20000,
};

typedef enum YamlKind { YAML_NULL, YAML_SCALAR, YAML_MAP, YAML_LIST } YamlKind;

typedef struct YamlNode YamlNode;
struct YamlNode {
    YamlKind kind;
    bool quoted;        /* a scalar in quotes or a block scalar: always text, never null or a number */
    char *text;         /* SCALAR: its bytes, without zero bytes inside; NULL: as it was written */
    char *name;         /* the key that this node is the value of, in a MAP; else NULL */
    const char *source; /* file's name or the override, for messages; borrowed */
    int line, column;   /* of the value, from 1; 0: an override, which has no lines */
    int name_line, name_column;
    YamlNode **items; /* MAP, LIST */
    int count, capacity;
};

/* One document of `size` bytes. An empty one is an empty MAP when `root_map`, else NULL. `root_map`: anything else than
 * a MAP at the root is an error. `source` is borrowed by the nodes. STATUS_USAGE with "source:line:column: ...".
 * [local] */
Status yaml_parse_text(const char *bytes, size_t size, const char *source, bool root_map, YamlNode **root);
/* The value of a row's default or an override: YAML, but for `literal` rows (strings and paths) plain text stands for
 * itself unless it begins with a quote or is `null`. Positions are 0. */
Status yaml_parse_value(const char *string, const char *source, bool literal, YamlNode **node);
void yaml_node_free(YamlNode **node);

YamlNode *yaml_node_new(YamlKind kind, const char *source, int line, int column);
/* The value under `name` of a MAP, or NULL. */
YamlNode *yaml_node_child(const YamlNode *map, const char *name);
/* Take `child` as the last item; `name` is copied (NULL in a LIST). */
void yaml_node_append(YamlNode *node, const char *name, YamlNode *child);
/* Replace the value under `name`, or append it. */
void yaml_node_set(YamlNode *map, const char *name, YamlNode *child);
/* "a section", "a list", "nothing (null)", "'abc'": what stands there, for "found ..."; appended to `text`. */
void yaml_node_describe(const YamlNode *node, Text *text);
/* Append "source:line:column", or "source" for an override; `at_name`: the position of the key, not of the value. */
void yaml_node_place(const YamlNode *node, bool at_name, Text *text);
/* Append `string` in double quotes, with escapes that YAML reads back byte for byte. */
void yaml_quote(const char *string, Text *text);

#endif
