/* occupancy.cc -- blocks of a kernel that fit on a processor of the GPU, by the toolkit's own rules (cuda_occupancy.h); no GPU is asked.
 *
 * Reads lines "architecture registers static_bytes dynamic_bytes threads" (80 or 90), writes "blocks percent" for each: percent of the threads that
 * the processor can hold. */
#include <cstdio>

#include <cuda_occupancy.h>

/* CUDA C++ Programming Guide, table of compute capabilities. */
static cudaOccDeviceProp processor(int architecture)
{
    cudaOccDeviceProp it = cudaOccDeviceProp();
    it.computeMajor = architecture / 10;
    it.computeMinor = architecture % 10;
    it.maxThreadsPerBlock = 1024;
    it.maxThreadsPerMultiprocessor = 2048;
    it.regsPerBlock = it.regsPerMultiprocessor = 65536;
    it.warpSize = 32;
    it.sharedMemPerBlock = 48 << 10;
    it.sharedMemPerMultiprocessor = (architecture == 80 ? 164 : 228) << 10;
    it.sharedMemPerBlockOptin = (architecture == 80 ? 163 : 227) << 10;
    it.reservedSharedMemPerBlock = 1 << 10;
    it.numSms = architecture == 80 ? 108 : 132;
    return it;
}

int main(void)
{
    int architecture, registers, threads;
    long static_bytes, dynamic_bytes;
    while (scanf("%d %d %ld %ld %d", &architecture, &registers, &static_bytes, &dynamic_bytes, &threads) == 5) {
        const cudaOccDeviceProp properties = processor(architecture);
        const cudaOccDeviceState state = cudaOccDeviceState();
        cudaOccFuncAttributes attributes = cudaOccFuncAttributes();
        attributes.maxThreadsPerBlock = threads;
        attributes.numRegs = registers;
        attributes.sharedSizeBytes = (size_t)static_bytes;
        attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        attributes.maxDynamicSharedSizeBytes = (size_t)dynamic_bytes;
        cudaOccResult result;
        const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state,
                                                                           threads, (size_t)dynamic_bytes);
        if (error != CUDA_OCC_SUCCESS) {
            fprintf(stderr, "occupancy: error %d for sm_%d, %d registers, %ld + %ld bytes, %d threads\n", (int)error,
                    architecture, registers, static_bytes, dynamic_bytes, threads);
            return 1;
        }
        const int blocks = result.activeBlocksPerMultiprocessor;
        printf("%d %d\n", blocks, blocks * threads * 100 / properties.maxThreadsPerMultiprocessor);
    }
    return 0;
}
