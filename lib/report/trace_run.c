/* SPDX-License-Identifier: Apache-2.0 */
/* Where a run is traced to, and the translation of its traces by StarPU's own tool. */
#include <orrery/trace.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <orrery/runtime.h>

#include "core/core.h"
#include "core/fxt.h"
#include "io/io.h"
#include "io/json.h"

static const char log_name[] = "starpu_fxt_tool.log";

/* The folder's entries that are traces, sorted by name; a NULL ends them. */
struct names {
    char **name;
    int count;
};

static void free_names(struct names *names)
{
    for (int i = 0; i < names->count; i++)
        free(names->name[i]);
    free(names->name);
    *names = (struct names){0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(struct names *names, const char *name)
{
    char **more = realloc(names->name, ((size_t)names->count + 2) * sizeof(*more));

    if (!more)
        return orri_fail(ORR_ENOMEM, "memory", "no room for the names of traces");
    names->name = more;
    names->name[names->count] = orri_strdup(name);
    if (!names->name[names->count])
        return ORR_ENOMEM;
    names->name[++names->count] = NULL;
    return ORR_OK;
}

/* Also those that StarPU named after the user. */
static int find_traces(const char *directory, struct names *names)
{
    DIR *d = opendir(directory);
    int status = ORR_OK;

    *names = (struct names){0};
    if (!d)
        return orri_remedy(orri_fail(ORR_ENOENT, directory, "cannot be read as a folder: %s", strerror(errno)),
                           "name the folder that was given to --trace");
    errno = 0;      /* readdir() tells an error by it alone */
    for (struct dirent *e = readdir(d); e && status == 0; e = readdir(d))
        if (strncmp(e->d_name, "prof_file", 9) == 0)
            status = add_name(names, e->d_name);
    if (status == 0 && errno)
        status = orri_fail(ORR_EIO, directory, "cannot be read as a folder: %s", strerror(errno));
    closedir(d);
    if (status == 0 && names->count > 0)
        qsort(names->name, (size_t)names->count, sizeof(*names->name), by_name);
    if (status != 0)
        free_names(names);
    return status;
}

static int remove_file(const char *directory, const char *name)
{
    char *path = orri_format("%s/%s", directory, name);

    if (!path)
        return ORR_ENOMEM;
    int status = unlink(path) == 0 || errno == ENOENT ? ORR_OK
                 : orri_fail(ORR_EIO, path, "cannot be removed: %s", strerror(errno));
    free(path);
    return status;
}

/* ---- recording --------------------------------------------------------------------------------------------------- */

static int remove_old_trace(const char *directory)
{
    struct names old;

    ORR_TRY(find_traces(directory, &old));
    int status = remove_file(directory, "run.json");
    for (int i = 0; i < old.count && status == 0; i++)
        status = remove_file(directory, old.name[i]);
    free_names(&old);
    return status;
}

static int try_writing(const char *directory)
{
    char *probe = orri_format("%s/.writable-%d", directory, orr_rank());    /* one per rank: all write at once */
    int status = probe ? orri_make_folder(directory) : ORR_ENOMEM;

    if (status == 0)
        status = orri_write_file(probe, "", 0);
    if (status == 0)
        status = orri_remove_tree(probe);
    free(probe);
    return status;
}

int orr_trace_prepare(const char *directory)
{
    enum { LONGEST = 900 };     /* bytes; StarPU cuts the whole path off at 1023 */

    if (strlen(directory) == 0 || strlen(directory) > LONGEST)
        return orri_remedy(orri_fail(ORR_EINVAL, "--trace", "a path of 1 to %d bytes is needed, this one has %zu",
                                     LONGEST, strlen(directory)), "name another directory");
    int status = try_writing(directory);
    if (status == 0 && orr_rank() == 0)
        status = remove_old_trace(directory);
    return status == ORR_EIO ? orri_remedy(ORR_EINVAL, "name a directory that can be written with --trace") : status;
}

/* JSON holds no text but UTF-8, and the model may be a path of any bytes, or the beginning of one. */
static json_t *name_model(const char *model)
{
    char name[sizeof(((struct orr_trace_run *)NULL)->model)];
    json_t *text = json_string(model);

    if (text)
        return text;
    snprintf(name, sizeof(name), "%s", model);
    for (char *c = name; *c; c++)
        if ((unsigned char)*c > 0x7e)
            *c = '?';
    return json_string(name);
}

int orr_trace_describe(const char *directory, const struct orr_trace_run *run)
{
    char *path = orri_format("%s/run.json", directory);
    json_t *object = json_pack(
        "{s:o,s:i,s:i,s:i,s:i,s:i,s:s?,s:i,s:i,s:I}", "model", name_model(run->model), "dp", run->mesh.dp, "pp",
        run->mesh.pp, "tp", run->mesh.tp, "ranks", run->mesh.ranks, "stages", run->stages, "slots",
        run->slots[0] ? run->slots : NULL, "microbatches", run->microbatches, "workers", run->workers, "steps",
        (json_int_t)run->steps);
    int status = path && object ? orri_json_save(path, object)
                                : orri_fail(ORR_ENOMEM, directory, "no room for run.json");

    json_decref(object);
    free(path);
    return status;
}

/* ---- translating ------------------------------------------------------------------------------------------------- */

static int check_complete(const char *directory, int count)
{
    char *path = orri_format("%s/run.json", directory);
    json_t *object = NULL;
    int64_t ranks = count;

    if (!path)
        return ORR_ENOMEM;
    int status = access(path, F_OK) == 0 ? orri_json_load(path, &object) : ORR_OK;
    if (object)
        status = orri_json_int(path, object, "ranks", 1, INT32_MAX, &ranks);
    json_decref(object);
    free(path);
    if (status == 0 && ranks != count)
        return orri_remedy(orri_fail(ORR_EFORMAT, directory, "holds the traces of %d of %lld ranks", count,
                                     (long long)ranks), "gather the prof_file of every rank there");
    return status;
}

/* In the folder, with what it says in the log. */
static int plan_start(posix_spawn_file_actions_t *actions, const char *directory)
{
    int error = posix_spawn_file_actions_addchdir_np(actions, directory);

    if (!error)
        error = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, log_name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    return error ? error : posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, STDERR_FILENO);
}

static int start_tool(const char *directory, char *const argv[], pid_t *pid)
{
    posix_spawn_file_actions_t actions;

    posix_spawn_file_actions_init(&actions);
    int error = plan_start(&actions, directory);
    if (!error)
        error = posix_spawnp(pid, ORR_FXT_TOOL, &actions, NULL, argv, environ);
    if (error == ENOENT)
        error = posix_spawnp(pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == ENOENT)
        return orri_remedy(orri_fail(ORR_ENOENT, argv[0], "is not there"), "put the bin folder of StarPU into PATH");
    return error ? orri_fail(ORR_EIO, argv[0], "cannot be started: %s", strerror(error)) : ORR_OK;
}

static int run_tool(const char *directory, const struct names *traces)
{
    char **argv = orri_calloc((size_t)traces->count + 4, sizeof(*argv));
    int status, ended;
    pid_t pid;

    if (!argv)
        return ORR_ENOMEM;
    argv[0] = "starpu_fxt_tool";
    argv[1] = "-use-task-color";
    argv[2] = "-i";
    memcpy(argv + 3, traces->name, (size_t)traces->count * sizeof(*argv));
    status = start_tool(directory, argv, &pid);
    free(argv);
    if (status != 0)
        return status;
    while (waitpid(pid, &ended, 0) < 0)
        if (errno != EINTR)
            return orri_fail(ORR_EIO, "starpu_fxt_tool", "cannot be waited for: %s", strerror(errno));
    if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0)
        return ORR_OK;
    orri_fail(ORR_EFORMAT, directory, "starpu_fxt_tool cannot read the traces: it ended with %s %d",
              WIFEXITED(ended) ? "status" : "signal", WIFEXITED(ended) ? WEXITSTATUS(ended) : WTERMSIG(ended));
    return orri_remedy(ORR_EFORMAT, "%s/%s says why; a damaged trace has to be recorded again", directory, log_name);
}

int orr_trace_convert(const char *directory)
{
    static const char *const results[] = {"paje.trace", "tasks.rec", "comms.rec", log_name};
    struct names traces;

    ORR_TRY(find_traces(directory, &traces));
    int status = traces.count > 0 ? check_complete(directory, traces.count)
                 : orri_remedy(orri_fail(ORR_ENOENT, directory, "there is no trace (prof_file*) in this folder"),
                               "record one with --trace");
    /* What an earlier call left must not be taken for the result of this one. */
    for (size_t i = 0; i < ORRI_COUNT(results) && status == 0; i++)
        status = remove_file(directory, results[i]);
    if (status == 0)
        status = run_tool(directory, &traces);
    free_names(&traces);
    return status;
}
