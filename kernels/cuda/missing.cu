/* missing.cu -- ops of this backend that are not written yet: each stands here until its own file has it. */
#include "kernels/cuda/cuda.h"

#define MISSING(name, Stem)                                                                                            \
    void cuda_##name(Device *device, const Stem##Args *args)                                                           \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)args;                                                                                                    \
        REQUIRE(false, "the CUDA backend has no %s yet", #name);                                                       \
    }
MISSING(fill, Fill)
MISSING(add, Add)
MISSING(cast, Cast)
MISSING(gemm, Gemm)
MISSING(bias_backward, BiasBackward)
MISSING(embed_forward, Embed)
MISSING(embed_backward, Embed)
MISSING(norm_forward, NormForward)
MISSING(norm_backward, NormBackward)
MISSING(rope, Rope)
MISSING(act_forward, ActForward)
MISSING(act_backward, ActBackward)
MISSING(gather_rows, Rows)
MISSING(scatter_rows, Rows)
MISSING(sample, Sample)
