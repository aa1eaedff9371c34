/* Wilson's interval gives published figures; the bootstrap gives what the normal theory says where that holds, and is a function of its arguments. */
#include <math.h>

#include "eval/interval.h"
#include "tests/support/support.h"

static void test_wilson(void **state)
{
    (void)state;
    static const struct {
        double part, whole, low, high;
    } known[] = {
        {8, 10, 0.4901624715, 0.9433178485},
        {0, 10, 0, 0.2775327999},
        {74, 100, 0.6462901055, 0.8159530154},
        {256, 256, 0.9852161436, 1},
        {0, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        Interval interval = interval_wilson(known[i].part, known[i].whole);
        assert_close(interval.low, known[i].low, 0, 1e-9);
        assert_close(interval.high, known[i].high, 0, 1e-9);
    }
}

static void test_bootstrap(void **state)
{
    (void)state;
    enum { N = 400 };
    double value[N], constant[5] = {2, 2, 2, 2, 2};
    for (int i = 0; i < N; i++)
        value[i] = i % 10 < 3 ? 1 : 0;
    Interval a = interval_bootstrap(value, N, 1), again = interval_bootstrap(value, N, 1);
    Interval other = interval_bootstrap(value, N, 2);
    assert_true(a.low == again.low && a.high == again.high);
    assert_true(a.low != other.low || a.high != other.high);
    double half = 1.96 * sqrt(0.3 * 0.7 / N);
    assert_close(a.low, 0.3 - half, 0, 0.006);
    assert_close(a.high, 0.3 + half, 0, 0.006);
    Interval none = interval_bootstrap(constant, 5, 1);
    assert_true(none.low == 2 && none.high == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wilson), cmocka_unit_test(test_bootstrap)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
