//TEST labels=cpu;data timeout=120
/* Decoding as tokens arrive gives, in pieces that are whole characters, exactly the text of decoding at once; cutting a sequence in two anywhere
 * and decoding the second part as a continuation loses and adds nothing; random ids give valid UTF-8. */
#include <pthread.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/data/json.h"
#include "core/data/tokenizer.h"
#include "tests/support/support.h"

static const char *const files[] = {"tokenizers/gpt2/encoder.json", "tokenizers/minimind/tokenizer.json",
                                    "tokenizers/mistral/tokenizer.model.v1", "models/stories260K-hf/tokenizer.json"};

static bool is_utf8(const char *bytes, size_t size)
{
    size_t at = 0, length = 1;
    while (at < size && (length = text_utf8_length(bytes + at, size - at)) > 0)
        at += length;
    return at == size;
}

/* Streams ids one by one; every step's output must be whole characters. Appends to `out`. */
static void stream_all(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, unsigned flags, Text *out)
{
    TokenizerStream stream;
    tokenizer_stream_start(&stream, tokenizer, flags);
    for (int64_t i = 0; i < count; i++) {
        size_t before = out->size;
        assert_ok(tokenizer_stream_push(&stream, ids[i], out));
        if (out->size > before)
            assert_true(is_utf8(out->bytes + before, out->size - before));
    }
    tokenizer_stream_finish(&stream, out);
    if (out->size)
        assert_true(is_utf8(out->bytes, out->size));
}

/* The cut at token `at` is at a character's border if both halves decode to themselves in the whole. */
static int check_cuts(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, const Text *whole)
{
    Text halves = {0}, first = {0};
    int exact = 0;
    for (int64_t at = 0; at <= count; at++) {
        text_clear(&halves);
        text_clear(&first);
        assert_ok(tokenizer_decode(tokenizer, ids, at, 0, &first));
        /* Only where the first half ends in a whole character that the whole has too. */
        if (first.size > whole->size || memcmp(text_string(&first), text_string(whole), first.size) != 0)
            continue;
        text_append(&halves, text_string(&first), first.size);
        assert_ok(tokenizer_decode(tokenizer, ids + at, count - at, at ? TOKENIZER_CONTINUE : 0, &halves));
        if (is_utf8(text_string(whole), first.size) && halves.size == whole->size)
            exact += memcmp(text_string(&halves), text_string(whole), whole->size) == 0;
    }
    text_free(&halves);
    text_free(&first);
    return exact;
}

static void check_file(const char *file)
{
    Tokenizer *tokenizer;
    assert_ok(tokenizer_open(&tokenizer, support_data(file)));
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, support_data("vectors/texts_211.jsonl")));
    TokenList ids = {0};
    Text whole = {0}, streamed = {0};
    json_t *row;
    int64_t cuts = 0, exact = 0;
    for (;;) {
        assert_ok(json_reader_next(reader, &row));
        if (!row)
            break;
        const char *text;
        size_t size;
        assert_ok(json_get_string(json_reader_place(reader), row, "text", JSON_REQUIRED, &text, &size));
        ids.count = 0;
        text_clear(&whole);
        text_clear(&streamed);
        assert_ok(tokenizer_encode(tokenizer, text, size, 0, &ids));
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &whole));
        stream_all(tokenizer, ids.ids, ids.count, 0, &streamed);
        assert_int_equal(streamed.size, whole.size);
        assert_memory_equal(text_string(&streamed), text_string(&whole), whole.size);
        assert_int_equal(whole.size, size); /* these tokenizers lose nothing */
        assert_memory_equal(text_string(&whole), text, size);
        if (ids.count <= 200) {
            cuts += ids.count + 1;
            exact += check_cuts(tokenizer, ids.ids, ids.count, &whole);
        }
    }
    print_message("%s: %lld of %lld cuts are at whole characters, and exact\n", file, (long long)exact,
                  (long long)cuts);
    assert_true(exact * 10 > cuts * 6);
    json_reader_close(&reader);
    token_list_free(&ids);
    text_free(&whole);
    text_free(&streamed);
    tokenizer_close(&tokenizer);
}

static void test_real_texts(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        check_file(files[f]);
}

/* Tokens in any order, as an untrained model gives them. */
static void test_random_ids(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        Tokenizer *tokenizer;
        assert_ok(tokenizer_open(&tokenizer, support_data(files[f])));
        Text whole = {0}, streamed = {0};
        for (uint64_t round = 0; round < 300; round++) {
            RngStream stream = rng_stream(7, RNG_TEST, f, round);
            int32_t ids[40];
            int32_t bound = round % 2 ? 300 : tokenizer_vocab_size(tokenizer); /* small ids: many lone bytes */
            for (uint64_t i = 0; i < 40; i++)
                ids[i] = (int32_t)rng_below(stream, i, (uint64_t)bound);
            unsigned flags = round % 3 ? TOKENIZER_SKIP_SPECIAL : 0;
            flags |= round % 5 ? 0 : TOKENIZER_CONTINUE;
            text_clear(&whole);
            text_clear(&streamed);
            assert_ok(tokenizer_decode(tokenizer, ids, 40, flags, &whole));
            stream_all(tokenizer, ids, 40, flags, &streamed);
            assert_int_equal(streamed.size, whole.size);
            assert_memory_equal(text_string(&streamed), text_string(&whole), whole.size);
        }
        const int32_t outside = tokenizer_vocab_size(tokenizer), negative = -1;
        assert_fails(tokenizer_decode(tokenizer, &outside, 1, 0, &whole), STATUS_INPUT, "outside of the vocabulary");
        assert_fails(tokenizer_decode(tokenizer, &negative, 1, 0, &whole), STATUS_INPUT, "-1");
        text_free(&whole);
        text_free(&streamed);
        tokenizer_close(&tokenizer);
    }
}

/* One tokenizer, four threads: each gets what one thread alone gets, whoever has the cache of words. */
enum { THREADS = 4, ROUNDS = 200 };

typedef struct Job {
    const Tokenizer *tokenizer;
    const Text *text;
    const TokenList *expected;
    bool equal;
} Job;

static void *encode_often(void *argument)
{
    Job *job = argument;
    TokenList ids = {0};
    job->equal = true;
    for (int round = 0; round < ROUNDS; round++) {
        ids.count = 0;
        Status status = tokenizer_encode(job->tokenizer, job->text->bytes, job->text->size, 0, &ids);
        job->equal = job->equal && !status_failed(status) && ids.count == job->expected->count &&
                     memcmp(ids.ids, job->expected->ids, (size_t)ids.count * sizeof *ids.ids) == 0;
    }
    token_list_free(&ids);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    Text text = {0};
    TokenList expected = {0};
    assert_ok(tokenizer_open(&tokenizer, support_data("tokenizers/gpt2/encoder.json")));
    assert_ok(text_read_file(support_data("datasets/tinyshakespeare/input.txt"), 4 << 20, &text));
    text.size = 5000;
    assert_ok(tokenizer_encode(tokenizer, text.bytes, text.size, 0, &expected));
    Job jobs[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (Job){tokenizer, &text, &expected, false};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(jobs[i].equal);
    }
    token_list_free(&expected);
    text_free(&text);
    tokenizer_close(&tokenizer);
}

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_real_texts), cmocka_unit_test(test_random_ids),
                                       cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
