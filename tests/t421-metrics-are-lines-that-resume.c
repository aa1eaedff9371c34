//TEST timeout=20
/* t421 -- metrics.jsonl: exact numbers, valid JSON whatever the text, and a resume that drops what came after the checkpoint. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/train/metrics.h"

static void write_step(Metrics *metrics, int64_t step)
{
    metrics_begin(metrics, step, "train");
    metrics_number(metrics, "loss", 1.0 / (double)step);
    assert_ok(metrics_end(metrics));
    PhaseTimer timer;
    phase_reset(&timer);
    phase_begin(&timer, "forward");
    phase_tokens(&timer, 100);
    phase_end(&timer);
    assert_ok(metrics_timings(metrics, step, &timer));
}

static Text read_file(const char *directory, const char *name)
{
    Text text = {0};
    char *path = text_join_path(directory, name);
    assert_ok(text_read_file(path, 1 << 20, &text));
    free(path);
    return text;
}

static int lines_of(const Text *text)
{
    int lines = 0;
    for (size_t i = 0; i < text->size; i++)
        lines += text->bytes[i] == '\n';
    return lines;
}

static const char *fresh_directory(const char *name)
{
    const char *directory = support_path("%s", name);
    assert_ok(text_make_directories(directory));
    return directory;
}

static void test_line(void **state)
{
    (void)state;
    const char *directory = fresh_directory("line");
    Metrics metrics;
    assert_ok(metrics_open(&metrics, directory, 0, 0));
    metrics_begin(&metrics, 7, "train");
    metrics_number(&metrics, "third", 1.0 / 3.0);
    metrics_number(&metrics, "nan", NAN);
    metrics_number(&metrics, "infinite", -INFINITY);
    metrics_number(&metrics, "negative_zero", -0.0);
    metrics_text(&metrics, "text", "a\"b\\c\n\x01 \xc3\xa4 \xff");
    assert_ok(metrics_end(&metrics));
    metrics_close(&metrics);
    Text text = read_file(directory, "metrics.jsonl");
    assert_string_equal(text.bytes, "{\"step\":7,\"phase\":\"train\",\"third\":0.33333333333333331,\"nan\":null,"
                                    "\"infinite\":null,\"negative_zero\":-0,"
                                    "\"text\":\"a\\\"b\\\\c\\u000a\\u0001 \xc3\xa4 \\ufffd\"}\n");
    text_free(&text);
}

static void test_resume_cuts_back(void **state)
{
    (void)state;
    const char *directory = fresh_directory("resume");
    Metrics metrics;
    assert_ok(metrics_open(&metrics, directory, 0, 0));
    for (int64_t step = 1; step <= 12; step++)
        write_step(&metrics, step);
    metrics_close(&metrics);
    Text straight = read_file(directory, "metrics.jsonl");

    /* Killed in the middle of a line, after a checkpoint at step 9. */
    FILE *file = fopen(support_path("resume/metrics.jsonl"), "a");
    fputs("{\"step\":13,\"phase\":\"tr", file);
    fclose(file);
    assert_ok(metrics_open(&metrics, directory, 0, 9));
    Text cut = read_file(directory, "metrics.jsonl"), timings = read_file(directory, "timings.jsonl");
    assert_int_equal(lines_of(&cut), 9);
    assert_int_equal(lines_of(&timings), 9);
    assert_contains(cut.bytes, "{\"step\":9,");
    assert_lacks(cut.bytes, "{\"step\":10,");
    assert_contains(timings.bytes, "\"forward\":{\"seconds\":");
    assert_contains(timings.bytes, "\"tokens\":100");
    for (int64_t step = 10; step <= 12; step++)
        write_step(&metrics, step);
    metrics_close(&metrics);
    Text resumed = read_file(directory, "metrics.jsonl");
    assert_string_equal(resumed.bytes, straight.bytes);

    /* A line cut off at a step that is to be kept goes as well: the step will be run again. */
    file = fopen(support_path("resume/metrics.jsonl"), "a");
    fputs("{\"step\":1", file);
    fclose(file);
    assert_ok(metrics_open(&metrics, directory, 0, 12));
    metrics_close(&metrics);
    text_free(&resumed);
    resumed = read_file(directory, "metrics.jsonl");
    assert_string_equal(resumed.bytes, straight.bytes);
    text_free(&straight), text_free(&cut), text_free(&timings), text_free(&resumed);
}

static void test_other_ranks_write_nothing(void **state)
{
    (void)state;
    const char *directory = fresh_directory("other");
    Metrics metrics;
    assert_ok(metrics_open(&metrics, directory, 1, 0));
    write_step(&metrics, 1);
    metrics_close(&metrics);
    assert_int_not_equal(access(support_path("other/metrics.jsonl"), F_OK), 0);
}

static void test_errors(void **state)
{
    (void)state;
    Metrics metrics;
    assert_fails(metrics_open(&metrics, support_path("nowhere"), 0, 0), STATUS_IO, "nowhere/metrics.jsonl");
    if (access("/dev/full", W_OK) == 0) {
        const char *directory = fresh_directory("full");
        assert_ok(metrics_open(&metrics, directory, 0, 0));
        assert_non_null(freopen("/dev/full", "w", metrics.metrics));
        metrics_begin(&metrics, 1, "train");
        assert_fails(metrics_end(&metrics), STATUS_IO, "metrics.jsonl");
        metrics_close(&metrics);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_resume_cuts_back),
        cmocka_unit_test(test_other_ranks_write_nothing),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
