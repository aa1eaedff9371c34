/* decode.c -- the end of a decode step: what was drawn becomes the next input. */
#include <string.h>

#include "kernels/cpu/isa.h"

static bool is_stop(const DecodeNextArgs *args, int32_t token)
{
    for (int64_t i = 0; i < args->stops; i++)
        if (args->stop[i] == token)
            return true;
    return token < 0;
}

void KERNEL(decode_next)(Device *device, const DecodeNextArgs *args)
{
    (void)device;
    REQUIRE(*args->step >= 0 && *args->step < args->steps_max, "step %d of a history of %lld", *args->step,
            (long long)args->steps_max);
    int32_t *history = args->history + *args->step * 2 * args->rows;
    for (int64_t i = 0; i < args->rows; i++) {
        bool running = args->left[i] > 0;
        history[i] = running ? args->token[i] : -2;
        memcpy(history + args->rows + i, args->logprob + i, sizeof(float));
        if (!running)
            continue;
        args->past[i]++;
        args->index[i]++;
        args->left[i]--;
        if (is_stop(args, args->token[i]))
            args->left[i] = 0;
        if (args->token[i] >= 0)
            args->next[i] = args->token[i];
    }
    ++*args->step;
}
