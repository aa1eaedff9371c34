/* unit_batch.c -- packing one unit of work. */
#include "stages/unit_batch.h"

#include <string.h>

#include "core/base/memory.h"

void unit_batch_reserve(UnitBatch *unit, int64_t tokens)
{
    int64_t *capacity[] = {&unit->tokens_capacity, &unit->sequences_capacity, &unit->row_capacity,
                           &unit->target_capacity, &unit->weight_capacity};
    for (int i = 0; i < 5; i++)
        if (*capacity[i] < tokens + 1)
            *capacity[i] = tokens + 1;
    unit->token = memory_resize(unit->token, (size_t)unit->tokens_capacity, sizeof *unit->token);
    unit->start = memory_resize(unit->start, (size_t)unit->sequences_capacity, sizeof *unit->start);
    unit->row = memory_resize(unit->row, (size_t)unit->row_capacity, sizeof *unit->row);
    unit->target = memory_resize(unit->target, (size_t)unit->target_capacity, sizeof *unit->target);
    unit->weight = memory_resize(unit->weight, (size_t)unit->weight_capacity, sizeof *unit->weight);
}

void unit_batch_begin(UnitBatch *unit)
{
    unit->tokens = 0;
    unit->sequences = 0;
    unit->rows = 0;
    memory_reserve(&unit->start, 0, &unit->sequences_capacity);
    unit->start[0] = 0;
}

void unit_batch_sequence(UnitBatch *unit, const int32_t *token, int64_t count)
{
    REQUIRE(count >= 1, "an empty sequence in a unit");
    while (unit->tokens + count > unit->tokens_capacity)
        memory_reserve(&unit->token, unit->tokens_capacity, &unit->tokens_capacity);
    memcpy(unit->token + unit->tokens, token, (size_t)count * sizeof *token);
    unit->tokens += count;
    unit->sequences++;
    memory_reserve(&unit->start, unit->sequences, &unit->sequences_capacity);
    REQUIRE(unit->tokens <= INT32_MAX, "a unit of %lld tokens", (long long)unit->tokens);
    unit->start[unit->sequences] = (int32_t)unit->tokens;
}

void unit_batch_row(UnitBatch *unit, int64_t position, int32_t target, float weight)
{
    int32_t first = unit->start[unit->sequences - 1];
    REQUIRE(position >= 0 && first + position < unit->tokens, "row %lld outside its sequence", (long long)position);
    REQUIRE(unit->rows == 0 || unit->row[unit->rows - 1] < first + position, "row %lld is not after the one before",
            (long long)position);
    memory_reserve(&unit->row, unit->rows, &unit->row_capacity);
    memory_reserve(&unit->target, unit->rows, &unit->target_capacity);
    memory_reserve(&unit->weight, unit->rows, &unit->weight_capacity);
    unit->row[unit->rows] = first + (int32_t)position;
    unit->target[unit->rows] = target < 0 ? 0 : target;
    unit->weight[unit->rows] = weight;
    unit->rows++;
}

Tensor unit_batch_floats(Exec *exec, const float *values, int64_t count)
{
    Tensor tensor = tensor_new1(exec->step, DTYPE_F32, count);
    tensor_write(exec->device, tensor, values);
    return tensor;
}

Tensor unit_batch_ints(Exec *exec, const int32_t *values, int64_t count)
{
    Tensor tensor = tensor_new1(exec->step, DTYPE_I32, count);
    tensor_write(exec->device, tensor, values);
    return tensor;
}

void unit_batch_upload(UnitBatch *unit, Exec *exec)
{
    unit->batch = token_batch_make(exec->device, exec->step, unit->token, unit->start, unit->sequences, NULL);
    if (unit->rows == 0)
        return;
    unit->wanted = unit->rows < unit->tokens ? unit_batch_ints(exec, unit->row, unit->rows) : tensor_absent();
    unit->targets = unit_batch_ints(exec, unit->target, unit->rows);
    unit->weights = unit_batch_floats(exec, unit->weight, unit->rows);
}

void unit_batch_free(UnitBatch *unit)
{
    memory_free(&unit->token);
    memory_free(&unit->start);
    memory_free(&unit->row);
    memory_free(&unit->target);
    memory_free(&unit->weight);
    memset(unit, 0, sizeof *unit);
}
