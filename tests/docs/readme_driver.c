/* Trains a small GPT on a text file, byte by byte. */
#include <stdio.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>
#include <orrery/orrery.h>

enum { V = 256, T = 64, C = 64, H = 4, LAYERS = 2, BATCH = 16, STEPS = 100 };

static int wire(struct orr_model *m)
{
    struct orr_embedding embedding = {.vocab = V, .positions = T, .width = C, .std = 0.02f};
    struct orr_attention attention = {.width = C, .heads = H, .eps = 1e-5f, .std = 0.02f, .projection_std = 0.01f};
    struct orr_mlp mlp = {.width = C, .hidden = 4 * C, .eps = 1e-5f, .std = 0.02f, .projection_std = 0.01f};
    struct orr_head head = {.vocab = V, .width = C, .eps = 1e-5f};

    ORR_TRY(orr_embedding(m, &embedding));                 /* x  = wte[token] + wpe[position]                 */
    for (int l = 0; l < LAYERS; l++) {
        ORR_TRY(orr_attention(m, l, &attention));          /* x += proj(softmax(q k^T / sqrt(d)) v), of LN(x) */
        ORR_TRY(orr_mlp(m, l, &mlp));                      /* x += W2 gelu(W1 LN(x))                          */
    }
    ORR_TRY(orr_head(m, &head, orr_model_block(m, 0)));    /* loss = -log softmax(LN(x) wte^T)[next token]    */
    ORR_TRY(orr_model_build(m, NULL, 0));
    return orr_model_randomize(m, 1);
}

static int train(const char *path)
{
    struct orr_sampler sampler;
    struct orr_step step;

    ORR_TRY(orr_init(NULL));
    struct orr_model *model = orr_model_create(&(struct orr_mesh){.dp = 1, .pp = 1, .tp = 1, .ranks = 1});
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    struct orr_corpus *corpus = orr_corpus_open(&path, 1, bytes, 0);
    if (!model || !corpus)
        return orr_error_code();
    ORR_TRY(wire(model));
    ORR_TRY(orr_sampler_init(&sampler, corpus, (struct orr_range){0, orr_corpus_size(corpus)}, T, 1));
    struct orr_source source = orr_sampler_source(&sampler);
    struct orr_training *training = orr_training_create(model, &(struct orr_training_options){
        .batch = BATCH, .micro_batch = 4, .seq = T, .optimizer = orr_optimizer_default(ORR_ADAMW),
        .schedule = {.kind = ORR_SCHEDULE_COSINE, .lr = 3e-3, .min_lr = 3e-4, .warmup = 10, .steps = STEPS}});
    if (!training)
        return orr_error_code();
    for (int s = 1; s <= STEPS; s++) {
        ORR_TRY(orr_training_submit(training, &source));               /* tasks only: does not wait for the step */
        while (orr_training_next(training, &step, s == STEPS) == 1)    /* the steps that have ended meanwhile    */
            printf("step %3d  loss %.4f\n", (int)step.step, step.loss);
    }
    ORR_TRY(orr_model_status(model));
    orr_training_destroy(training);
    orr_model_destroy(model);
    orr_corpus_destroy(corpus);
    orr_tokenizer_destroy(bytes);
    return ORR_OK;
}

int main(int argc, char **argv)
{
    int status = argc == 2 ? train(argv[1]) : ORR_EINVAL;

    if (status != 0)
        fprintf(stderr, "%s\n", argc == 2 ? orr_error() : "usage: driver FILE");
    orr_shutdown();
    return status != 0;
}
