/* SPDX-License-Identifier: Apache-2.0 */
/* The main of a test program: included by the one file that defines suite(). */
#ifndef CHECK_MAIN_H
#define CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

Suite *suite(void);

int main(void)
{
    SRunner *runner = srunner_create(suite());

    /* Without forks StarPU's threads survive from one test to the next, and debuggers follow. */
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
#endif
