/* sanitizer.c -- part of every executable of an AddressSanitizer build: its options, and leaks that are not ours.
 *
 * Why:   Open MPI unloads its plugins at MPI_Finalize, and a leak of an unloaded library has no name to suppress it by.
 *        So plugins stay loaded here, and suppressions name libraries that keep tables until the process ends. Nothing
 *        of our own may stand in that list. libc's asprintf has no frame pointer, so the unwinder loses its caller;
 *        with ours, compiled with one, it does not. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default"), used))

EXPORT int dlclose(void *handle);
EXPORT int __vasprintf_chk(char **result, int flag, const char *format, va_list arguments);
EXPORT int __asprintf_chk(char **result, int flag, const char *format, ...);
EXPORT int vasprintf(char **result, const char *format, va_list arguments);
EXPORT int asprintf(char **result, const char *format, ...);
EXPORT const char *__asan_default_options(void);
EXPORT const char *__ubsan_default_options(void);
EXPORT const char *__lsan_default_suppressions(void);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}

int vasprintf(char **result, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    *result = length < 0 ? NULL : malloc((size_t)length + 1);
    return *result ? vsnprintf(*result, (size_t)length + 1, format, arguments) : -1;
}

int __vasprintf_chk(char **result, int flag, const char *format, va_list arguments)
{
    (void)flag;
    return vasprintf(result, format, arguments);
}

int asprintf(char **result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(result, format, arguments);
    va_end(arguments);
    return length;
}

int __asprintf_chk(char **result, int flag, const char *format, ...)
{
    (void)flag;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(result, format, arguments);
    va_end(arguments);
    return length;
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
           "leak:libpsm";
}
