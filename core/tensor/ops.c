/* ops.c -- the names of the ops, from the one list. What an op costs is cost.c; who asks for it, forward.c. */
#include "core/tensor/ops.h"

static const char *const names[] = {
#define OP_NAME(name, Stem) #name,
    OP_LIST(OP_NAME)
#undef OP_NAME
};

const char *op_name(OpKind op)
{
    return (unsigned)op < OP_COUNT ? names[op] : "?";
}
