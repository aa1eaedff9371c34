//TEST timeout=60
/* The demo's files are a function of the seed, share no instruction, and rank by the true rule but for the stated noise. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "launch/demo_data.h"
#include "rewards/demo.h"
#include "tests/support/support.h"

static char *directory_of(uint64_t seed, const char *name)
{
    char *path = memory_strdup(support_path("seed-%llu-%s", (unsigned long long)seed, name));
    assert_ok(demo_data_write(path, seed));
    return path;
}

static void read_all(const char *directory, const char *file, Text *text)
{
    char *path = text_join_path(directory, file);
    assert_ok(text_read_file(path, (size_t)1 << 30, text));
    memory_free(&path);
}

static const char *const files[] = {"sft-train.jsonl",      "sft-heldout.jsonl",   "ranked-train.jsonl",
                                    "ranked-heldout.jsonl", "prompts-train.jsonl", "prompts-heldout.jsonl"};
enum { FILES = sizeof files / sizeof *files };

static void test_files_are_a_function_of_the_seed(void **state)
{
    (void)state;
    char *a = directory_of(0, "a"), *b = directory_of(0, "b"), *c = directory_of(1, "c");
    for (int f = 0; f < FILES; f++) {
        Text first = {0}, again = {0}, other = {0};
        read_all(a, files[f], &first);
        read_all(b, files[f], &again);
        read_all(c, files[f], &other);
        assert_int_equal(first.size, again.size);
        assert_memory_equal(first.bytes, again.bytes, first.size);
        assert_false(first.size == other.size && memcmp(first.bytes, other.bytes, first.size) == 0);
        text_free(&first);
        text_free(&again);
        text_free(&other);
    }
    memory_free(&a);
    memory_free(&b);
    memory_free(&c);
}

typedef struct Ranked {
    int64_t records, wrong, swapped, ranks;
} Ranked;

static void read_ranked(const char *path, Ranked *out)
{
    JsonReader *reader = NULL;
    json_t *record = NULL;
    assert_ok(json_reader_open(&reader, path));
    for (;;) {
        assert_ok(json_reader_next(reader, &record));
        if (!record)
            break;
        const char *prompt = NULL;
        const json_t *responses = NULL, *ranks = NULL;
        JsonPlace place = json_reader_place(reader);
        assert_ok(json_get_string(place, record, "prompt", JSON_REQUIRED, &prompt, NULL));
        assert_ok(json_get_array(place, record, "responses", JSON_REQUIRED, &responses));
        assert_ok(json_get_array(place, record, "ranks", JSON_REQUIRED, &ranks));
        assert_int_equal(json_array_size(responses), 4);
        assert_int_equal(json_array_size(ranks), 4);
        int points[4], wrong = 0, seen = 0;
        for (size_t a = 0; a < 4; a++) {
            DemoJudgement judged = demo_judge(prompt, json_string_value(json_array_get(responses, a)));
            points[a] = judged.points;
            assert_true(judged.pleases <= 1);
            seen |= 1 << json_integer_value(json_array_get(ranks, a));
        }
        assert_int_equal(seen, 2 + 4 + 8 + 16);
        for (size_t a = 0; a < 4; a++) {
            int rank = 1;
            for (size_t b = 0; b < 4; b++)
                rank += points[b] > points[a];
            wrong += rank != json_integer_value(json_array_get(ranks, a));
        }
        out->records++;
        out->ranks += 4;
        out->wrong += wrong;
        out->swapped += wrong > 0;
        assert_true(wrong == 0 || wrong == 2);
    }
    json_reader_close(&reader);
}

static void test_a_tenth_of_training_ranks_is_wrong(void **state)
{
    (void)state;
    char *directory = directory_of(2, "ranks");
    Ranked train = {0}, held_out = {0};
    char *path = text_join_path(directory, "ranked-train.jsonl");
    read_ranked(path, &train);
    memory_free(&path);
    path = text_join_path(directory, "ranked-heldout.jsonl");
    read_ranked(path, &held_out);
    memory_free(&path);
    memory_free(&directory);
    assert_int_equal(train.records, DEMO_RANKED_TRAIN);
    assert_int_equal(train.wrong * 10, train.ranks);
    assert_int_equal(held_out.records, DEMO_RANKED_HELDOUT);
    assert_int_equal(held_out.wrong, 0);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every prompt of every file, sorted: none is there twice, so nothing held out was trained on. */
static void test_no_instruction_is_in_two_files(void **state)
{
    (void)state;
    char *directory = directory_of(3, "splits");
    char **prompts = NULL;
    int64_t count = 0, capacity = 0;
    for (int f = 0; f < FILES; f++) {
        char *path = text_join_path(directory, files[f]);
        JsonReader *reader = NULL;
        json_t *record = NULL;
        assert_ok(json_reader_open(&reader, path));
        for (;;) {
            assert_ok(json_reader_next(reader, &record));
            if (!record)
                break;
            const char *prompt = NULL;
            assert_ok(json_get_string(json_reader_place(reader), record, "prompt", JSON_REQUIRED, &prompt, NULL));
            memory_reserve(&prompts, count, &capacity);
            prompts[count++] = memory_strdup(prompt);
        }
        json_reader_close(&reader);
        memory_free(&path);
    }
    assert_int_equal(count, DEMO_SFT_TRAIN + DEMO_SFT_HELDOUT + DEMO_RANKED_TRAIN + DEMO_RANKED_HELDOUT +
                                DEMO_PROMPTS_TRAIN + DEMO_PROMPTS_HELDOUT);
    qsort(prompts, (size_t)count, sizeof *prompts, compare_texts);
    for (int64_t i = 1; i < count; i++)
        if (strcmp(prompts[i - 1], prompts[i]) == 0)
            fail_msg("'%s' is there twice", prompts[i]);
    for (int64_t i = 0; i < count; i++)
        memory_free(&prompts[i]);
    memory_free(&prompts);
    memory_free(&directory);
}

static void test_a_place_that_cannot_be_written_is_said(void **state)
{
    (void)state;
    const char *path = support_path("file");
    assert_ok(text_write_file(path, "x", 1));
    Status status = demo_data_write(path, 0);
    assert_int_equal(status.code, STATUS_IO);
    assert_non_null(strstr(status_message(), path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_are_a_function_of_the_seed),
        cmocka_unit_test(test_a_tenth_of_training_ranks_is_wrong),
        cmocka_unit_test(test_no_instruction_is_in_two_files),
        cmocka_unit_test(test_a_place_that_cannot_be_written_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
