/* verb_plan.c -- `tercet plan`: how many bytes each rank of an experiment will need, before anything is allocated. */
#include <stdio.h>

#include "core/base/text.h"
#include "launch/devices.h"
#include "launch/environment.h"
#include "launch/verbs.h"
#include "stages/stage.h"

static void print_plan(const StageMemory memory[STAGES], const bool planned[STAGES], const DevicePlan *plan, Text *text)
{
    int worst = -1;
    for (int i = 0; i < STAGES; i++) {
        if (!planned[i])
            continue;
        text_printf(text, "%s: bytes of one rank%s\n", stage_rows[i].name,
                    memory[i].ranks > 1 ? " (the worst of the first and the last)" : "");
        stage_memory_print(&memory[i], text);
        if (worst < 0 || stage_memory_most(&memory[i], NULL) > stage_memory_most(&memory[worst], NULL))
            worst = i;
    }
    if (worst < 0)
        return;
    const char *phase = "";
    const bool gpu = plan->beside > 0;
    const int sharers = gpu ? 1 : memory[worst].ranks; /* a GPU has one rank */
    size_t most = stage_memory_most(&memory[worst], &phase), node = most * (size_t)sharers;
    text_printf(text, "most of all: %s in %s, %s a rank", stage_rows[worst].name, phase, text_bytes((double)most));
    if (sharers > 1)
        text_printf(text, ", %s where all %d ranks share a node", text_bytes((double)node), sharers);
    if (gpu && plan->memory_bytes == 0)
        text_printf(text, "; this machine has no GPU\n");
    else
        text_printf(text, "; %s has %s%s%s\n", gpu ? "a GPU here" : "this machine",
                    text_bytes((double)plan->memory_bytes), node > plan->memory_bytes ? ", which is not enough" : "",
                    node > plan->memory_bytes && !gpu ? " for all ranks" : "");
    text_printf(text, "not counted: the program itself, and data and rollouts in host memory\n");
}

/* `threads: auto` of that many ranks on this machine. */
static int plan_threads(const Bootstrap *bootstrap, const RunConfig *run)
{
    if (run->threads != CONFIG_AUTO)
        return (int)run->threads;
    int share = bootstrap->cores_auto / (int)run->ranks;
    return share > 1 ? share : 1;
}

Status verb_plan(Launch *launch, int argc, char **argv)
{
    if (argc < 2)
        return status_error(STATUS_USAGE, "plan needs an experiment: tercet plan EXPERIMENT.yaml [key=value ...]");
    const char *launcher = NULL;
    int ranks = environment_launched_ranks(&launcher);
    if (ranks != 0 && ranks != 1)
        return status_error(STATUS_USAGE,
                            "`tercet plan` is for one process; it plans for the experiment's `ranks`, and was started "
                            "under a launcher (%s)",
                            launcher ? launcher : "?");
    Config *config = NULL;
    StageMemory memory[STAGES] = {0};
    bool planned[STAGES] = {0};
    TRY(launch_comm(launch));
    TRY(launch_config(launch, argv[1], argv + 2, argc - 2, &config));
    RunConfig run;
    config_read(config, "", run_keys, &run);
    DevicePlan plan = {
        .wish = device_wish_of(&run), .threads = plan_threads(&launch->bootstrap, &run), .ranks = (int)run.ranks};
    Status status = stages_plan(config, devices_open_dry, &plan, memory, planned);
    for (int i = 0; i < STAGES; i++)
        memory[i].beside = plan.beside;
    config_close(&config);
    TRY(status);
    if (!planned[0] && !planned[1] && !planned[2])
        return status_error(STATUS_USAGE, "%s: none of the sections sft, rm, ppo is there", argv[1]);
    Text text = {0};
    print_plan(memory, planned, &plan, &text);
    fputs(text_string(&text), stdout);
    text_free(&text);
    return status_ok();
}
