/* The VADER lexicon on 1,432 rated review texts: the sums of another program (Python's re and dict), text by text in all, and most signs those of the
 * people who rated them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rewards/reward_rules.h"
#include "tests/support/support.h"

static void test_reviews(void **state)
{
    (void)state;
    Lexicon *lexicon = NULL;
    assert_ok(lexicon_open(&lexicon, support_data("datasets/vader-ratings/vader_lexicon.txt")));
    Text text = {0};
    assert_ok(text_read_file(support_data("datasets/vader-ratings/split/test.tsv"), 1 << 24, &text));
    int count = 0, positive = 0, agree = 0;
    double total = 0;
    char *save = NULL;
    for (char *line = strtok_r(text.bytes, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *after = NULL;
        double rating = strtod(line, &after), sum;
        assert_true(*after == '\t');
        sum = lexicon_sum(lexicon, after + 1, NULL);
        count++;
        positive += sum > 1e-9;
        agree += (sum > 1e-9) == (rating > 0);
        total += sum;
    }
    assert_int_equal(count, 1432);
    assert_int_equal(positive, 821);
    assert_int_equal(agree, 947);
    assert_close(total, 1730.6, 0, 1e-6);
    text_free(&text);
    /* Some by hand, from the lines of the file: good 1.9, great 3.1, horrible -2.5, :) 2.0, :-( -1.5. */
    assert_close(lexicon_sum(lexicon, "A GREAT film, good too. :)", NULL), 3.1 + 1.9 + 2.0, 0, 1e-9);
    assert_close(lexicon_sum(lexicon, "horrible :-(", NULL), -2.5 - 1.5, 0, 1e-9);
    lexicon_close(&lexicon);
}

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reviews)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
