/* Stands before the C library and lets a process fail where it writes to a file: from the FAULT_AT-th write on, either
   the process is killed with half of the bytes written (FAULT=kill) or the disk is full (FAULT=full). How many writes
   there were is said at the end (FAULT_COUNT names the file for it). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long writes;

static long at(void) {
    const char *text = getenv("FAULT_AT");
    return text ? atol(text) : -1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    struct stat status;
    if (fd <= 2 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return real(fd, bytes, count);
    long number = atomic_fetch_add(&writes, 1) + 1;
    const char *fault = getenv("FAULT");
    if (fault && at() > 0 && number >= at()) {
        if (strcmp(fault, "full") == 0) {
            errno = ENOSPC;
            return -1;
        }
        if (count > 1) real(fd, bytes, count / 2);
        kill(getpid(), SIGKILL);
    }
    return real(fd, bytes, count);
}

__attribute__((destructor)) static void say(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%ld", atomic_load(&writes));
    fclose(file);
}
