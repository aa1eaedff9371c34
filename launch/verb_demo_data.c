/* verb_demo_data.c -- `tercet demo-data DIRECTORY [seed=N]`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "launch/demo_data.h"
#include "launch/verbs.h"

static Status read_seed(const char *word, uint64_t *seed)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(word + strlen("seed="), &end, 10);
    bool digits = word[strlen("seed=")] >= '0' && word[strlen("seed=")] <= '9';
    if (!digits || *end || errno)
        return status_error(STATUS_USAGE, "demo-data: expected seed=N with a whole number from 0, found '%s'", word);
    *seed = value;
    return status_ok();
}

Status verb_demo_data(Launch *launch, int argc, char **argv)
{
    (void)launch;
    const char *words[2], *directory = NULL;
    int count = 0;
    uint64_t seed = 0;
    const Option options[] = {{NULL, OPTION_FLAG, NULL}};
    TRY(options_parse(argc, argv, options, words, 2, &count));
    for (int i = 0; i < count; i++) {
        if (text_starts_with(words[i], "seed="))
            TRY(read_seed(words[i], &seed));
        else if (directory)
            return status_error(STATUS_USAGE, "demo-data: expected one directory, found '%s' and '%s'", directory,
                                words[i]);
        else
            directory = words[i];
    }
    if (!directory)
        return status_error(STATUS_USAGE, "demo-data: expected demo-data DIRECTORY [seed=N]");
    return demo_data_write(directory, seed);
}
