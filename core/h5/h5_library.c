/* h5_library.c -- the HDF5 library as this program wants it: silent, without plugins, writing one format, and with its
 * reasons turned into messages. */
#include "core/h5/h5_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN_BYTES = 4096 };

/* Once per process: no error printing, no plugins, no exit handler (a file that could not be flushed makes it loop). */
void h5_library_start(void)
{
    static bool started;
    if (started)
        return;
    started = true;
    H5dont_atexit();
    REQUIRE(H5open() >= 0, "the HDF5 library does not start");
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static herr_t take_reason(unsigned index, const H5E_error2_t *error, void *client)
{
    if (index == 0)
        snprintf(client, 256, "%s (%s)", error->desc ? error->desc : "no reason given",
                 error->func_name ? error->func_name : "?");
    return 0;
}

Status h5_library_error(StatusCode code, const char *format, ...)
{
    char reason[256] = "no reason given", text[1024];
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, reason);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return status_error(code, "%s: HDF5: %s", text, reason);
}

hid_t h5_library_access(void)
{
    h5_library_start();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    REQUIRE(access >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
                H5Pset_alignment(access, H5_LARGE_BYTES, ALIGN_BYTES) >= 0 &&
                H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0,
            "HDF5 refuses file access properties");
#if H5_VERSION_GE(1, 10, 7)
    REQUIRE(H5Pset_file_locking(access, false, true) >= 0, "HDF5 refuses to work without locks");
#endif
    return access;
}

static hid_t half_type(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    REQUIRE(H5Tset_fields(type, 15, 10, 5, 0, 10) >= 0 && H5Tset_size(type, 2) >= 0 && H5Tset_ebias(type, 15) >= 0,
            "HDF5 refuses a 16-bit float");
    return type;
}

hid_t h5_library_type(DType dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case DTYPE_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case DTYPE_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case DTYPE_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case DTYPE_U8:
        return H5Tcopy(H5T_STD_U8LE);
    case DTYPE_BF16:
        return H5Tcopy(H5T_STD_U16LE);
    case DTYPE_F16:
        return half_type();
    }
    REQUIRE(false, "no such element type: %d", (int)dtype);
    return -1;
}

bool h5_library_dtype(hid_t type, const char *dtype_attribute, DType *dtype, bool *exact)
{
    static const DType all[] = {DTYPE_F32, DTYPE_F64, DTYPE_I32, DTYPE_I64, DTYPE_U8, DTYPE_F16};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        hid_t candidate = h5_library_type(all[i]);
        bool same = H5Tequal(type, candidate) > 0;
        H5Tclose(candidate);
        if (same) {
            *dtype = all[i];
            *exact = true;
            return true;
        }
    }
    if (strcmp(dtype_attribute, "bf16") == 0 && H5Tequal(type, H5T_STD_U16LE) > 0) {
        *dtype = DTYPE_BF16;
        *exact = true;
        return true;
    }
    *exact = false;
    size_t size = H5Tget_size(type);
    H5T_class_t class = H5Tget_class(type);
    if (class == H5T_INTEGER && size <= 8) {
        *dtype = DTYPE_I64;
        return true;
    }
    if (class == H5T_FLOAT && size <= 8) {
        *dtype = size <= 4 ? DTYPE_F32 : DTYPE_F64;
        return true;
    }
    return false;
}

/* Boxes of one sub-array at a time: the head of a broken row, the whole rows, the tail of a broken row. `start` and
 * `extent` hold the indices of the dimensions before `axis`. */
static Status boxes_from(int axis, int ndim, const int64_t *shape, int64_t first, int64_t count, hsize_t *start,
                         hsize_t *extent, H5BoxVisit visit, void *self)
{
    int64_t width = 1;
    for (int i = axis + 1; i < ndim; i++)
        width *= shape[i];
    while (count > 0) {
        int64_t row = first / width, column = first % width;
        start[axis] = (hsize_t)row;
        int64_t taken;
        if (column == 0 && count >= width) {
            taken = count - count % width;
            extent[axis] = (hsize_t)(taken / width);
            for (int i = axis + 1; i < ndim; i++) {
                start[i] = 0;
                extent[i] = (hsize_t)shape[i];
            }
            TRY(visit(self, start, extent, taken));
        } else {
            taken = width - column < count ? width - column : count;
            extent[axis] = 1;
            TRY(boxes_from(axis + 1, ndim, shape, column, taken, start, extent, visit, self));
        }
        first += taken;
        count -= taken;
    }
    return status_ok();
}

Status h5_library_boxes(int ndim, const int64_t *shape, int64_t first, int64_t count, H5BoxVisit visit, void *self)
{
    hsize_t start[H5_DIMS_MAX], extent[H5_DIMS_MAX];
    return boxes_from(0, ndim, shape, first, count, start, extent, visit, self);
}
