/* verb_inspect.c -- what files and keys say of themselves: `tercet inspect` and `tercet explain`. */
#include <stdio.h>
#include <string.h>

#include "core/base/text.h"
#include "core/h5/h5.h"
#include "launch/verbs.h"
#include "stages/stage.h"

static const char *attribute_text(const H5Attribute *attribute, char buffer[64])
{
    switch (attribute->type) {
    case H5_INT:
        snprintf(buffer, 64, "%lld", (long long)attribute->integer);
        return buffer;
    case H5_REAL:
        snprintf(buffer, 64, "%.9g", attribute->real);
        return buffer;
    case H5_STRING:
        return attribute->string;
    }
    return "";
}

static bool is_long(const H5Attribute *attribute)
{
    return attribute->type == H5_STRING && (strlen(attribute->string) > 100 || strchr(attribute->string, '\n'));
}

static void print_attributes(const H5File *file)
{
    const H5Attribute *list;
    int count = h5_attributes(file, &list);
    char buffer[64];
    for (int i = 0; i < count; i++) {
        const char *slash = strcmp(list[i].object, "/") == 0 ? "" : "/";
        if (is_long(&list[i]))
            printf("  %s%s@%s  (%zu bytes of text)\n", list[i].object, slash, list[i].name, strlen(list[i].string));
        else
            printf("  %s%s@%s  %s\n", list[i].object, slash, list[i].name, attribute_text(&list[i], buffer));
    }
}

static void print_datasets(const H5File *file)
{
    const H5Dataset *list;
    int count = h5_datasets(file, &list);
    for (int i = 0; i < count; i++) {
        char shape[96] = "";
        for (int d = 0, at = 0; d < list[i].ndim; d++)
            at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%lld", d ? "x" : "", (long long)list[i].shape[d]);
        printf("  %-48s %s %-16s %10s\n", list[i].path, dtype_name(list[i].dtype), shape,
               text_bytes((double)list[i].bytes));
    }
}

static Status inspect(H5File *file)
{
    H5Digest all, parameters;
    char hex[H5_DIGEST_TEXT];
    TRY(h5_verify(file, 0, 1));
    printf("%s\n", h5_path(file));
    print_attributes(file);
    print_datasets(file);
    TRY(h5_digest_semantic(file, &all));
    TRY(h5_digest_parameters(file, &parameters));
    printf("  digest             %s\n", h5_digest_text(all, hex));
    printf("  digest=parameters  %s\n", h5_digest_text(parameters, hex));
    const H5Attribute *config = h5_attribute(file, "/", "config");
    if (config && config->type == H5_STRING)
        printf("  configuration:\n%s", config->string);
    return status_ok();
}

static Status print_digest(H5File *file, bool parameters)
{
    H5Digest digest;
    char hex[H5_DIGEST_TEXT];
    TRY(h5_verify(file, 0, 1));
    TRY(parameters ? h5_digest_parameters(file, &digest) : h5_digest_semantic(file, &digest));
    printf("%s\n", h5_digest_text(digest, hex));
    return status_ok();
}

Status verb_inspect(Launch *launch, int argc, char **argv)
{
    (void)launch;
    const char *path = NULL;
    int digest = 0; /* 1: of everything, 2: of parameters */
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--digest") == 0)
            digest = 1;
        else if (strcmp(argv[i], "--digest=parameters") == 0)
            digest = 2;
        else if (strncmp(argv[i], "--", 2) == 0 || path)
            return status_error(STATUS_USAGE, "inspect: unexpected '%s'; see tercet help inspect", argv[i]);
        else
            path = argv[i];
    }
    if (!path)
        return status_error(STATUS_USAGE, "inspect needs a file: tercet inspect FILE.h5 [--digest[=parameters]]");
    H5File *file = NULL;
    TRY(h5_open(path, NULL, &file));
    Status status = digest ? print_digest(file, digest == 2) : inspect(file);
    h5_close(&file);
    return status;
}

Status verb_explain(Launch *launch, int argc, char **argv)
{
    if (argc > 2)
        return status_error(STATUS_USAGE, "explain takes one key or section: tercet explain ppo.kl_coefficient");
    stages_schema(&launch->schema);
    Text text = {0};
    Status status = config_explain(&launch->schema, argc > 1 ? argv[1] : "", &text);
    if (!status_failed(status))
        fputs(text_string(&text), stdout);
    text_free(&text);
    return status;
}
