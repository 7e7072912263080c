/* Counts the calls by which a file changes, and kills the process at one of them: before it, or with half of
 * it done. Loaded with LD_PRELOAD, so that what SQLite does inside a commit is counted as well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#define MOST 4096

static long count, at;
static int armed, torn;
static char kinds[MOST]; /* by number: w for a write */

/* From here on: die at call number `number` (0: never). */
void arm(long number, int half)
{
    count = 0;
    at = number;
    torn = half;
    armed = 1;
}

/* The calls since `arm`, which ends. */
long disarm(void)
{
    armed = 0;
    return count;
}

/* Whether call number `number` of those counted was a write. */
int was_write(long number)
{
    return number < MOST && kinds[number] == 'w';
}

static int is_due(char kind)
{
    if (!armed)
        return 0;
    count++;
    if (count < MOST)
        kinds[count] = kind;
    return count == at;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITING(name, offset_type)                                                  \
    ssize_t name(int file, const void *from, size_t size, offset_type offset)       \
    {                                                                               \
        if (is_due('w')) {                                                          \
            if (torn)                                                               \
                REAL(name)(file, from, size / 2, offset);                           \
            die();                                                                  \
        }                                                                           \
        return REAL(name)(file, from, size, offset);                                \
    }

#define WHOLE(name, parameters, ...)                                                \
    int name parameters                                                             \
    {                                                                               \
        if (is_due('c'))                                                            \
            die();                                                                  \
        return REAL(name)(__VA_ARGS__);                                             \
    }

WRITING(pwrite, off_t)
WRITING(pwrite64, off64_t)
WHOLE(fsync, (int file), file)
WHOLE(fdatasync, (int file), file)
WHOLE(ftruncate, (int file, off_t size), file, size)
WHOLE(ftruncate64, (int file, off64_t size), file, size)
WHOLE(unlink, (const char *path), path)
WHOLE(link, (const char *from, const char *to), from, to)
WHOLE(rename, (const char *from, const char *to), from, to)
