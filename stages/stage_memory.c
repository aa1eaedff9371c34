/* stage_memory.c -- the table of a stage's memory: how it is added up, joined and printed. */
#include "stages/stage_memory.h"

#include <stdio.h>
#include <string.h>

int stage_memory_phase(StageMemory *memory, const char *name)
{
    for (int i = 0; i < memory->phases; i++)
        if (strcmp(memory->phase[i].name, name) == 0)
            return i;
    REQUIRE(memory->phases < PROFILE_PHASES_MAX, "too many phases at %s", name);
    memory->phase[memory->phases].name = name;
    memory->phase[memory->phases].bytes = 0;
    return memory->phases++;
}

size_t stage_memory_most(const StageMemory *memory, const char **phase)
{
    const char *name = "";
    size_t most = 0;
    for (int i = 0; i < memory->phases; i++)
        if (memory->phase[i].bytes > most) {
            most = memory->phase[i].bytes;
            name = memory->phase[i].name;
        }
    if (phase)
        *phase = name;
    return memory->models + memory->training + memory->scratch + memory->beside + most;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void stage_memory_join(StageMemory *memory, const StageMemory *other)
{
    memory->models = larger(memory->models, other->models);
    memory->training = larger(memory->training, other->training);
    memory->scratch = larger(memory->scratch, other->scratch);
    memory->beside = larger(memory->beside, other->beside);
    for (int i = 0; i < other->phases; i++) {
        int at = stage_memory_phase(memory, other->phase[i].name);
        memory->phase[at].bytes = larger(memory->phase[at].bytes, other->phase[i].bytes);
    }
}

static void print_row(Text *text, const char *name, size_t bytes)
{
    text_printf(text, "  %-32s %10s %16zu\n", name, text_bytes((double)bytes), bytes);
}

void stage_memory_print(const StageMemory *memory, Text *text)
{
    char name[80];
    const char *hungriest = "";
    size_t most = stage_memory_most(memory, &hungriest);
    print_row(text, "models", memory->models);
    print_row(text, "optimizer moments", memory->training);
    for (int i = 0; i < memory->phases; i++) {
        if (memory->phase[i].bytes == 0)
            continue;
        snprintf(name, sizeof name, "step: %s", memory->phase[i].name);
        print_row(text, name, memory->phase[i].bytes);
    }
    if (memory->scratch > 0)
        print_row(text, "scratch inside ops", memory->scratch);
    if (memory->beside > 0)
        print_row(text, "CUDA and its libraries, about", memory->beside);
    snprintf(name, sizeof name, "most at once, in %s", hungriest);
    print_row(text, name, most);
    if (memory->ranks > 1 && memory->beside == 0) {
        snprintf(name, sizeof name, "%d ranks on one node", memory->ranks);
        print_row(text, name, most * (size_t)memory->ranks);
    }
    text_printf(text,
                "  gradient buffers of a step: %d = %d + log2(%lld lanes / %d ranks), fewer if lanes stay empty\n",
                memory->gradient_buffers, memory->wave, (long long)memory->lanes, memory->ranks);
}
