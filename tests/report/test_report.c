/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"

#include <orrery/report.h>

START_TEST(median)
{
    double one[] = {3}, two[] = {4, 1}, odd[] = {5, -1, 2}, even[] = {9, 1, 4, 2}, equal[] = {7, 7, 7, 7};

    ck_assert_double_eq(orr_median(one, 1), 3);
    ck_assert_double_eq(orr_median(two, 2), 2.5);
    ck_assert_double_eq(orr_median(odd, 3), 2);
    ck_assert(odd[0] == -1 && odd[1] == 2 && odd[2] == 5);
    ck_assert_double_eq(orr_median(even, 4), 3);
    ck_assert_double_eq(orr_median(equal, 4), 7);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("report");
    TCase *t = tcase_create("report");

    tcase_add_test(t, median);
    suite_add_tcase(s, t);
    return s;
}
