/* plan.c -- the stages of an experiment one after another on a device that computes nothing, for what their arenas come to.
 *
 * The first and the last rank are planned: where work does not divide evenly, the last of near-equal parts is among the largest, and the
 * first slice of a flat buffer is. */
#include "core/store/checkpoint.h"
#include "stages/stage.h"

const StageRow stage_rows[STAGES] = {{"sft", sft_run}, {"rm", rm_run}, {"ppo", ppo_run}};

static Status plan_rank(const StageRow *row, const Config *config, StageDryDevice open, void *context, int rank,
                        int ranks, StageMemory *memory)
{
    Device device;
    TRY(open(context, &device));
    Comm *comm = comm_open_dry(rank, ranks);
    Status status = row->run(comm, &device, config, memory);
    comm_close(comm);
    device_close(&device);
    return status;
}

Status stage_plan(const StageRow *row, const Config *config, StageDryDevice open, void *context, int ranks,
                  StageMemory *memory)
{
    TRY(plan_rank(row, config, open, context, 0, ranks, memory));
    if (ranks == 1)
        return status_ok();
    StageMemory last;
    TRY(plan_rank(row, config, open, context, ranks - 1, ranks, &last));
    stage_memory_join(memory, &last);
    return status_ok();
}

Status stages_plan(const Config *config, StageDryDevice open, void *context, StageMemory memory[STAGES],
                   bool planned[STAGES])
{
    RunConfig run;
    config_read(config, "", run_keys, &run);
    Status status = status_ok();
    for (int i = 0; i < STAGES; i++) {
        planned[i] = config_has(config, stage_rows[i].name);
        if (planned[i] && !status_failed(status))
            status = stage_plan(&stage_rows[i], config, open, context, (int)run.ranks, &memory[i]);
    }
    model_promises_clear();
    return status;
}
