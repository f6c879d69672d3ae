/* SPDX-License-Identifier: Apache-2.0 */
#include "io/io.h"

#include "core/core.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ------------------------------------------------------------------------------------ */

static int cannot_open(const char *path)
{
    if (errno == ENOENT)
        return orri_remedy(orri_fail(ORR_ENOENT, path, "no such file"), "check the path");
    return orri_fail(ORR_ENOENT, path, "cannot be opened: %s", strerror(errno));
}

int orri_map_open(struct orri_map *map, const char *path, bool empty_ok)
{
    struct stat st;
    /* Without O_NONBLOCK opening a named pipe would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = 0;

    *map = (struct orri_map){.data = (const unsigned char *)"", .size = 0};
    if (fd < 0)
        return cannot_open(path);
    if (fstat(fd, &st) != 0) {
        rc = cannot_open(path);
    } else if (S_ISDIR(st.st_mode)) {
        rc = orri_remedy(orri_fail(ORR_ENOENT, path, "is a directory"), "name a file in it");
    } else if (!S_ISREG(st.st_mode)) {
        rc = orri_remedy(orri_fail(ORR_ENOENT, path, "is not a regular file"), "copy its contents to a file");
    } else if (st.st_size == 0) {
        if (!empty_ok)
            rc = orri_remedy(orri_fail(ORR_EFORMAT, path, "is empty"), "check how the file was made");
    } else {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            rc = orri_fail(errno == ENOMEM ? ORR_ENOMEM : ORR_EIO, path, "cannot be mapped: %s", strerror(errno));
        else
            *map = (struct orri_map){.data = data, .size = (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void orri_map_close(struct orri_map *map)
{
    if (map->size)
        munmap((void *)map->data, map->size);
    *map = (struct orri_map){0};
}

/* ---- writing one file --------------------------------------------------------------------------- */

/* errno as an error about `path`. */
static int cannot_write(const char *path, const char *what)
{
    int code = orri_fail(ORR_EIO, path, "%s: %s", what, strerror(errno));

    switch (errno) {
    case ENOSPC:
    case EDQUOT:
        return orri_remedy(code, "free some space, or write to another disk");
    case EFBIG:
        return orri_remedy(code, "raise the limit on file sizes (ulimit -f), or use a file system that allows more");
    case EACCES:
    case EPERM:
    case EROFS:
        return orri_remedy(code, "write to a folder that you may change");
    default:
        return code;
    }
}

/* The entry of a new name is on disk once its folder is. */
static int sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *parent = !slash ? orri_strdup(".") : slash == path ? orri_strdup("/") : strndup(path, (size_t)(slash - path));
    int rc = 0;

    if (!parent)
        return orri_fail(ORR_ENOMEM, path, "no room for its name");
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot sync a folder, and say EINVAL. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        rc = cannot_write(parent, "cannot sync the folder");
    if (fd >= 0)
        close(fd);
    free(parent);
    return rc;
}

int orri_output_open(struct orri_output *out, const char *path)
{
    struct stat st;

    *out = (struct orri_output){.fd = -1};
    /* A rename would take the place of a device such as /dev/null, too. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        const char *what = S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file";
        return orri_remedy(orri_fail(ORR_EIO, path, "cannot write: %s", what), "give the name of a file");
    }
    out->path = orri_strdup(path);
    out->temp = orri_format("%s.tmp", path);
    if (!out->path || !out->temp) {
        orri_output_abort(out);
        return ORR_ENOMEM;
    }
    unlink(out->temp);
    out->fd = open(out->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out->fd < 0) {
        int rc = cannot_write(path, "cannot create");
        orri_output_abort(out);
        return rc;
    }
    return 0;
}

int orri_output_join(struct orri_output *out, const char *path, size_t bytes)
{
    struct stat st;
    int rc = 0;

    *out = (struct orri_output){.fd = -1, .joined = true};
    out->path = orri_strdup(path);
    out->temp = orri_format("%s.tmp", path);
    if (!out->path || !out->temp) {
        orri_output_abort(out);
        return ORR_ENOMEM;
    }
    /* Never readable: the client of a network file system fills up pages from what it has read, and would write back
     * old bytes between those of others. */
    out->fd = open(out->temp, O_WRONLY | O_CLOEXEC);
    if (out->fd < 0 || fstat(out->fd, &st) != 0)
        rc = errno == ENOENT ? orri_fail(ORR_EIO, path, "what another process has begun is not seen here")
                             : cannot_write(path, "cannot open what another process has begun");
    else if (st.st_size != (off_t)bytes)
        rc = orri_fail(ORR_EIO, path, "what another process has begun has %lld bytes instead of %zu",
                       (long long)st.st_size, bytes);
    if (rc != 0) {
        orri_remedy(rc, "write to a folder that all processes share");
        orri_output_abort(out);
    }
    return rc;
}

/* The descriptor stays open, for other threads may be writing through it. */
static int output_failed(struct orri_output *out, const char *what)
{
    int rc = cannot_write(out->path, what);

    out->failed = true;
    if (!out->joined)
        unlink(out->temp);
    return rc;
}

int orri_output_reserve(struct orri_output *out, size_t bytes)
{
    /* Where blocks can be reserved a full disk shows now, and not after the first gigabytes. */
    if (fallocate(out->fd, 0, 0, (off_t)bytes) == 0)
        return 0;
    if ((errno == EOPNOTSUPP || errno == ENOSYS) && ftruncate(out->fd, (off_t)bytes) == 0)
        return 0;
    return output_failed(out, "cannot reserve space");
}

int orri_output_write(struct orri_output *out, size_t offset, const void *data, size_t bytes)
{
    const char *from = data;

    if (out->failed)
        return orri_fail(ORR_EIO, out->path, "an earlier write to it failed");
    while (bytes) {
        ssize_t n = pwrite(out->fd, from, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return output_failed(out, "cannot write");
        from += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

int orri_output_sync(struct orri_output *out)
{
    if (out->failed)
        return orri_fail(ORR_EIO, out->path, "an earlier write to it failed");
    return fsync(out->fd) == 0 ? 0 : output_failed(out, "cannot sync");
}

int orri_output_commit(struct orri_output *out)
{
    int rc = orri_output_sync(out);

    if (rc == 0)
        rc = rename(out->temp, out->path) == 0 ? sync_parent(out->path) : output_failed(out, "cannot rename to it");
    if (rc == 0)
        out->failed = true;     /* nothing is left for abort to remove */
    orri_output_abort(out);
    return rc;
}

void orri_output_abort(struct orri_output *out)
{
    if (out->fd >= 0 && out->temp) {
        if (!out->failed && !out->joined)
            unlink(out->temp);
        close(out->fd);
    }
    free(out->path);
    free(out->temp);
    *out = (struct orri_output){.fd = -1};
}

int orri_write_file(const char *path, const void *data, size_t bytes)
{
    struct orri_output out;

    ORR_TRY(orri_output_open(&out, path));
    int rc = orri_output_write(&out, 0, data, bytes);
    if (rc == 0)
        return orri_output_commit(&out);
    orri_output_abort(&out);
    return rc;
}

/* ---- folders and links -------------------------------------------------------------------------- */

int orri_make_folder(const char *path)
{
    struct stat st;
    const char *slash = strrchr(path, '/');

    if (mkdir(path, 0777) == 0)
        return 0;
    if (errno == ENOENT && slash && slash != path) {
        char *above = strndup(path, (size_t)(slash - path));
        if (!above)
            return orri_fail(ORR_ENOMEM, path, "no room for its name");
        int rc = orri_make_folder(above);
        free(above);
        ORR_TRY(rc);
        if (mkdir(path, 0777) == 0)
            return 0;
    }
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return cannot_write(path, "cannot make the folder");
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)st;
    (void)kind;
    (void)place;
    return remove(path) == 0 || errno == ENOENT ? 0 : cannot_write(path, "cannot remove");
}

int orri_remove_tree(const char *path)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : cannot_write(path, "cannot remove");
    int rc = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return rc == -1 ? cannot_write(path, "cannot remove") : rc;
}

static int sync_entry(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)place;
    if (kind == FTW_SL || (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)))
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = 0;
    if (fd < 0 || (fsync(fd) != 0 && !(errno == EINVAL && S_ISDIR(st->st_mode))))
        rc = cannot_write(path, "cannot sync");
    if (fd >= 0)
        close(fd);
    return rc;
}

int orri_folder_check_new(const char *path)
{
    DIR *dir = opendir(path);
    bool empty = dir != NULL;
    struct stat st;

    for (struct dirent *entry; empty && (entry = readdir(dir)) != NULL;)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (dir)
        closedir(dir);
    if (empty || lstat(path, &st) != 0)
        return 0;
    return orri_remedy(orri_fail(ORR_EINVAL, path, "is there already"), "name a new directory");
}

int orri_folder_begin(struct orri_folder *folder, const char *path)
{
    *folder = (struct orri_folder){0};
    folder->path = orri_strdup(path);
    if (!folder->path)
        return ORR_ENOMEM;
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        folder->path[n - 1] = '\0';
    folder->temp = orri_format("%s.tmp", folder->path);
    int rc = folder->temp ? orri_remove_tree(folder->temp) : ORR_ENOMEM;
    if (rc == 0)
        rc = orri_make_folder(folder->temp);
    if (rc != 0)
        orri_folder_abort(folder);
    return rc;
}

/* Swaps the folder `temp` with the folder `path`, which has files in it. */
static int swap_folders(const char *temp, const char *path)
{
    if (renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EXDEV && errno != EOPNOTSUPP)
        return cannot_write(path, "cannot replace");

    char *old = orri_format("%s.old", path);
    int rc = old ? orri_remove_tree(old) : ORR_ENOMEM;
    if (rc == 0 && rename(path, old) != 0) {
        rc = cannot_write(path, "cannot replace");
    } else if (rc == 0 && rename(temp, path) != 0) {
        rc = cannot_write(path, "cannot replace");
        rename(old, path);
    } else if (rc == 0 && rename(old, temp) != 0) {
        rc = orri_remove_tree(old);
    }
    free(old);
    return rc;
}

int orri_folder_commit(struct orri_folder *folder)
{
    int rc = nftw(folder->temp, sync_entry, 16, FTW_DEPTH | FTW_PHYS);

    if (rc == -1)
        rc = cannot_write(folder->temp, "cannot sync");
    if (rc == 0 && rename(folder->temp, folder->path) != 0) {
        if (errno == ENOTEMPTY || errno == EEXIST)
            rc = swap_folders(folder->temp, folder->path);
        else
            rc = cannot_write(folder->path, "cannot rename to it");
    }
    if (rc == 0)
        rc = sync_parent(folder->path);
    if (rc == 0)
        rc = orri_remove_tree(folder->temp);    /* the older folder, if there was one */
    orri_folder_abort(folder);
    return rc;
}

/* The failure that led here is the one to report. */
static int remove_quietly(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)st;
    (void)kind;
    (void)place;
    remove(path);
    return 0;
}

void orri_folder_abort(struct orri_folder *folder)
{
    if (folder->temp)
        nftw(folder->temp, remove_quietly, 16, FTW_DEPTH | FTW_PHYS);
    free(folder->path);
    free(folder->temp);
    *folder = (struct orri_folder){0};
}

int orri_symlink(const char *target, const char *path)
{
    char *temp = orri_format("%s.tmp", path);
    int rc = 0;

    if (!temp)
        return ORR_ENOMEM;
    unlink(temp);
    if (symlink(target, temp) != 0) {
        rc = cannot_write(path, "cannot create");
    } else if (rename(temp, path) != 0) {
        rc = cannot_write(path, "cannot replace");
        unlink(temp);
    }
    free(temp);
    return rc ? rc : sync_parent(path);
}
