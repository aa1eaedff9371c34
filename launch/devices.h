/* devices.h -- which device a rank computes on, and how it says so.
 *
 * auto:  the GPU where every rank sees one, else the CPU, and why. A rank takes the visible device of its number on its node, modulo how many there
 *        are (Slurm often shows each rank one); two ranks on one GPU are refused, since each would plan with all of it.
 * Bits:  the kind of device enters results as threads do: what device_describe says is stored, and a resume compares it. */
#ifndef LAUNCH_DEVICES_H
#define LAUNCH_DEVICES_H

#include "core/tensor/device.h"
#include "launch/bootstrap.h"
#include "stages/stage.h"

/* What a verb or an experiment asks for. */
typedef struct DeviceWish {
    const char *device; /* "auto", "cpu" or "cuda"; NULL: auto */
    int64_t threads;    /* CONFIG_AUTO or a number */
    bool tf32;          /* only a GPU has it */
    DType flow;         /* DTYPE_F32 or DTYPE_BF16; only a GPU has the latter */
    bool says;          /* log which one `auto` came to, and why */
} DeviceWish;

/* As the root keys say. */
DeviceWish device_wish_of(const RunConfig *run);
/* STATUS_USAGE: no such device, or not on all ranks, or one for two ranks; STATUS_MEMORY. [collective] */
Status devices_open(Bootstrap *bootstrap, const DeviceWish *wish, Device *device);
void devices_close(const Bootstrap *bootstrap, Device *device); /* [collective] */
/* What a plan is made on. */
typedef struct DevicePlan {
    DeviceWish wish;
    int threads; /* of the wish, resolved */
    int ranks;
    /* Filled by devices_open_dry: */
    size_t beside;       /* bytes that a rank's device takes beside arenas, estimated; 0: the CPU */
    size_t memory_bytes; /* that there are: of a GPU where it is one, 0 if none is here; else of this machine */
} DevicePlan;
/* A StageDryDevice whose context is a DevicePlan: computes nothing, and has the scratch of the device that the wish would come to here. */
Status devices_open_dry(void *plan, Device *device);
/* STATUS_MEMORY, with both figures, on every rank when a rank's GPU has less memory than the stage will take by its plan; nothing on the CPU. [collective] */
Status devices_check_memory(const Bootstrap *bootstrap, const DeviceWish *wish, Device *device, const StageRow *row,
                            const Config *config);
/* A line about GPUs for --version: how many, or why none. */
const char *devices_cuda_line(void);

#endif
