/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static int64_t micro_batch, seq;

static struct setting table[] = {
    SETTING("micro-batch", "b", "sequences of the microbatches that stages are balanced for, where their times were measured",
            OPTION_INT, &micro_batch, 1, 1 << 24, true),
    SETTING("seq", "T", "tokens of a sequence (the model's positions)", OPTION_INT, &seq, 1, 1 << 24, false),
    {0},
};

static struct setting *const tables[] = {model_table, table, layout_table, NULL};

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

static void print_stages(const struct orr_model *model)
{
    const struct orr_mesh *mesh = orr_model_mesh(model);
    struct orr_stage_info stage;

    for (int s = 0; orr_mesh_stages(mesh) > 1 && s < orr_mesh_stages(mesh); s++) {
        if (orr_model_stage(model, s, &stage) != 0)
            return;
        if (s == 0)
            printf("stages, balanced by %s:\n", stage.measured ? "measured times" : "floating-point operations");
        printf("  %d (coordinate %d): %d blocks, %d to %d, %.1f %% of the cost\n", s, s % mesh->pp, stage.count, stage.first,
               stage.first + stage.count - 1, 100 * stage.share);
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
    print_stages(o->model);
    free(topology);
    return ORR_OK;
}

int cmd_info(int argc, char **argv)
{
    struct opened o = {0};
    int status = options_parse("info", "Version, features, machine, workers and blocks.", tables, argc, argv);

    if (status == 0 && !model_options.model)
        model_options.model = "tiny-gpt2";
    struct shape shape = {.micro_batch = micro_batch, .seq = seq};
    if (status == 0)
        status = open_model(&o, NULL, micro_batch ? &shape : NULL);
    if (status == 0)
        status = print(&o);
    close_model(&o);
    return status;
}
