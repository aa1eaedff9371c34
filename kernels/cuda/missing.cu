/* missing.cu -- ops of this backend that are not written yet: each stands here until its own file has it. */
#include "kernels/cuda/cuda.h"

#define MISSING(name, Stem)                                                                                            \
    void cuda_##name(Device *device, const Stem##Args *args)                                                           \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)args;                                                                                                    \
        REQUIRE(false, "the CUDA backend has no %s yet", #name);                                                       \
    }
MISSING(sample, Sample)
