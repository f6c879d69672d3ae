/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static int64_t ranks, batch = 16, micro_batch, seq, staleness;
static const char *optimizer = "adamw", *sync_mode = "gradients";

static struct setting table[] = {
    SETTING("ranks", "N", "tell the memory of a run on so many ranks (default: those that there are)", OPTION_INT, &ranks, 1, 1 << 20,
     false),
    SETTING("batch", "B", "sequences per step of that run (16)", OPTION_INT, &batch, 1, 1 << 24, false),
    SETTING("micro-batch", "b", "sequences per task of that run (default: enough microbatches for the workers)", OPTION_INT,
     &micro_batch, 1, 1 << 24, true),
    SETTING("seq", "T", "tokens of its sequences (default: the model's positions)", OPTION_INT, &seq, 1, 1 << 24, false),
    SETTING("optimizer", "NAME", "its optimizer: adamw (default), adam, sgd or rmsprop", OPTION_TEXT, &optimizer, 0, 0, false),
    SETTING("sync", "WHAT", "what its replicas have in common: gradients (default) or parameters", OPTION_TEXT, &sync_mode, 0, 0,
     false),
    SETTING("staleness", "S", "steps that they may be apart, as for train (0)", OPTION_INT, &staleness, 0, 4, false),
    {0},
};

static bool named;              /* --model was given: tell about it */

static struct setting *const tables[] = {model_table, table, layout_table, NULL};

/* A name per enum orr_pass. */
static const char *const passes[ORR_PASSES] = {"forward", "backward", "weights", NULL, "whole", "predict"};

static bool has_cuda(const struct orr_block_class *cls)
{
    int pass = 0;

    while (pass < ORR_PASSES && !cls->cuda[pass])
        pass++;
    return pass < ORR_PASSES;
}

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
        printf("  (CPU: yes, CUDA: %s)\n", has_cuda(cls) ? "yes" : "no");
    }
}

enum { MOST_RANKS = 16 };       /* that are listed one by one */

/* What training needs on each rank. */
static int print_memory(const struct opened *o)
{
    struct orr_training_options t = {.batch = (int)batch,
                                     .micro_batch = micro_batch ? (int)micro_batch : default_micro_batch((int)batch, o->mesh.dp),
                                     .seq = (int)(seq ? seq : o->hyper.positions),
                                     .slots = o->slots,
                                     .staleness = (int)staleness};
    struct orr_memory_need need, largest = {0};
    int where = 0;
    char text[256];

    ORR_TRY(orr_optimizer_parse(optimizer, &t.optimizer.kind));
    ORR_TRY(read_sync(sync_mode, &t.sync));
    ORR_TRY(check_shape(o, t.micro_batch, t.seq));
    printf("memory to train it with --batch %d --micro-batch %d --seq %d --optimizer %s --dtype %s:\n", t.batch, t.micro_batch,
           t.seq, optimizer, orr_dtype_label(o->dtype));
    for (int rank = 0; rank < o->mesh.ranks; rank++) {
        ORR_TRY(orr_training_memory(o->model, &t, rank, &need));
        if (rank < MOST_RANKS)
            printf("  rank %d: %s\n", rank, orr_memory_describe(&need, text, sizeof(text)));
        if (need.total > largest.total) {
            largest = need;
            where = rank;
        }
    }
    if (o->mesh.ranks > MOST_RANKS)
        printf("  ... of %d ranks most, rank %d: %s\n", o->mesh.ranks, where,
               orr_memory_describe(&largest, text, sizeof(text)));
    return ORR_OK;
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

static void print_devices(void)
{
    char name[64], cudnn[256];

    if (orr_device_count() == 0)
        printf("CUDA devices: none%s\n", orr_has_cuda() ? "" : ", and this build has no CUDA functions");
    for (int i = 0; i < orr_device_count(); i++) {
        orr_device_name(i, name, sizeof(name));
        printf("%s: %lld MiB to use\n", name, (long long)(orr_device_memory(i) >> 20));
    }
    orr_cudnn_describe(cudnn, sizeof(cudnn));
    printf("cuDNN for attention: %s\n", cudnn);
}

static int print(const struct opened *o)
{
    char *topology = orr_topology(), instructions[128];

    printf("orrery %s\n%s", orr_version(), topology ? topology : "");
    printf("workers: %d %s, scheduler %s, ranks %d\n", orr_worker_count(), orr_device_count() ? "CUDA" : "CPU", orr_scheduler(),
           orr_rank_count());
    if (strcmp(layout_options.cpu_group, "core") != 0)
        printf("groups of cores (%s): %d, with %d threads in all\n", layout_options.cpu_group, orr_worker_count(), orr_thread_count());
    orr_instructions_describe(instructions, sizeof(instructions));
    printf("instructions: %s\n", instructions);
    print_devices();
    printf("features: dtypes fp32, bf16, fp16; data, tensor, sequence and pipeline parallel, ZeRO 1-3%s\n",
           strstr(orr_version(), "no MPI") ? ", in one process" : ", on ranks");
    print_blocks(o->model);
    if (named)
        printf("model %s: %d layers, width %d, up to %d shards, %d positions, vocabulary %d, %.1f M parameters\n",
               model_options.model, o->hyper.layers, o->hyper.width, o->hyper.shards, o->hyper.positions, o->hyper.vocab,
               (double)orr_model_size(o->model) / 1e6);
    print_stages(o->model);
    free(topology);
    return named ? print_memory(o) : ORR_OK;
}

int cmd_info(int argc, char **argv)
{
    struct opened o = {0};
    int status = options_parse("info", "Version, features, machine, workers and blocks.", tables, argc, argv);

    named = model_options.model != NULL;
    if (status == 0 && !named)
        model_options.model = "tiny-gpt2";
    struct shape shape = {.micro_batch = micro_batch, .seq = seq};
    if (status == 0 && ranks > 0)
        layout_options.pretend_ranks = ranks;
    if (status == 0)
        status = open_model(&o, NULL, micro_batch ? &shape : NULL);
    if (status == 0)
        status = print(&o);
    close_model(&o);
    return status;
}
