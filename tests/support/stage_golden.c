/* stage_golden.c -- see stage_golden.h. */
#include "tests/support/stage_golden.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/h5/h5.h"
#include "core/store/huggingface.h"
#include "tests/support/support_device.h"

enum { JSON_BYTES_MAX = 1 << 20 };

void stage_golden_open(StageGolden *golden, const char *output)
{
    *golden = (StageGolden){.output = memory_strdup(support_path("%s", output))};
    assert_ok(json_read_file(stage_golden_path("expected.json"), JSON_BYTES_MAX, &golden->expected));
    support_device_open(&golden->device);
    stages_schema(&golden->schema);
    stage_golden_set(golden, "output=%s", golden->output);
    stage_golden_set(golden, "lanes=4");
}

void stage_golden_close(StageGolden *golden)
{
    config_close(&golden->config);
    config_schema_free(&golden->schema);
    device_close(&golden->device);
    json_decref(golden->expected);
    for (int i = 0; i < golden->keys; i++)
        memory_free(&golden->key[i]);
    memory_free(&golden->output);
}

const char *stage_golden_path(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/stages/%s", name);
    return support_source(path);
}

/* --- Running --- */

void stage_golden_set(StageGolden *golden, const char *format, ...)
{
    char key[1024];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    assert_in_range(size, 1, sizeof key - 1);
    assert_in_range(golden->keys, 0, STAGE_GOLDEN_KEYS_MAX - 1);
    golden->key[golden->keys++] = memory_strdup(key);
}

void stage_golden_set_optimizer(StageGolden *golden, const char *to, const char *from)
{
    static const char *const numbers[] = {"lr", "beta1", "beta2", "epsilon", "weight_decay", "clip", "final"};
    static const char *const words[] = {"form", "schedule"};
    const json_t *settings = stage_golden_value(golden, from);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        stage_golden_set(golden, "%s.%s=%.17g", to, numbers[i],
                         json_number_value(json_object_get(settings, numbers[i])));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        stage_golden_set(golden, "%s.%s=%s", to, words[i], json_string_value(json_object_get(settings, words[i])));
    stage_golden_set(golden, "%s.warmup=0", to);
}

void stage_golden_configure(StageGolden *golden)
{
    ConfigSource source = {.overrides = (const char *const *)golden->key, .overrides_count = golden->keys};
    config_close(&golden->config);
    assert_ok(config_open(source, &golden->schema, &golden->config));
}

Status stage_golden_run(StageGolden *golden, Status (*run)(Comm *, Device *, const Config *, StageMemory *))
{
    stage_golden_configure(golden);
    return run(comm_self(), &golden->device, golden->config, NULL);
}

/* --- Numbers --- */

const json_t *stage_golden_value(const StageGolden *golden, const char *path)
{
    const json_t *value = golden->expected;
    char *parts = memory_strdup(path), *rest = NULL;
    for (char *part = strtok_r(parts, ".", &rest); part && value; part = strtok_r(NULL, ".", &rest))
        value = json_object_get(value, part);
    memory_free(&parts);
    if (!value)
        fail_msg("expected.json has no %s", path);
    return value;
}

double stage_golden_number(const StageGolden *golden, const char *path, int index)
{
    const json_t *value = stage_golden_value(golden, path);
    if (index >= 0)
        value = json_array_get(value, (size_t)index);
    if (!json_is_number(value))
        fail_msg("expected.json: %s [%d] is no number", path, index);
    return json_number_value(value);
}

double stage_golden_metric(const StageGolden *golden, const char *stage, int64_t step, const char *phase,
                           const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s/metrics.jsonl", golden->output, stage);
    JsonReader *reader = NULL;
    assert_ok(json_reader_open(&reader, path));
    double found = NAN;
    int lines = 0;
    for (json_t *line = NULL;;) {
        assert_ok(json_reader_next(reader, &line));
        if (!line)
            break;
        const char *line_phase = json_string_value(json_object_get(line, "phase"));
        if (json_integer_value(json_object_get(line, "step")) != step || !line_phase || strcmp(line_phase, phase) != 0)
            continue;
        lines++;
        const json_t *value = json_object_get(line, name);
        if (json_is_number(value))
            found = json_number_value(value);
    }
    json_reader_close(&reader);
    if (lines != 1 || isnan(found))
        fail_msg("%s: %d lines of step %lld and phase %s, %s is %g", path, lines, (long long)step, phase, name, found);
    return found;
}

/* --- Parameters --- */

static float *golden_parameters(StageGolden *golden, const char *directory, HeadKind head, Model *model)
{
    bool has_head = false;
    assert_ok(huggingface_load(stage_golden_path(directory), &golden->device, head, model, &has_head, NULL));
    assert_true(has_head);
    float *values = memory_new((size_t)model->params.count, sizeof *values);
    tensor_read(&golden->device, model->params.value, values);
    return values;
}

void stage_golden_compare(StageGolden *golden, const char *file, const char *group, HeadKind head, const char *before,
                          const char *after, double limit, double limit_change, double floor)
{
    Model model_before = {0}, model_after = {0};
    float *first = golden_parameters(golden, before, head, &model_before);
    float *wanted = golden_parameters(golden, after, head, &model_after);
    char *path = text_join_path(golden->output, file);
    H5File *h5 = NULL;
    assert_ok(h5_open(path, "tercet-checkpoint", &h5));
    double moved = 0;
    int off = 0;
    for (int v = 0; v < model_after.params.views; v++) {
        const ParamView *view = &model_after.params.view[v];
        const H5Dataset *dataset = NULL;
        char name[160];
        snprintf(name, sizeof name, "%s/parameters/%s", group, view->name);
        assert_ok(h5_find(h5, name, DTYPE_F32, view->ndim, view->shape, &dataset));
        int64_t count = view->shape[0] * view->shape[1];
        float *mine = memory_new((size_t)count, sizeof *mine);
        assert_ok(h5_read_whole(h5, dataset, mine));
        double error = 0, size = 0, change = 0;
        for (int64_t i = 0; i < count; i++) {
            double b = wanted[view->offset + i], a = mine[i], start = first[view->offset + i];
            error += (a - b) * (a - b);
            size += b * b;
            change += (b - start) * (b - start);
        }
        error = sqrt(error), size = sqrt(size), change = sqrt(change);
        double least = floor * sqrt((double)count);
        bool close = error <= limit * size && (error <= limit_change * change || (change < least && error < least));
        if (!close)
            print_error("%s %s: off by %g, that is %g of its size, %g of its change (%g)\n", file, name, error,
                        error / size, error / change, change);
        off += !close;
        moved += change;
        memory_free(&mine);
    }
    assert_int_equal(off, 0);
    assert_true(moved > 0);
    h5_close(&h5);
    memory_free(&path);
    memory_free(&first);
    memory_free(&wanted);
    model_close(&model_before);
    model_close(&model_after);
}
