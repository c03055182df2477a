/*
 * Records, before `main`, what Rust's runtime is about to change: the signals that the launcher had ignored, because the
 * runtime ignores SIGPIPE; and the closed ones of stdin, stdout and stderr, because the runtime opens the null device in
 * their place. Safe Rust can neither run that early nor ask for the disposition of a signal. `/proc/self/status` would be
 * read too late, and some containers have no `/proc`.
 *
 * The record is an environment variable of this process: two numbers in hexadecimal, the lowest bit for signal 1 and for
 * descriptor 0. `launch.rs` reads it. The helper that becomes the command inherits it, and the command does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define VARIABLE "LEASEHOLD_AT_LAUNCH"

#if defined(__linux__) && !defined(__mips__)
#include <sys/syscall.h>
#include <unistd.h>

/* Larger than the kernel's structure. The handler comes first. */
struct action {
    void (*handler)(int);
    unsigned long rest[15];
};

static int change(int number, const struct action *new, struct action *old)
{
    return syscall(SYS_rt_sigaction, number, new, old, (size_t)8);
}

static int is_ignored(int number)
{
    struct action action = {0};
    return change(number, NULL, &action) == 0 && action.handler == SIG_IGN;
}

/*
 * glibc keeps the signals 32 and 33 for itself, and ignores them in each process that it spawns. Its `sigaction` refuses
 * them, so this calls the kernel. In the helper they become again what they were for `run`.
 */
static void undo_what_glibc_ignores(const char *ignored_before)
{
    unsigned long long before = strtoull(ignored_before, NULL, 16);
    for (int number = 32; number <= 33; number++) {
        struct action by_default = {0};
        if (!(before >> (number - 1) & 1) && is_ignored(number))
            change(number, &by_default, NULL);
    }
}
#else
static int is_ignored(int number)
{
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static void undo_what_glibc_ignores(const char *ignored_before)
{
    (void)ignored_before;
}
#endif

__attribute__((constructor)) static void record(void)
{
    const char *ignored_before = getenv(VARIABLE);
    if (ignored_before)
        undo_what_glibc_ignores(ignored_before);
    unsigned long long ignored = 0;
    for (int number = 1; number <= 64; number++) {
        if (is_ignored(number))
            ignored |= 1ULL << (number - 1);
    }
    unsigned closed = 0;
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        if (fcntl(descriptor, F_GETFL) == -1 && errno == EBADF)
            closed |= 1U << descriptor;
    }
    char text[32];
    snprintf(text, sizeof text, "%llx %x", ignored, closed);
    setenv(VARIABLE, text, 1);
}
