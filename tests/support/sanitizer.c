/* sanitizer.c -- part of every executable of an AddressSanitizer build: its options, and leaks that are not ours.
 *
 * Why:   Open MPI unloads its plugins at MPI_Finalize, and a leak of an unloaded library has no name to suppress it by.
 *        So plugins stay loaded here, and suppressions name libraries that keep tables until the process ends. Nothing
 *        of our own may stand in that list. */
#include <stddef.h>

#define EXPORT __attribute__((visibility("default"), used))

EXPORT int dlclose(void *handle);
EXPORT const char *__asan_default_options(void);
EXPORT const char *__ubsan_default_options(void);
EXPORT const char *__lsan_default_suppressions(void);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}

const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1:print_suppressions=0";
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}

const char *__lsan_default_suppressions(void)
{
    return "leak:libmpi.so\n"
           "leak:libopen-rte.so\n"
           "leak:libopen-pal.so\n"
           "leak:libpmix.so\n"
           "leak:/openmpi\n" /* its plugins: .../openmpi3/mca_*.so */
           "leak:/pmix\n"
           "leak:libhwloc.so\n"
           "leak:libevent\n"
           "leak:libhdf5\n"
           "leak:libdnnl.so\n"
           "leak:libOpenCL.so\n"
           "leak:libgomp.so\n"
           "leak:libfabric.so\n"
           "leak:libucs.so\n"
           "leak:libucp.so\n"
           "leak:libuct.so\n"
           "leak:libibverbs.so\n"
           "leak:libpsm\n"
           "leak:__vasprintf_internal"; /* Open MPI's, where the fast unwinder loses its caller; we never call it */
}
