/* SPDX-License-Identifier: Apache-2.0 */
/* Files: mapped for reading; written beside, synced and renamed, so that a reader finds the old or the
 * new and never a half.
 *
 * Reading fails with ORR_ENOENT (not there, not readable, not a regular file), writing with ORR_EIO;
 * messages begin with the path. What is being written to PATH is called PATH.tmp until it is whole:
 * one writer at a time per path, and what a killed one left is replaced by the next. A program that
 * wants to see the file size limit as an error (EFBIG) ignores SIGXFSZ. */
#ifndef ORRI_IO_H
#define ORRI_IO_H

#include <stdbool.h>
#include <stddef.h>

/* ---- reading ------------------------------------------------------------------------------------ */

struct orri_map {
    const unsigned char *data;  /* never NULL once open */
    size_t size;
};

/* Maps a regular file read-only. An empty one is an error (ORR_EFORMAT) unless empty_ok. */
int orri_map_open(struct orri_map *map, const char *path, bool empty_ok);

/* Unmaps and zeroes *map; an all-zero map is legal. */
void orri_map_close(struct orri_map *map);

/* ---- writing one file --------------------------------------------------------------------------- */

/* A file that is being written: opened as PATH.tmp. */
struct orri_output {
    char *path, *temp;
    int fd;
    bool joined;                /* the file is another process' */
    _Atomic bool failed;
};

/* A failure of any of these leaves nothing behind, neither PATH.tmp nor a changed PATH, with one
 * exception: where only the last sync of the folder fails, PATH is new and whole. */
int orri_output_open(struct orri_output *out, const char *path);
int orri_output_reserve(struct orri_output *out, size_t bytes);     /* the file is that long, of zeros */
int orri_output_write(struct orri_output *out, size_t offset, const void *data, size_t bytes);   /* any thread */
int orri_output_sync(struct orri_output *out);      /* what was written through *out is on disk */
int orri_output_commit(struct orri_output *out);    /* syncs, renames to PATH, syncs the folder, and ends *out */

/* Opens the PATH.tmp of another process, which has reserved `bytes` bytes, to write ranges of it. What fails here leaves
 * the file to that process, as does the abort that ends *out; the commit is its own, once all who joined have synced. */
int orri_output_join(struct orri_output *out, const char *path, size_t bytes);

/* Closes and removes PATH.tmp; legal after any of the above, twice, and on an all-zero struct. */
void orri_output_abort(struct orri_output *out);

/* Writes a file that is in memory. */
int orri_write_file(const char *path, const void *data, size_t bytes);

/* ---- folders and links -------------------------------------------------------------------------- */

/* Makes a folder and those above it, as far as they are missing. */
int orri_make_folder(const char *path);

/* Removes a file, link or whole folder tree; not following links. What is not there is no error. */
int orri_remove_tree(const char *path);

/* A folder that appears whole: the caller writes files below `temp` (PATH.tmp) between begin and commit. */
struct orri_folder {
    char *path, *temp;
};

/* Whether PATH is not there, or an empty folder, so that a new one takes nothing's place. ORR_EINVAL. */
int orri_folder_check_new(const char *path);

/* Makes an empty PATH.tmp (and the folders above it). */
int orri_folder_begin(struct orri_folder *folder, const char *path);

/* Syncs every file and folder below, renames to PATH, syncs the folder above, and ends *folder. An older
 * PATH is exchanged at once (renameat2) and then removed; a file system that cannot do so, such as NFS,
 * has it as PATH.old for a moment. Failures as for a file. */
int orri_folder_commit(struct orri_folder *folder);

/* Removes PATH.tmp; legal after either of the above, twice, and on an all-zero struct. */
void orri_folder_abort(struct orri_folder *folder);

/* Makes `path` a symbolic link to `target` (text, relative to the link's folder), at once replacing a
 * link or file that is there. Synced. */
int orri_symlink(const char *target, const char *path);

#endif
