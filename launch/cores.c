/* cores.c -- the system's topology, sorted, cut into equal parts: see cores.h. */
#define _GNU_SOURCE
#include "launch/cores.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

/* Where a core is, by the system's numbers: cores of a socket are neighbours, threads of a core still more so. */
typedef struct Core {
    int package, core, id;
} Core;

static int topology(int id, const char *what)
{
    char path[128];
    int value = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", id, what);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &value) != 1)
        value = 0;
    fclose(file);
    return value;
}

static int compare_cores(const void *left, const void *right)
{
    const Core *a = left, *b = right;
    return a->package != b->package ? a->package - b->package : a->core != b->core ? a->core - b->core : a->id - b->id;
}

int cores_keep(int node_rank, int node_ranks, int threads, int quota)
{
    static Core core[CPU_SETSIZE];
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 0; /* more cores than a cpu_set_t can name */
    const int count = CPU_COUNT(&set), all = node_ranks * threads, each = count / node_ranks;
    if (node_ranks < 2 || quota > 0 || all > count || 2 * all <= count)
        return 0;
    for (int id = 0, i = 0; id < CPU_SETSIZE; id++)
        if (CPU_ISSET(id, &set))
            core[i++] = (Core){topology(id, "physical_package_id"), topology(id, "core_id"), id};
    qsort(core, (size_t)count, sizeof *core, compare_cores);
    CPU_ZERO(&set);
    for (int i = node_rank * each; i < (node_rank + 1) * each; i++)
        CPU_SET(core[i].id, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? each : 0;
}
