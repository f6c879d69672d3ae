/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static struct setting *const tables[] = {model_table, layout_table, NULL};

/* A name per enum orr_pass. */
static const char *const passes[ORR_PASSES] = {"forward", "backward", "weights", NULL, "whole", "predict"};

static void print_blocks(struct orr_model *model)
{
    const struct orr_block_class *seen = NULL;

    printf("blocks (codelets):\n");
    for (int l = 0; l < orr_model_block_count(model); l++) {
        const struct orr_block_class *cls = orr_block_class_of(orr_model_block(model, l));
        bool repeated = l > 2 && l < orr_model_block_count(model) - 1;     /* the layers after the first */
        if (cls == seen || repeated)
            continue;
        seen = cls;
        printf("  %-10s", cls->name);
        for (int p = 0; p < ORR_PASSES; p++)
            if (passes[p] && cls->cpu[p])
                printf(" %s", passes[p]);
        printf("  (CPU: yes, CUDA: no)\n");
    }
}

static int print(const struct opened *o)
{
    char *topology = orr_topology();

    printf("orrery %s\n%s", orr_version(), topology ? topology : "");
    printf("workers: %d CPU, scheduler %s, ranks %d\n", orr_worker_count(), orr_scheduler(), orr_rank_count());
    printf("features: dtype fp32, data parallel and pipeline stages in one process\n");
    print_blocks(o->model);
    if (o->directory || strcmp(model_options.model, "tiny-gpt2") != 0)
        printf("model %s: %d layers, width %d, %d heads, %d positions, vocabulary %d, %.1f M parameters\n",
               model_options.model, o->gpt.n_layer, o->gpt.n_embd, o->gpt.n_head, o->gpt.n_positions, o->gpt.vocab_size,
               (double)orr_model_size(o->model) / 1e6);
    free(topology);
    return ORR_OK;
}

int cmd_info(int argc, char **argv)
{
    struct opened o = {0};
    int status = options_parse("info", "Version, features, machine, workers and blocks.", tables, argc, argv);

    if (status == 0 && !model_options.model)
        model_options.model = "tiny-gpt2";
    if (status == 0)
        status = open_model(&o, NULL);
    if (status == 0)
        status = print(&o);
    close_model(&o);
    return status;
}
