/* walk.c -- units one by one, or a wave of lanes on a strand each: see walk.h.
 *
 * A checked build's red zones and poison inside a unit are looked at while its work is noted, so on one thread alone, where nothing is noted. */
#include "core/train/walk.h"

bool walk_by_strands(const Model *model, int64_t lanes)
{
    return lanes > 1 && model->device->strands > 0 && model_stays_cached(model);
}

int64_t walk_width(bool strands, int64_t own, const Device *device)
{
    return !strands || own < 1 ? 1 : own < device->strands ? own : device->strands;
}

Status walk_unit(const Walk *walk, Exec *exec, int64_t unit)
{
    int64_t width = walk->stats.shape[1];
    size_t mark = arena_mark(exec->step);
    Status status =
        walk->unit(walk->context, unit, exec, tensor_range(walk->stats, (unit - walk->own.from) * width, width));
    if (exec->tape)
        tape_reset(exec->tape);
    arena_rewind(exec->step, mark);
    return status;
}

Status walk_lane(const Walk *walk, Exec *exec, int64_t lane)
{
    Span units = shard_units(walk->units, walk->lanes, lane);
    for (int64_t unit = units.from; unit < units.to; unit++)
        TRY(walk_unit(walk, exec, unit));
    return status_ok();
}

typedef struct Wave {
    const Walk *walk;
    Exec *exec;
    int64_t from;
    Params *params;
    const Tensor *gradient;
    Status status; /* of the first lane that failed */
} Wave;

static void wave_strand(void *context, int64_t number)
{
    Wave *wave = context;
    if (status_failed(wave->status))
        return;
    if (wave->gradient) {
        tensor_zero(wave->exec->device, wave->gradient[number]);
        params_set_grad(wave->params, wave->gradient[number]);
    }
    wave->status = walk_lane(wave->walk, wave->exec, wave->from + number);
}

Status walk_wave(const Walk *walk, Exec *exec, int64_t from, Params *params, const Tensor *gradient)
{
    Device *device = exec->device;
    Wave wave = {walk, exec, from, params, gradient, status_ok()};
    int64_t count = walk_width(walk->strands, walk->own_lanes.to - from, device);
    bool together = count > 1 && device_keeps(device);
    if (together)
        device_keep_begin(device);
    device_strands(device, exec->step, count, wave_strand, &wave);
    if (together) {
        DeviceKept *kept = device_keep_end(device);
        if (!status_failed(wave.status))
            device_replay(device, kept, 0);
        device_forget(device, &kept);
    }
    return wave.status;
}
