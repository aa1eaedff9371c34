/* support_device.h -- the device of a test that runs on more than one kind: the CPU, or in its twins the CUDA backend, emulated (NAME-cuda) or real (NAME-gpu). */
#ifndef TESTS_SUPPORT_SUPPORT_DEVICE_H
#define TESTS_SUPPORT_SUPPORT_DEVICE_H

#include "core/tensor/device.h"

/* One thread of the CPU; with TERCET_TEST_DEVICE=cuda a GPU, each rank another where there are enough, and the test is skipped where there is none. Any failure fails the test. */
void support_device_open(Device *device);

#endif
