//TEST ranks=1,2,4 timeout=60
/* t313 -- a data set opened by several ranks: one of them tokenises, all see the same examples in the same order; a malformed file is an
 * error on every rank and leaves nothing behind. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/support.h"
#include "tests/support/words.h"

static Comm *comm;
static Tokenizer *tokenizer;

static DataSource shared_file(const char *name, const char *text)
{
    DataSource source = words_source(support_path("%s", name));
    if (comm_rank(comm) == 0)
        words_file(name, text);
    comm_barrier(comm);
    return source;
}

static void test_same_on_every_rank(void **state)
{
    (void)state;
    Text text = {0}, seen = {0};
    for (int i = 0; i < 300; i++)
        text_printf(&text, "%d.%d\ttext number %d\n", i % 5, i % 3, i);
    DataSource source = shared_file("rated.tsv", text_string(&text));
    text_free(&text);
    DataConfig config = words_config();
    Dataset *dataset;
    assert_ok(dataset_open(comm, DATASET_RANK, &source, 1, &config, tokenizer, support_path("cache"), &dataset));
    text_printf(&seen, "%s:", dataset_digest(dataset));
    for (int64_t epoch = 0; epoch < 2; epoch++)
        for (int64_t i = 0; i < dataset_examples_per_epoch(dataset); i++) {
            int64_t pair[GROUP_ANSWERS_MAX];
            dataset_example(dataset, 4, epoch, i, true, pair);
            for (int s = 0; s < 2; s++)
                text_printf(&seen, " %s", words_text(tokenizer, dataset_sequence(dataset, pair[s])));
        }
    assert_ok(comm_agree_same(comm, "examples", text_string(&seen)));
    text_free(&seen);
    dataset_close(&dataset);
}

static void test_failure_is_everyones(void **state)
{
    (void)state;
    DataSource source = shared_file("bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": 4}\n");
    DataConfig config = words_config();
    Dataset *dataset;
    assert_fails(dataset_open(comm, DATASET_SFT, &source, 1, &config, tokenizer, support_path("empty"), &dataset),
                 STATUS_INPUT, "bad.jsonl:2: ");
    assert_null(dataset);
    SupportRun run = support_run(10, "ls %s | wc -l", support_path("empty"));
    assert_string_equal(text_string(&run.out), "0\n");
    support_run_free(&run);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm world = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&world, &comm)))
        return 1;
    status_set_rank(comm_rank(comm));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_on_every_rank),
                                       cmocka_unit_test(test_failure_is_everyones)};
    tokenizer = words_tokenizer(true);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    comm_close(comm);
    MPI_Finalize();
    return failures;
}
