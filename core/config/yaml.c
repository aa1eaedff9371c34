/* yaml.c -- libyaml's events into YamlNode trees, with limits on size, depth and count. */
#include "core/config/yaml.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "core/base/memory.h"

typedef struct Reader {
    yaml_parser_t parser;
    const char *bytes, *source;
    size_t size;
    int nodes;
} Reader;

YamlNode *yaml_node_new(YamlKind kind, const char *source, int line, int column)
{
    YamlNode *node = memory_new(1, sizeof *node);
    node->kind = kind;
    node->source = source;
    node->line = line;
    node->column = column;
    return node;
}

void yaml_node_free(YamlNode **node)
{
    if (!*node)
        return;
    for (int i = 0; i < (*node)->count; i++)
        yaml_node_free(&(*node)->items[i]);
    memory_free(&(*node)->items);
    memory_free(&(*node)->text);
    memory_free(&(*node)->name);
    memory_free(node);
}

YamlNode *yaml_node_child(const YamlNode *map, const char *name)
{
    if (!map || map->kind != YAML_MAP)
        return NULL;
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->items[i]->name, name) == 0)
            return map->items[i];
    return NULL;
}

void yaml_node_append(YamlNode *node, const char *name, YamlNode *child)
{
    memory_reserve(&node->items, node->count, &node->capacity);
    node->items[node->count++] = child;
    memory_free(&child->name);
    child->name = name ? memory_strdup(name) : NULL;
}

void yaml_node_set(YamlNode *map, const char *name, YamlNode *child)
{
    for (int i = 0; i < map->count; i++) {
        if (strcmp(map->items[i]->name, name) == 0) {
            yaml_node_free(&map->items[i]);
            map->items[i] = child;
            child->name = memory_strdup(name);
            return;
        }
    }
    yaml_node_append(map, name, child);
}

void yaml_node_describe(const YamlNode *node, Text *text)
{
    enum { SHOWN_BYTES = 60 };
    switch (node->kind) {
    case YAML_NULL:
        text_append_string(text, "nothing (null)");
        break;
    case YAML_MAP:
        text_append_string(text, "a section (key: value)");
        break;
    case YAML_LIST:
        text_printf(text, "a list of %d", node->count);
        break;
    case YAML_SCALAR: {
        size_t shown = strlen(node->text);
        if (shown > SHOWN_BYTES) {
            shown = SHOWN_BYTES;
            while (shown > 0 && ((unsigned char)node->text[shown] & 0xC0) == 0x80)
                shown--;
        }
        char *start = memory_new(shown + 1, 1);
        memcpy(start, node->text, shown);
        if (node->quoted)
            text_append_string(text, "the text ");
        yaml_quote(start, text);
        if (node->text[shown])
            text_append_string(text, "...");
        memory_free(&start);
        break;
    }
    }
}

void yaml_node_place(const YamlNode *node, bool at_name, Text *text)
{
    int line = at_name && node->name_line ? node->name_line : node->line;
    int column = at_name && node->name_line ? node->name_column : node->column;
    text_append_string(text, node->source);
    if (line > 0)
        text_printf(text, ":%d:%d", line, column);
}

void yaml_quote(const char *string, Text *text)
{
    text_append(text, "\"", 1);
    size_t left = strlen(string);
    for (const unsigned char *at = (const unsigned char *)string; left > 0;) {
        size_t length = text_utf8_length((const char *)at, left);
        uint32_t point = at[0];
        if (length == 2)
            point = (uint32_t)(at[0] & 0x1F) << 6 | (at[1] & 0x3F);
        else if (length == 3)
            point = (uint32_t)(at[0] & 0x0F) << 12 | (uint32_t)(at[1] & 0x3F) << 6 | (at[2] & 0x3F);
        if (length == 0)
            length = 1;
        if (point == '"' || point == '\\')
            text_printf(text, "\\%c", (int)point);
        else if (point == '\n')
            text_append_string(text, "\\n");
        else if (point == '\t')
            text_append_string(text, "\\t");
        else if (length <= 2 && (point < 0x20 || (point >= 0x7F && point < 0xA0)))
            text_printf(text, "\\x%02X", (unsigned)point);
        else if (length == 3 && (point == 0x2028 || point == 0x2029 || point >= 0xFEFF))
            text_printf(text, "\\u%04X", (unsigned)point);
        else
            text_append(text, at, length);
        at += length;
        left -= length;
    }
    text_append(text, "\"", 1);
}

static Status mark_error(const Reader *reader, yaml_mark_t mark, const char *problem)
{
    return status_error(STATUS_USAGE, "%s:%zu:%zu: %s", reader->source, mark.line + 1, mark.column + 1, problem);
}

/* Is there a tab in the white space that line `line` (from 0) begins with? */
static bool line_is_indented_by_tab(const Reader *reader, size_t line)
{
    const char *at = reader->bytes, *end = reader->bytes + reader->size;
    while (line > 0 && at < end)
        if (*at++ == '\n')
            line--;
    while (at < end && (*at == ' ' || *at == '\t'))
        if (*at++ == '\t')
            return true;
    return false;
}

static Status parser_error(const Reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    const char *problem = parser->problem ? parser->problem : "not YAML";
    if (parser->error == YAML_MEMORY_ERROR)
        return status_error(STATUS_MEMORY, "%s: no memory for reading YAML", reader->source);
    if (parser->error == YAML_READER_ERROR)
        return status_error(STATUS_USAGE, "%s: byte %zu: %s", reader->source, parser->problem_offset, problem);
    if (line_is_indented_by_tab(reader, parser->problem_mark.line))
        return mark_error(reader, parser->problem_mark, "indented by a tab; YAML indents by spaces");
    if (!parser->context)
        return mark_error(reader, parser->problem_mark, problem);
    return status_error(STATUS_USAGE, "%s:%zu:%zu: %s (%s at line %zu)", reader->source, parser->problem_mark.line + 1,
                        parser->problem_mark.column + 1, problem, parser->context, parser->context_mark.line + 1);
}

static Status next_event(Reader *reader, yaml_event_t *event)
{
    if (!yaml_parser_parse(&reader->parser, event))
        return parser_error(reader);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        anchor = event->data.alias.anchor;
        break;
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        break;
    default:
        break;
    }
    Status status = status_ok();
    if (anchor)
        status = mark_error(reader, event->start_mark,
                            "anchors (&) and aliases (*) are not taken: write the value out, "
                            "or put it in quotes if it is text");
    else if (tag)
        status = mark_error(reader, event->start_mark, "tags (!) are not taken: the key's row says its type");
    if (status_failed(status))
        yaml_event_delete(event);
    return status;
}

static bool scalar_is_null(const char *text)
{
    return !*text || !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") || !strcmp(text, "NULL");
}

static Status scalar_node(Reader *reader, const yaml_event_t *event, YamlNode *node)
{
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length)
        return mark_error(reader, event->start_mark, "text with a zero byte inside");
    node->text = memory_strdup(text);
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->kind = !node->quoted && scalar_is_null(text) ? YAML_NULL : YAML_SCALAR;
    return status_ok();
}

static Status read_node(Reader *reader, const yaml_event_t *event, int depth, YamlNode **out);

/* `event` is the key's; reads the value too and appends it to `map`. */
static Status read_entry(Reader *reader, const yaml_event_t *event, int depth, YamlNode *map)
{
    if (event->type != YAML_SCALAR_EVENT)
        return mark_error(reader, event->start_mark, "a key must be a plain name");
    const char *name = (const char *)event->data.scalar.value;
    if (strlen(name) != event->data.scalar.length)
        return mark_error(reader, event->start_mark, "a key with a zero byte inside");
    const YamlNode *earlier = yaml_node_child(map, name);
    if (earlier)
        return status_error(STATUS_USAGE, "%s:%zu:%zu: key '%s' is here twice; the first is on line %d", reader->source,
                            event->start_mark.line + 1, event->start_mark.column + 1, name, earlier->name_line);
    yaml_event_t value;
    TRY(next_event(reader, &value));
    YamlNode *child = NULL;
    Status status = read_node(reader, &value, depth, &child);
    yaml_event_delete(&value);
    TRY(status);
    child->name_line = (int)event->start_mark.line + 1;
    child->name_column = (int)event->start_mark.column + 1;
    yaml_node_append(map, name, child);
    return status_ok();
}

static Status read_items(Reader *reader, int depth, YamlNode *node)
{
    const yaml_event_type_t last = node->kind == YAML_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        if (event.type == last) {
            yaml_event_delete(&event);
            return status_ok();
        }
        YamlNode *child = NULL;
        Status status;
        if (node->kind == YAML_MAP)
            status = read_entry(reader, &event, depth + 1, node);
        else
            status = read_node(reader, &event, depth + 1, &child);
        yaml_event_delete(&event);
        TRY(status);
        if (child)
            yaml_node_append(node, NULL, child);
    }
}

static Status read_node(Reader *reader, const yaml_event_t *event, int depth, YamlNode **out)
{
    if (depth > YAML_DEPTH_MAX)
        return mark_error(reader, event->start_mark, "nested too deeply (more than 16 levels)");
    if (++reader->nodes > YAML_NODES_MAX)
        return mark_error(reader, event->start_mark, "too many values (more than 20000)");
    YamlNode *node =
        yaml_node_new(YAML_NULL, reader->source, (int)event->start_mark.line + 1, (int)event->start_mark.column + 1);
    Status status;
    if (event->type == YAML_SCALAR_EVENT) {
        status = scalar_node(reader, event, node);
    } else if (event->type == YAML_MAPPING_START_EVENT || event->type == YAML_SEQUENCE_START_EVENT) {
        node->kind = event->type == YAML_MAPPING_START_EVENT ? YAML_MAP : YAML_LIST;
        status = read_items(reader, depth, node);
    } else {
        status = mark_error(reader, event->start_mark, "expected a value");
    }
    if (status_failed(status))
        yaml_node_free(&node);
    *out = node;
    return status;
}

/* The events around and including one document. */
static Status read_stream(Reader *reader, YamlNode **root)
{
    for (bool seen = false;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        const yaml_event_type_t type = event.type;
        Status status = status_ok();
        if (type == YAML_DOCUMENT_START_EVENT) {
            if (seen)
                status = mark_error(reader, event.start_mark, "a second document (---); expected one");
            seen = true;
        } else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_END_EVENT &&
                   type != YAML_STREAM_END_EVENT) {
            status = read_node(reader, &event, 1, root);
        }
        yaml_event_delete(&event);
        TRY(status);
        if (type == YAML_STREAM_END_EVENT)
            return status_ok();
    }
}

static Status check_root(const char *source, YamlNode **root)
{
    if ((*root)->kind == YAML_NULL) {
        (*root)->kind = YAML_MAP;
        memory_free(&(*root)->text);
    }
    if ((*root)->kind == YAML_MAP)
        return status_ok();
    Text found = {0};
    yaml_node_describe(*root, &found);
    Status status = status_error(STATUS_USAGE, "%s:%d:%d: expected sections and keys (key: value), found %s", source,
                                 (*root)->line, (*root)->column, text_string(&found));
    text_free(&found);
    return status;
}

Status yaml_parse_text(const char *bytes, size_t size, const char *source, bool root_map, YamlNode **root)
{
    *root = NULL;
    if (size > YAML_SIZE_MAX_BYTES)
        return status_error(STATUS_USAGE, "%s: %zu bytes; an experiment has at most %d", source, size,
                            YAML_SIZE_MAX_BYTES);
    Reader reader = {.bytes = bytes, .size = size, .source = source};
    if (!yaml_parser_initialize(&reader.parser))
        return status_error(STATUS_MEMORY, "%s: no memory for reading YAML", source);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)bytes, size);
    Status status = read_stream(&reader, root);
    yaml_parser_delete(&reader.parser);
    if (!status_failed(status) && !*root)
        *root = yaml_node_new(YAML_NULL, source, 1, 1);
    if (!status_failed(status) && root_map)
        status = check_root(source, root);
    if (status_failed(status))
        yaml_node_free(root);
    return status;
}

static void clear_positions(YamlNode *node)
{
    node->line = node->column = node->name_line = node->name_column = 0;
    for (int i = 0; i < node->count; i++)
        clear_positions(node->items[i]);
}

static bool text_is_utf8(const char *string)
{
    for (size_t left = strlen(string); left > 0;) {
        size_t length = text_utf8_length(string, left);
        if (length == 0)
            return false;
        string += length;
        left -= length;
    }
    return true;
}

Status yaml_parse_value(const char *string, const char *source, bool literal, YamlNode **node)
{
    const bool quoted = string[0] == '"' || string[0] == '\'';
    if (!literal || quoted || strcmp(string, "null") == 0) {
        TRY(yaml_parse_text(string, strlen(string), source, false, node));
        clear_positions(*node);
        return status_ok();
    }
    *node = NULL;
    if (!text_is_utf8(string))
        return status_error(STATUS_USAGE, "%s: the value is not UTF-8", source);
    *node = yaml_node_new(YAML_SCALAR, source, 0, 0);
    (*node)->text = memory_strdup(string);
    (*node)->quoted = true;
    return status_ok();
}
