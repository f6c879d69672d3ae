/* SPDX-License-Identifier: Apache-2.0 */
/* The main() of every test program: includes Check, runs the program's suite(). */
#ifndef ORR_CHECK_MAIN_H
#define ORR_CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

Suite *suite(void);

/* In one process, so that sanitizers and debuggers see all of it. */
int main(void)
{
    SRunner *runner = srunner_create(suite());

    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
