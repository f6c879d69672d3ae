/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];
static _Thread_local char remedy[512];
static _Thread_local int last_code;

/* Names that come out of a file may hold anything; the message stays one line. */
static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

const char *orr_error(void)
{
    return message;
}

int orr_error_code(void)
{
    return last_code;
}

const char *orr_error_remedy(void)
{
    return remedy;
}

int orr_error_set(int code, const char *text, const char *what_to_do)
{
    /* Either may be what orr_error() returned. */
    memmove(message, text, strnlen(text, sizeof(message) - 1) + 1);
    memmove(remedy, what_to_do, strnlen(what_to_do, sizeof(remedy) - 1) + 1);
    message[sizeof(message) - 1] = remedy[sizeof(remedy) - 1] = '\0';
    one_line(message);
    one_line(remedy);
    last_code = code;
    return code;
}

int orri_fail(int code, const char *where, const char *format, ...)
{
    char what[768];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    snprintf(message, sizeof(message), "%s: %s", where, what);
    one_line(message);
    remedy[0] = '\0';
    last_code = code;
    return code;
}

int orri_remedy(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(remedy, sizeof(remedy), format, args);
    va_end(args);
    one_line(remedy);
    return code;
}

const char *orr_strerror(int code)
{
    switch (code) {
    case ORR_OK: return "success";
    case ORR_EINVAL: return "bad argument";
    case ORR_EFORMAT: return "bad format";
    case ORR_ENOENT: return "not found";
    case ORR_EIO: return "input/output error";
    case ORR_ENOMEM: return "out of memory";
    case ORR_ENONFINITE: return "non-finite number";
    case ORR_EDEVICE: return "device error";
    case ORR_ENOFIT: return "does not fit";
    case ORR_EINTR: return "interrupted";
    default: return "unknown error";
    }
}
