/*
 * Lets user-mode Linux run on processors with a large register file (AMX).
 *
 * Preloaded into linux.uml. It sets the floating point and vector registers of its processes from
 * a buffer of a fixed size, and the host's kernel refuses a buffer that is shorter than all of the
 * processor's registers ("ptrace set fp regs failed, errno = 14"). So ask for all of them, replace
 * what linux.uml knows about, and set all. What it does not know about its processes cannot use.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*original)(int request, ...);
static char registers[64 * 1024] __attribute__((aligned(64))); /* today's largest: 11 KiB */

__attribute__((constructor)) static void find_original(void)
{
    original = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
}

static long set_xstate(int pid, void *type, const struct iovec *known)
{
    struct iovec all = {registers, sizeof registers};

    if (known->iov_len > sizeof registers)
        return original(PTRACE_SETREGSET, pid, type, known);
    if (original(PTRACE_GETREGSET, pid, type, &all) < 0)
        return -1;
    memcpy(registers, known->iov_base, known->iov_len < all.iov_len ? known->iov_len : all.iov_len);
    return original(PTRACE_SETREGSET, pid, type, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
        return set_xstate(pid, address, data);
    return original(request, pid, address, data);
}
