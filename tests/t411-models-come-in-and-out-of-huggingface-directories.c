//TEST devices=cuda
/* Both families equal PyTorch: logits, loss and every gradient of tests/golden/models, read through the Hugging Face import;
 * what is exported comes back bit for bit; directories with something wrong are refused by name. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/store/huggingface_parts.h"
#include "core/store/safetensors.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

typedef struct Golden {
    Tiny tiny;
    Safetensors *expected;
    int32_t *tokens, *start;
    int64_t count, sequences;
    float *weight;
} Golden;

static void *golden_array(const Golden *golden, const char *name, int64_t *count)
{
    int index = safetensors_find(golden->expected, name);
    if (index < 0)
        fail_msg("the golden has no %s", name);
    const SafetensorsEntry *entry = safetensors_entry(golden->expected, index);
    void *values = memory_new(entry->bytes, 1);
    assert_ok(safetensors_read(golden->expected, index, values));
    if (count)
        *count = entry->elements;
    return values;
}

static const char *golden_directory(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    return support_source(path);
}

static void golden_open(Golden *golden, const char *name, HeadKind head)
{
    *golden = (Golden){0};
    const char *directory = golden_directory(name);
    bool has_head = false;
    tiny_open_device(&golden->tiny);
    assert_ok(huggingface_load(directory, &golden->tiny.device, head, &golden->tiny.model, &has_head, NULL));
    assert_true(has_head);
    tiny_add_gradient(&golden->tiny);
    char *path = text_join_path(directory, "expected.safetensors");
    assert_ok(safetensors_open(path, &golden->expected));
    memory_free(&path);
    golden->tokens = golden_array(golden, "tokens", &golden->count);
    golden->start = golden_array(golden, "start", &golden->sequences);
    golden->sequences--;
    golden->weight = golden_array(golden, "weight", NULL);
}

static void golden_close(Golden *golden)
{
    memory_free(&golden->tokens);
    memory_free(&golden->start);
    memory_free(&golden->weight);
    safetensors_close(&golden->expected);
    tiny_close(&golden->tiny);
}

/* Every gradient of the golden against the rows of the flat buffer that the import's own table says. */
static void compare_gradients(Golden *golden)
{
    const Model *model = &golden->tiny.model;
    const NameTable *table = huggingface_names(model->shape.arch);
    float *gradient = memory_new((size_t)model->params.count, sizeof *gradient);
    tensor_read(&golden->tiny.device, golden->tiny.grad, gradient);
    int compared = 0, expected = 0;
    for (int i = 0; i < safetensors_count(golden->expected); i++)
        expected += text_starts_with(safetensors_entry(golden->expected, i)->name, "grad.");
    for (const NameRow *row = table->rows; row->name; row++)
        for (int64_t layer = 0; layer < (strstr(row->name, "%d") ? model->shape.layers : 1); layer++) {
            int index = params_index(&model->params, row->kind, layer);
            if (index < 0)
                continue;
            char name[256] = "grad.";
            huggingface_row_name(row, table->prefix, layer, name + 5, sizeof name - 5);
            int64_t from, rows, count;
            const ParamView *view = &model->params.view[index];
            huggingface_part(&model->shape, view, row->part, &from, &rows);
            float *wanted = golden_array(golden, name, &count);
            int64_t columns = view->shape[1];
            assert_int_equal(count, rows * columns);
            if (row->transposed) {
                float *turned = memory_new((size_t)count, sizeof *turned);
                huggingface_turn(wanted, columns, rows, turned, columns);
                memory_free(&wanted);
                wanted = turned;
            }
            const float *mine = gradient + view->offset + from * columns;
            double difference = support_relative_l2(mine, wanted, (size_t)count);
            if (!(difference <= 1e-4))
                print_error("%s: relative difference %g\n", name, difference);
            assert_relative_l2(mine, wanted, (size_t)count, 1e-4);
            memory_free(&wanted);
            compared++;
        }
    assert_int_equal(compared, expected);
    /* What has no learned number in it stays zero: gaps between views and the vocabulary's tail. */
    for (int v = 0; v < model->params.views; v++) {
        const ParamView *view = &model->params.view[v];
        int64_t end = v + 1 < model->params.views ? model->params.view[v + 1].offset : model->params.count;
        for (int64_t i = view->offset + view->shape[0] * view->shape[1]; i < end; i++)
            assert_true(gradient[i] == 0);
    }
    memory_free(&gradient);
}

static void compare_logits(Golden *golden)
{
    Tiny *tiny = &golden->tiny;
    int64_t vocab = tiny->model.shape.vocab, stored = model_shape_vocab_stored(&tiny->model.shape), count;
    TokenBatch batch =
        token_batch_make(&tiny->device, &tiny->step, golden->tokens, golden->start, golden->sequences, NULL);
    Tensor hidden = model_hidden(&tiny->model, &tiny->exec, &batch, tensor_absent(), NULL);
    VocabularyHead head = model_vocabulary_head(&tiny->model, 1);
    Tensor logits = head_logits(&tiny->exec, &head, hidden);
    float *mine = memory_new((size_t)(golden->count * stored), sizeof *mine);
    tensor_read(&tiny->device, logits, mine);
    float *wanted = golden_array(golden, "logits", &count);
    assert_int_equal(count, golden->count * vocab);
    for (int64_t t = 0; t < golden->count; t++)
        memmove(mine + t * vocab, mine + t * stored, sizeof *mine * (size_t)vocab);
    assert_relative_l2(mine, wanted, (size_t)count, 1e-5);
    assert_floats_close(mine, wanted, (size_t)count, 1e-4, 1e-4);
    memory_free(&mine);
    memory_free(&wanted);
    tiny_rewind(tiny);
}

static void language_model_equals_golden(const char *name)
{
    Golden golden;
    golden_open(&golden, name, HEAD_LM);
    compare_logits(&golden);
    float *loss = golden_array(&golden, "loss", NULL);
    double mine = tiny_nll(&golden.tiny, true, golden.tokens, golden.start, golden.sequences, golden.weight, NULL);
    assert_close(mine, loss[0], 1e-5, 0);
    compare_gradients(&golden);
    memory_free(&loss);
    golden_close(&golden);
}

static void test_llama_tied(void **state)
{
    (void)state;
    language_model_equals_golden("llama-tied");
}

static void test_llama_untied_in_two_shards_of_bf16(void **state)
{
    (void)state;
    language_model_equals_golden("llama-untied");
}

static void test_gpt2(void **state)
{
    (void)state;
    language_model_equals_golden("gpt2");
}

static void test_score_head(void **state)
{
    (void)state;
    Golden golden;
    golden_open(&golden, "llama-score", HEAD_SCALAR);
    Tiny *tiny = &golden.tiny;
    Exec exec = tiny_train_exec(tiny);
    TokenBatch batch =
        token_batch_make(&tiny->device, &tiny->step, golden.tokens, golden.start, golden.sequences, NULL);
    Tensor hidden = model_hidden(&tiny->model, &exec, &batch, tensor_absent(), NULL);
    Tensor score = model_score(&tiny->model, &exec, hidden);
    float *wanted = golden_array(&golden, "score", NULL), *target = golden_array(&golden, "target", NULL);
    float *loss = golden_array(&golden, "loss", NULL);
    float *mine = memory_new((size_t)golden.count, sizeof *mine);
    tensor_read(&tiny->device, score, mine);
    assert_relative_l2(mine, wanted, (size_t)golden.count, 1e-5);
    Tensor stats = tensor_new1(&tiny->step, DTYPE_F64, VALUE_STATS);
    tensor_zero(&tiny->device, stats);
    Tensor returns = tiny_upload(tiny, DTYPE_F32, target, golden.count);
    value_loss(&exec, score, returns, returns, tiny_upload(tiny, DTYPE_F32, golden.weight, golden.count), 0, 1, stats);
    tape_backward(&exec);
    double host[VALUE_STATS];
    tensor_read(&tiny->device, stats, host);
    assert_close(host[VALUE_LOSS], loss[0], 1e-5, 0);
    tiny_rewind(tiny);
    compare_gradients(&golden);
    memory_free(&mine);
    memory_free(&loss);
    memory_free(&target);
    memory_free(&wanted);
    golden_close(&golden);
}

/* --- In and out --------------------------------------------------------------------------------------------------- */

static void test_export_comes_back(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        HeadKind head;
    } cases[] = {{"llama-tied", HEAD_LM}, {"llama-untied", HEAD_LM}, {"llama-score", HEAD_SCALAR}, {"gpt2", HEAD_LM}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *directory = support_path("export/%s", cases[i].name);
        Tiny tiny;
        tiny_open_device(&tiny);
        H5Digest first, again;
        bool has_head;
        assert_ok(huggingface_load(golden_directory(cases[i].name), &tiny.device, cases[i].head, &tiny.model, &has_head,
                                   &first));
        float bias = 0.75f;
        if (cases[i].head == HEAD_SCALAR)
            tensor_write(&tiny.device, params_of(&tiny.model.params, VIEW_SCORE_BIAS, 0).value, &bias);
        assert_ok(huggingface_export(directory, &tiny.model, NULL));
        assert_true(huggingface_is_directory(directory));
        Model back;
        assert_ok(huggingface_load(directory, &tiny.device, cases[i].head, &back, &has_head, &again));
        assert_true(has_head);
        assert_false(h5_digest_equal(first, again));
        assert_true(model_shape_equal(&back.shape, &tiny.model.shape));
        assert_int_equal(back.params.count, tiny.model.params.count);
        size_t bytes = tensor_bytes(back.params.value);
        float *a = memory_new(bytes, 1), *b = memory_new(bytes, 1);
        tensor_read(&tiny.device, back.params.value, a);
        tensor_read(&tiny.device, tiny.model.params.value, b);
        assert_memory_equal(a, b, bytes);
        memory_free(&a);
        memory_free(&b);
        model_close(&back);
        tiny_close(&tiny);
    }
    assert_false(huggingface_is_directory(support_path("export")));
    assert_false(huggingface_is_directory(support_path("absent")));
}

static void test_matrices_are_turned(void **state)
{
    (void)state;
    static const int64_t extents[] = {1, 3, 4, 5, 15, 16, 17, 33};
    enum { EXTENTS = sizeof extents / sizeof extents[0], MOST = 33, GAP = 3 };
    float from[MOST * MOST], to[MOST * (MOST + GAP)];
    for (int i = 0; i < MOST * MOST; i++)
        from[i] = (float)i;
    for (int a = 0; a < EXTENTS; a++)
        for (int b = 0; b < EXTENTS; b++) {
            int64_t rows = extents[a], columns = extents[b], stride = rows + GAP;
            for (int64_t i = 0; i < columns * stride; i++)
                to[i] = -1;
            huggingface_turn(from, rows, columns, to, stride);
            for (int64_t j = 0; j < columns; j++)
                for (int64_t i = 0; i < stride; i++)
                    assert_true(to[j * stride + i] == (i < rows ? from[i * columns + j] : -1));
        }
}

/* The weights of `directory` once more, all of them as BF16: what comes to be read is not what was written. */
static void rewrite_as_bf16(const char *path)
{
    Safetensors *file;
    assert_ok(safetensors_open(path, &file));
    Text text = {0};
    size_t at = 0;
    for (int t = 0; t < safetensors_count(file); t++) {
        const SafetensorsEntry *entry = safetensors_entry(file, t);
        size_t bytes = (size_t)entry->elements * 2;
        text_printf(&text, "%s\"%s\": {\"dtype\": \"BF16\", \"shape\": [%lld%s", t ? ", " : "{", entry->name,
                    (long long)entry->shape[0], entry->ndim == 2 ? ", " : "");
        if (entry->ndim == 2)
            text_printf(&text, "%lld", (long long)entry->shape[1]);
        text_printf(&text, "], \"data_offsets\": [%zu, %zu]}", at, at + bytes);
        at += bytes;
    }
    text_append_string(&text, "}");
    uint64_t header = text.size;
    Text whole = {0};
    text_append(&whole, (const char *)&header, sizeof header);
    text_append(&whole, text.bytes, text.size);
    for (int t = 0; t < safetensors_count(file); t++) {
        int64_t count = safetensors_entry(file, t)->elements;
        float *values = memory_new((size_t)count, sizeof *values);
        assert_ok(safetensors_read_f32(file, t, values));
        for (int64_t i = 0; i < count; i++)
            text_append(&whole, (const char *)&values[i] + 2, 2); /* cut, not rounded: the upper half */
        memory_free(&values);
    }
    safetensors_close(&file);
    assert_ok(text_write_file(path, whole.bytes, whole.size));
    text_free(&whole);
    text_free(&text);
}

/* Every weight of the first layer's MLP, element by element: in the file inputs come first, in the model outputs do. */
static void assert_mlp_is_turned(const char *path, const Params *params, Device *device)
{
    static const struct {
        const char *name;
        ViewKind kind;
    } matrices[] = {{"transformer.h.0.mlp.c_fc.weight", VIEW_UP_WEIGHT},
                    {"transformer.h.0.mlp.c_proj.weight", VIEW_DOWN_WEIGHT}};
    Safetensors *file;
    assert_ok(safetensors_open(path, &file));
    for (int m = 0; m < 2; m++) {
        int index = safetensors_find(file, matrices[m].name);
        assert_true(index >= 0);
        const SafetensorsEntry *entry = safetensors_entry(file, index);
        int64_t inputs = entry->shape[0], outputs = entry->shape[1];
        float *stored = memory_new((size_t)entry->elements, sizeof *stored);
        float *held = memory_new((size_t)entry->elements, sizeof *held);
        assert_ok(safetensors_read_f32(file, index, stored));
        tensor_read(device, params_of(params, matrices[m].kind, 0).value, held);
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t o = 0; o < outputs; o++)
                if (stored[i * outputs + o] != held[o * inputs + i])
                    fail_msg("%s: input %ld, output %ld", matrices[m].name, (long)i, (long)o);
        memory_free(&stored);
        memory_free(&held);
    }
    safetensors_close(&file);
}

/* Matrices of more than one piece, of which no extent is a number of whole tiles; in F32, and in BF16. */
static void test_large_matrices_are_turned_in_pieces(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("gpt2", true);
    shape.width = 150, shape.heads = shape.kv_heads = 5, shape.head_dim = 30, shape.ffn = 602, shape.layers = 1;
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 1, 1.0f);
    const char *directory = support_path("pieces");
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    assert_ok(huggingface_export(directory, &tiny.model, NULL));
    assert_mlp_is_turned(path, &tiny.model.params, &tiny.device);
    for (int pass = 0; pass < 2; pass++) {
        Model back;
        bool has_head;
        assert_ok(huggingface_load(directory, &tiny.device, HEAD_LM, &back, &has_head, NULL));
        assert_mlp_is_turned(path, &back.params, &tiny.device);
        model_close(&back);
        rewrite_as_bf16(path);
    }
    tiny_close(&tiny);
}

static void test_heads_are_dropped_or_left_zero(void **state)
{
    (void)state;
    Tiny tiny;
    tiny_open_device(&tiny);
    bool has_head = true;
    Model *model = &tiny.model;
    assert_ok(huggingface_load(golden_directory("llama-untied"), &tiny.device, HEAD_SCALAR, model, &has_head, NULL));
    assert_false(has_head);
    assert_int_equal(params_find(&model->params, "head.weight"), -1);
    float score[24];
    tensor_read(&tiny.device, params_of(&model->params, VIEW_SCORE_WEIGHT, 0).value, score);
    for (int i = 0; i < 24; i++)
        assert_true(score[i] == 0);
    model_close(model);
    /* The score model's head is untied, and there is none. */
    assert_ok(huggingface_load(golden_directory("llama-score"), &tiny.device, HEAD_LM, model, &has_head, NULL));
    assert_int_equal(has_head, model->shape.tied);
    model_close(model);
    assert_ok(huggingface_load(golden_directory("gpt2"), &tiny.device, HEAD_NONE, model, &has_head, NULL));
    tiny_close(&tiny);
}

/* --- Refusals ----------------------------------------------------------------------------------------------------- */

static Status load_with_config(Tiny *tiny, const char *name, const char *edit)
{
    const char *directory = support_path("refused");
    SupportRun run = support_run(20, "rm -rf '%s' && cp -r '%s' '%s' && cd '%s' && %s", directory,
                                 golden_directory(name), directory, directory, edit);
    assert_exit(&run, 0);
    support_run_free(&run);
    bool has_head;
    Status status = huggingface_load(directory, &tiny->device, HEAD_LM, &tiny->model, &has_head, NULL);
    if (!status_failed(status))
        model_close(&tiny->model);
    return status;
}

static void test_refusals_name_the_thing(void **state)
{
    (void)state;
    static const struct {
        const char *model, *edit, *part;
    } cases[] = {
        {"llama-tied", "sed -i 's/\"hidden_act\": \"silu\"/\"hidden_act\": \"gelu\"/' config.json", "hidden_act"},
        {"llama-tied", "sed -i 's/\"attention_bias\": false/\"attention_bias\": true/' config.json", "attention_bias"},
        {"llama-tied", "sed -i 's/\"mlp_bias\": false/\"mlp_bias\": true/' config.json", "mlp_bias"},
        {"llama-tied",
         "sed -i 's/\"rope_scaling\": null/\"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"llama3\"}/' "
         "config.json",
         "llama3"},
        {"llama-tied", "sed -i 's/\"model_type\": \"llama\"/\"model_type\": \"t5\"/' config.json", "llama, gpt2"},
        {"llama-tied", "sed -i 's/\"hidden_size\": 24/\"hidden_size\": \"24\"/' config.json", "hidden_size"},
        {"llama-tied", "sed -i 's/\"hidden_size\": 24/\"hidden_size\": 48/' config.json",
         "tensor model.embed_tokens.weight"},
        {"llama-tied", "sed -i 's/\"vocab_size\": 70/\"vocab_size\": 67108864/' config.json",
         "tensor model.embed_tokens.weight"},
        {"llama-tied", "sed -i 's/\"vocab_size\": 70/\"vocab_size\": 67108865/' config.json", "vocab"},
        {"llama-tied", "sed -i 's/\"num_hidden_layers\": 2/\"num_hidden_layers\": 3/' config.json",
         "model.layers.2.input_layernorm.weight is missing"},
        {"llama-tied", "sed -i 's/\"num_hidden_layers\": 2/\"num_hidden_layers\": 1/' config.json",
         "tensor model.layers.1."},
        {"llama-tied", "echo '{' > config.json", "config.json"},
        {"llama-tied", "rm model.safetensors", "model.safetensors"},
        {"llama-tied", "mv model.safetensors pytorch_model.bin", "pickled"},
        {"llama-tied", "truncate -s -1 model.safetensors", "model.safetensors"},
        {"llama-untied", "rm model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"},
        {"llama-untied", "sed -i 's|model-00002-of|../model-00002-of|' model.safetensors.index.json", "weight_map"},
        {"gpt2", "sed -i 's/\"activation_function\": \"gelu_new\"/\"activation_function\": \"relu\"/' config.json",
         "relu"},
        {"gpt2", "sed -i 's/\"scale_attn_weights\": true/\"scale_attn_weights\": false/' config.json",
         "scale_attn_weights"},
        {"gpt2", "sed -i 's/\"n_head\": 4/\"n_head\": 5/' config.json", "5 heads"},
    };
    Tiny tiny;
    tiny_open_device(&tiny);
    assert_ok(load_with_config(&tiny, "llama-tied", "true"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Status status = load_with_config(&tiny, cases[i].model, cases[i].edit);
        if (!status_failed(status))
            print_error("accepted: %s\n", cases[i].edit);
        assert_true(status.code == STATUS_INPUT || status.code == STATUS_IO);
        assert_contains(status_message(), cases[i].part);
        assert_contains(status_message(), "refused");
    }
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_tied),
        cmocka_unit_test(test_llama_untied_in_two_shards_of_bf16),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_score_head),
        cmocka_unit_test(test_export_comes_back),
        cmocka_unit_test(test_matrices_are_turned),
        cmocka_unit_test(test_large_matrices_are_turned_in_pieces),
        cmocka_unit_test(test_heads_are_dropped_or_left_zero),
        cmocka_unit_test(test_refusals_name_the_thing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
