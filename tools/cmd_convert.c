/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include "tools/tools.h"

static const char *out, *dtype, *shard_size;

static struct setting table[] = {
    SETTING("model", "DIR", "a directory in Hugging Face's layout, or a checkpoint", OPTION_TEXT, &model_options.model, 0, 0, false),
    SETTING("set", "KEY=VALUE", "override a key of config.json, by its Hugging Face name", OPTION_LIST, &model_options.set, 0, 0,
            false),
    SETTING("out", "DIR", "the directory to make", OPTION_TEXT, &out, 0, 0, false),
    SETTING("dtype", "TYPE", "of the parameters: fp32, bf16 or fp16 (default: as they are)", OPTION_TEXT, &dtype, 0, 0, false),
    SETTING("shard-size", "SIZE", "most bytes of tensors in a file, as in 5GB or 500MiB (default: one file)", OPTION_TEXT, &shard_size,
            0, 0, false),
    {0},
};

static struct setting *const tables[] = {table, NULL};

/* As transformers reads max_shard_size: 5GB is 5e9, 5GiB 5 * 2^30. */
static int read_size(const char *text, int64_t *size)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},    {"B", 1},       {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    char *end;
    double number = isdigit((unsigned char)*text) ? strtod(text, &end) : 0;

    for (size_t i = 0; number > 0 && i < sizeof(units) / sizeof(units[0]); i++) {
        double bytes = floor(number * units[i].bytes);
        if (strcasecmp(end, units[i].name) == 0 && bytes >= 1 && bytes <= 0x1p62) {
            *size = (int64_t)bytes;
            return ORR_OK;
        }
    }
    return command_remedy(command_fail(ORR_EINVAL, "--shard-size: '%s' is no size", text), "write it as in 5GB, 500MiB or 20KB");
}

static int read_conversion(struct orr_conversion *conversion)
{
    *conversion = (struct orr_conversion){.keep = !dtype};
    if (!out)
        return command_remedy(command_fail(ORR_EINVAL, "--out: is missing"), "name a directory to make");
    if (orr_rank_count() > 1)
        return command_remedy(command_fail(ORR_EINVAL, "convert: runs in one process"), "start it without mpiexec");
    if (dtype)
        ORR_TRY(read_dtype("dtype", dtype, &conversion->dtype));
    return shard_size ? read_size(shard_size, &conversion->shard_bytes) : ORR_OK;
}

int cmd_convert(int argc, char **argv)
{
    struct opened o = {0};
    struct orr_conversion conversion;
    int status = options_parse("convert", "Writes a model's parameters in another dtype, or divided into other files.", tables, argc,
                               argv);

    if (status == 0)
        status = read_conversion(&conversion);
    layout_options.device = "cpu";      /* nothing is computed */
    layout_options.threads = 1;
    model_options.tokenizer = "bytes";  /* the directory's is copied, not read */
    if (status == 0)
        status = open_model(&o, NULL, NULL);
    if (status == 0 && !o.weights)
        status = command_remedy(command_fail(ORR_ENOENT, "%s: has no parameters to convert", model_options.model),
                                "name a directory with model.safetensors with --model");
    if (status == 0)
        status = orr_checkpoint_convert(o.model, o.directory, out, o.config, &conversion);
    close_model(&o);
    return status;
}
