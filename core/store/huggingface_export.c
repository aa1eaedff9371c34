/* huggingface_export.c -- writing a directory that transformers opens: the import's tables, walked the other way. */
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/store/huggingface_parts.h"
#include "core/store/safetensors.h"

/* One tensor to be written: which rows of which view. */
typedef struct Item {
    const NameRow *row;
    const ParamView *view;
} Item;

typedef struct Plan {
    SafetensorsPlan *tensor;
    Item *item;
    int count, tensor_capacity, item_capacity;
} Plan;

static void plan_add(Plan *plan, const Model *model, const NameTable *table, const NameRow *row, int64_t layer)
{
    int index = params_index(&model->params, row->kind, layer);
    if (index < 0)
        return;
    const ParamView *view = &model->params.view[index];
    int64_t from, rows;
    huggingface_part(&model->shape, view, row->part, &from, &rows);
    memory_reserve(&plan->tensor, plan->count, &plan->tensor_capacity);
    memory_reserve(&plan->item, plan->count, &plan->item_capacity);
    SafetensorsPlan *tensor = &plan->tensor[plan->count];
    char layered[256];
    huggingface_row_name(row, table->prefix, layer, layered, sizeof layered);
    *tensor = (SafetensorsPlan){.name = memory_strdup(layered), .ndim = view->ndim};
    tensor->shape[0] = row->transposed ? view->shape[1] : rows;
    tensor->shape[1] = row->transposed ? rows : view->shape[1];
    plan->item[plan->count++] = (Item){row, view};
}

static Plan plan_make(const Model *model)
{
    Plan plan = {0};
    const NameTable *table = huggingface_names(model->shape.arch);
    for (const NameRow *row = table->rows; row->name; row++) {
        int64_t layers = strstr(row->name, "%d") ? model->shape.layers : 1;
        for (int64_t layer = 0; layer < layers; layer++)
            plan_add(&plan, model, table, row, layer);
    }
    return plan;
}

static void plan_free(Plan *plan)
{
    for (int i = 0; i < plan->count; i++)
        memory_free(&plan->tensor[i].name);
    memory_free(&plan->tensor);
    memory_free(&plan->item);
}

static Status item_write(SafetensorsWriter *writer, const Model *model, const Item *item)
{
    int64_t from, rows, columns = item->view->shape[1];
    huggingface_part(&model->shape, item->view, item->row->part, &from, &rows);
    int64_t count = rows * columns;
    float *values = memory_new((size_t)count, sizeof *values);
    tensor_read(model->device, tensor_range(model->params.value, item->view->offset + from * columns, count), values);
    if (item->row->transposed) {
        float *turned = memory_new((size_t)count, sizeof *turned);
        huggingface_turn(values, rows, columns, turned, rows);
        memory_free(&values);
        values = turned;
    }
    Status status = safetensors_write(writer, values, count);
    memory_free(&values);
    return status;
}

static Status weights_write(const char *path, const Model *model)
{
    Plan plan = plan_make(model);
    SafetensorsWriter *writer = NULL;
    Status status = safetensors_writer_open(path, plan.tensor, plan.count, &writer);
    for (int i = 0; i < plan.count && !status_failed(status); i++)
        status = item_write(writer, model, &plan.item[i]);
    status = safetensors_writer_close(&writer, status);
    plan_free(&plan);
    return status;
}

static Status config_write(const char *path, const Model *model, const Tokenizer *tokenizer)
{
    Text text = {0};
    huggingface_config_write(model, tokenizer, &text);
    Status status = text_write_file(path, text.bytes, text.size);
    text_free(&text);
    return status;
}

Status huggingface_export(const char *directory, const Model *model, const Tokenizer *tokenizer)
{
    TRY(text_make_directories(directory));
    char *config = text_join_path(directory, "config.json"), *weights = text_join_path(directory, "model.safetensors");
    Status status;
    TRY_GOTO(config_write(config, model, tokenizer), out);
    if (tokenizer)
        TRY_GOTO(tokenizer_save(tokenizer, directory), out);
    TRY_GOTO(weights_write(weights, model), out);
out:
    memory_free(&config);
    memory_free(&weights);
    return status;
}
