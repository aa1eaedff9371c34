/* options.c -- words of a command line to typed values. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "launch/verbs.h"

static Status option_number(const Option *option, const char *text)
{
    char *end = NULL;
    errno = 0;
    if (option->type == OPTION_INT) {
        long long value = strtoll(text, &end, 10);
        if (errno || end == text || *end)
            return status_error(STATUS_USAGE, "%s: expected a whole number, found '%s'", option->name, text);
        *(int64_t *)option->value = value;
    } else {
        double value = strtod(text, &end);
        if (errno || end == text || *end || !isfinite(value))
            return status_error(STATUS_USAGE, "%s: expected a number, found '%s'", option->name, text);
        *(double *)option->value = value;
    }
    return status_ok();
}

static Status option_set(const Option *option, const char *text)
{
    switch (option->type) {
    case OPTION_STRING:
        *(const char **)option->value = text;
        return status_ok();
    case OPTION_STRINGS: {
        OptionStrings *list = option->value;
        if (list->count == OPTION_STRINGS_MAX)
            return status_error(STATUS_USAGE, "%s: given more than %d times", option->name, OPTION_STRINGS_MAX);
        list->items[list->count++] = text;
        return status_ok();
    }
    default:
        return option_number(option, text);
    }
}

static const Option *option_find(const Option *options, const char *word, size_t size)
{
    for (; options->name; options++)
        if (strlen(options->name) == size && memcmp(options->name, word, size) == 0)
            return options;
    return NULL;
}

static Status option_unknown(const char *verb, const Option *options, const char *word)
{
    const char *names[64];
    size_t count = 0;
    for (; options->name && count < 64; options++)
        names[count++] = options->name;
    const char *near = text_nearest(word, names, count);
    return status_error(STATUS_USAGE, "%s: no option %s%s%s; see tercet help %s", verb, word,
                        near ? "; did you mean " : "", near ? near : "", verb);
}

Status options_parse(int argc, char **argv, const Option *options, const char **words, int words_max, int *words_count)
{
    *words_count = 0;
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
            continue;
        }
        if (only_words || strncmp(word, "--", 2) != 0) {
            if (*words_count == words_max)
                return status_error(STATUS_USAGE, "%s: unexpected '%s'; see tercet help %s", argv[0], word, argv[0]);
            words[(*words_count)++] = word;
            continue;
        }
        const char *equals = strchr(word, '=');
        size_t size = equals ? (size_t)(equals - word) : strlen(word);
        const Option *option = option_find(options, word, size);
        if (!option)
            return option_unknown(argv[0], options, word);
        if (option->type == OPTION_FLAG) {
            if (equals)
                return status_error(STATUS_USAGE, "%s takes no value", option->name);
            *(bool *)option->value = true;
            continue;
        }
        if (!equals && i + 1 == argc)
            return status_error(STATUS_USAGE, "%s: a value must follow %s", argv[0], option->name);
        TRY(option_set(option, equals ? equals + 1 : argv[++i]));
    }
    return status_ok();
}
