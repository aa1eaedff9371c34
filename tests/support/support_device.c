/* support_device.c -- see support_device.h. */
#include "tests/support/support_device.h"

#include <stdlib.h>

#include "kernels/cpu/device_cpu.h"
#include "kernels/cuda/device_cuda.h"
#include "tests/support/support.h"

void support_device_open(Device *device)
{
    const char *kind = getenv("TERCET_TEST_DEVICE");
    int count = 0;
    if (!kind) {
        assert_ok(device_open_cpu(device, 1, NULL));
        return;
    }
    assert_string_equal(kind, "cuda");
    if (status_failed(cuda_devices_count(&count)))
        support_skip("cuda", "%s", status_message());
    assert_ok(device_open_cuda(device, &(CudaOptions){.index = status_rank() % count, .threads = 1}));
}
