/* SPDX-License-Identifier: Apache-2.0 */
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int countdown, failure;
static bool happened, old_system;

void faults_arm(int nth, int error)
{
    countdown = nth;
    failure = error;
    happened = false;
}

bool faults_disarm(void)
{
    countdown = 0;
    return happened;
}

void faults_old_system(bool old)
{
    old_system = old;
}

static bool fails(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    happened = true;
    errno = failure;
    return true;
}

static bool missing(int error)
{
    if (old_system)
        errno = error;
    return old_system;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    return fails() ? -1 : syscall(SYS_pwrite64, fd, data, bytes, offset);
}

int fsync(int fd)
{
    return fails() ? -1 : (int)syscall(SYS_fsync, fd);
}

int ftruncate(int fd, off_t bytes)
{
    return fails() ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return missing(EOPNOTSUPP) || fails() ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

int rename(const char *from, const char *to)
{
    return fails() ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return missing(ENOSYS) || fails() ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int symlink(const char *target, const char *path)
{
    return fails() ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

int mkdir(const char *path, mode_t mode)
{
    return fails() ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
